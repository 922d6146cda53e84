"""Operators: the inputs, transforms, validations and outputs that stages run, looked up in the registry."""
