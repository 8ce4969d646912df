"""Measured speed, and what is needed to measure it."""
