"""Values and transition tables: pipelines, executions, events, commands. Nothing here does I/O."""
