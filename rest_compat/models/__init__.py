"""The request and response models. Clients rely on their names and types."""
