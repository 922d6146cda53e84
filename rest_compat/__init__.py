"""The REST API that existing clients rely on: a thin FastAPI application over `flexiroaster.service`."""
