"""Pure values and rules: pipelines, executions, events. Nothing here does I/O."""
