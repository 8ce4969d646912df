"""What a run will take and cost, from a labelled sample of it."""
