"""The formats of merged files; a profile is a function."""
