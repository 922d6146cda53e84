"""GraphQL over `http`, `websocket` (graphql-transport-ws) and `sse` (graphql-sse), from the same `requests`."""
