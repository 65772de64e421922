"""What the release controller tells MLflow: nothing waits behind a version that is gone."""

from contextlib import closing

import pytest

from everlearn.state import open_state
from gateway.routes import ArmRoute
from serving.release.book import Book
from serving.release.states import Note, Traffic
from tests.registry.conftest import Shelf


def state_note(name: str, version: str) -> Note:
    return Note(kind="state", name=name, version=version, reason="why")


def test_a_version_that_was_deleted_by_hand_holds_no_later_note_back(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    gone, kept = shelf.put("a" * 16), shelf.put("b" * 16)
    shelf.registry.client.delete_model_version(shelf.task, gone.version)
    notes = (
        state_note("gated", gone.version),
        Note(kind="alias", name="challenger", version=gone.version),
        state_note("gated", kept.version),
        Note(kind="alias", name="challenger", version=kept.version),
        Note(kind="alias", name="champion", version="base"),
    )
    traffic = Traffic(champion=ArmRoute(version="base", model="base-model"), notes=notes)
    with closing(open_state(shelf.service)) as state:
        book = Book(state)
        book.write(shelf.task, traffic)
        book.tell_registry(shelf.task, lambda: shelf.registry)
        found = book.traffic(shelf.task)
    assert found is not None
    assert found.notes == ()
    assert shelf.registry.aliases(shelf.task) == {"challenger": kept.version, "champion": "base"}
    assert shelf.registry.get(shelf.task, kept.version).state == "gated"
    assert caplog.text.count(f"version {gone.version} is gone from the registry") == 2
