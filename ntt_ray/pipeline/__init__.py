"""The job: manifest, plan and one Ray Data chain. The only place that imports Ray."""
