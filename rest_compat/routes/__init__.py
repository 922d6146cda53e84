"""The calls of the contract, a module a subject. Each hands on to the service, and writes down what came of it."""
