"""The memory bank: its file, what it is made of, how it is built, joined and judged."""
