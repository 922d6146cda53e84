"""The GraphQL API: the asynchronous edge over `flexiroaster.service`."""
