"""The engine: decides what runs next (`driver`, `executor`) and runs it in warm processes (`runner`)."""
