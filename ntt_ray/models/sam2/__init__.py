"""SAM2: masks from a grid of points, or from boxes. Meta's ``sam2`` module does the network."""
