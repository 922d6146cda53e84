"""Executions: start and list them (`executions`), control them (`commands`), follow `events`, read `artifacts`."""
