"""Options beyond the paper, each off unless asked for, each to its published formula."""
