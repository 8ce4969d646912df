"""ntt-ray: training-free, reference-based instance segmentation of image collections on Ray."""

__version__ = "0.1.0"
