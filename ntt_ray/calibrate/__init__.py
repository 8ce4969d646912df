"""Score thresholds from the references alone."""
