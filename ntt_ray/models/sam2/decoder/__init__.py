"""SAM2's mask decoder for a whole grid of points, exact and fast; `DECODER.md` derives it."""
