"""Ray itself: joining a cluster, what it has room for, tasks, metrics."""
