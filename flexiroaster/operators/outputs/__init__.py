"""Output operators: each one takes effect once and can undo its effect."""
