"""Databases that operators read and write: user databases without FlexiRoaster's tables."""

from __future__ import annotations

import pytest

from tests.unit.operators.output_attempts import Base


@pytest.fixture
def migrated() -> bool:
    return False


@pytest.fixture
def base(database_url):
    made = Base(database_url)
    yield made
    made.engine.dispose()


@pytest.fixture
def postgres(postgres_url):
    made = Base(postgres_url)
    yield made
    made.engine.dispose()
