"""The REST routes, one module per subject. Each calls the service; changes are recorded in the audit log."""
