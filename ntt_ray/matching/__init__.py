"""The method itself: pure functions on tensors. No models, files, config or Ray."""
