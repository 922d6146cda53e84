"""The service layer: one module per subject, called by the command line, the APIs and the Python client."""
