"""Object types. Most are resolved directly from the service's rows, without copying them."""
