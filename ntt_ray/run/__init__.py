"""The run that is not lost: plan, the Ray chain, units, shards, journal, lock, status."""
