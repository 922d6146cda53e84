"""The safety engine: how likely a run is to fail and why, what is abnormal, and what to do. Tables and numbers only."""
