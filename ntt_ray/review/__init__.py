"""How right the labels are: a reviewed sample, honest intervals, and the way back to references."""
