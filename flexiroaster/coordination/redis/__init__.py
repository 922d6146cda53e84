"""Redis: the `link` to the `server`, `locks`, `heartbeats` and the `cache`. The database keeps the truth."""
