"""The paper's benchmarks: where their files lie, what is drawn and measured, what was published."""
