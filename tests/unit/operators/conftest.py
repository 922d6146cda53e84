"""The databases that operators read and write are somebody's own, without our tables."""

from __future__ import annotations

import pytest


@pytest.fixture
def migrated() -> bool:
    return False
