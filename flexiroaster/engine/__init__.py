"""The engine: schedules stages (`driver`, `executor`) and runs them in a pool of worker processes (`runner`)."""
