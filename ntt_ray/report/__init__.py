"""The report of a run: what its shards hold, as one page that needs no network."""
