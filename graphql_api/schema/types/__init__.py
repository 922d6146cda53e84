"""Object types. Most are served from the service's own rows, field by field, without copying them."""
