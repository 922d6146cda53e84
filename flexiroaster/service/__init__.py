"""The use cases, a module a subject: all that the command line, the APIs and the client call."""
