"""The GraphQL API: an asynchronous ASGI layer over `flexiroaster.service`."""
