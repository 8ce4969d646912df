"""The paper's benchmarks: their files, what is sampled and measured, what was published."""
