"""The method: pure functions on tensors, in the paper's order; `METHOD.md` specifies them."""
