"""Input operators: each one produces a table and takes no input table."""
