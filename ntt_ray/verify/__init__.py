"""Whether an output is whole."""
