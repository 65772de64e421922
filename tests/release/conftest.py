"""A world to release in."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from everlearn.rules import ReleaseRules
from tests.release.world import World, make_rules


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds; closed after the test."""
    with ExitStack() as stack:

        def make(rules: ReleaseRules | None = None, seed: int = 0) -> World:
            return stack.enter_context(closing(World(tmp_path, rules or make_rules(), seed=seed)))

        yield make
