"""How right the labels are, against ground truth."""
