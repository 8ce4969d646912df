"""The bundled example: scenes with ground truth, references, and small trained weights."""
