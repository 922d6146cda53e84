"""What stages do with data: one module an operator (or a few that share one idea), found through the registry."""
