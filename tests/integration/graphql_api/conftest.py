from __future__ import annotations

from collections.abc import Iterator

import pytest

from flexiroaster.config import load_settings
from tests.integration.graphql_api.running import Api, serving
from tests.unit.graphql_api.small_schema import schema


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server over the small schema, without tokens and without an executor; tests leave it as it was."""
    url = f"sqlite:///{tmp_path_factory.mktemp('api') / 'api.db'}"
    with serving(load_settings(database_url=url, cors_origins=(), debug=False), schema) as running:
        yield running
