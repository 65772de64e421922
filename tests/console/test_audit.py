"""The book of changes: nothing lost while the lake is away, nothing twice, nothing left open."""

import time
from pathlib import Path
from typing import Any

import pytest

from console import audit
from console.audit import UNKNOWN, Audit
from everlearn.errors import LakeError
from everlearn.lake.ducklake import open_lake
from tests.builders import make_service


def rows(folder: Path) -> list[dict[str, Any]]:
    lake = open_lake(make_service(folder))
    found: list[dict[str, Any]] = lake.read("SELECT * FROM audit ORDER BY audit_id").to_pylist()
    lake.close()
    return found


def test_a_row_waits_in_the_state_store_while_the_lake_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise LakeError("away")

    book = Audit(make_service(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(audit, "open_lake", away)
        book.told(book.asked("ann", "operator", "POST /x"), outcome="done", status=303)
    assert rows(tmp_path) == []
    book.told(book.asked("bob", "operator", "POST /y"), outcome="done", status=303)
    book.close()
    assert [(row["who"], row["outcome"]) for row in rows(tmp_path)] == [
        ("ann", "done"), ("bob", "done"),
    ]  # fmt: skip


def test_what_was_written_before_a_kill_is_not_written_again(tmp_path: Path) -> None:
    book = Audit(make_service(tmp_path))
    row = book.asked("ann", "operator", "POST /x")
    book.told(row, outcome="done", status=303)
    book.told(row, outcome="done", status=303, asked_at=time.time())  # its removal was lost
    book.close()
    assert len(rows(tmp_path)) == 1


def test_a_change_whose_console_was_killed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Audit(make_service(tmp_path)).asked("ann", "operator", "POST /x")
    book = Audit(make_service(tmp_path))
    book.flush()
    assert rows(tmp_path) == []  # it may still be at it
    monkeypatch.setattr(audit, "ABANDONED_SECONDS", -1.0)
    book.flush()
    book.close()
    assert [(row["who"], row["outcome"]) for row in rows(tmp_path)] == [("ann", UNKNOWN)]
