"""Where classes come from: annotated references, checked before anything is spent on them."""
