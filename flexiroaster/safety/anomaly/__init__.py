"""What is abnormal while a run is in progress: `alarms` about bursts, late or odd `stages`, and the `watch`."""
