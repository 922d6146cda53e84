"""What is abnormal while a run is in progress: `lateness`, `alarms` about bursts, `stages`, and the `watch`."""
