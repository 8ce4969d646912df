"""How good the labels are: evaluation against ground truth, reports."""
