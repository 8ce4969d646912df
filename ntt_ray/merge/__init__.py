"""Shards to files that other tools load."""
