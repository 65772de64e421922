"""Fixtures of these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.evaluators.lake import Rows


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    """A lake of this test's own."""
    made = Rows(tmp_path)
    yield made
    made.lake.close()
