"""The completion that feedback is about: found whichever comes first, kept, cheap to read."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector.compact import SMALL_BYTES, compact, maintain
from everlearn.config import LakeConfig
from everlearn.lake import targets
from everlearn.lake.ducklake import DuckLake
from everlearn.lake.schema import feedback_state
from everlearn.lake.transaction import DuckTransaction

T0 = 1_800_000_000.0
DAY = 86_400.0
Row = dict[str, Any]


@pytest.fixture
def lake(tmp_path: Path) -> DuckLake:
    return DuckLake(LakeConfig(), tmp_path)


def answer(completion_id: str, at: float = 0.0, **fields: Any) -> Row:
    return {"completion_id": completion_id, "received_at": T0 + at, "status": "ok", **fields}


def said(feedback_id: str, at: float = 10.0, **fields: Any) -> Row:
    return {"feedback_id": feedback_id, "received_at": T0 + at, "kind": "binary", **fields}


def write(lake: DuckLake, *rows: Row, together: bool = True) -> None:
    """Append in the order given, in one transaction or in one each."""
    for part in [rows] if together else [[row] for row in rows]:

        def work(transaction: DuckTransaction, part: Any = part) -> None:
            for row in part:
                table = "feedback" if "feedback_id" in row else "completions"
                transaction.append(table, [row])

        lake.commit(work)


def found(lake: DuckLake) -> dict[str, tuple[str | None, str | None, bool]]:
    rows = lake.read("SELECT feedback_id, target, task, ambiguous FROM feedback").to_pylist()
    return {row["feedback_id"]: (row["target"], row["task"], row["ambiguous"]) for row in rows}


def waiting(lake: DuckLake) -> set[str]:
    return set(lake.read("SELECT feedback_id FROM feedback_open").column(0).to_pylist())


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("first", ["answer", "feedback"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {"completion_id": "c"}),
        ({"upstream_id": "chatcmpl-1"}, {"completion_id": "chatcmpl-1"}),
        ({"request_id": "mine"}, {"request_id": "mine"}),
        ({"conversation_id": "talk"}, {"conversation_id": "talk"}),
    ],
    ids=["our id", "upstream id", "request id", "conversation id"],
)
def test_feedback_finds_its_completion_whichever_came_first(
    lake: DuckLake, together: bool, first: str, theirs: Row, ours: Row
) -> None:
    rows = [answer("c", task="t", **theirs), said("f", **ours)]
    write(lake, *(rows if first == "answer" else rows[::-1]), together=together)
    assert found(lake) == {"f": ("c", "t", False)}


def test_one_name_is_held_against_every_name_of_a_completion(lake: DuckLake) -> None:
    named: list[Row] = [
        {"completion_id": "ours"}, {"completion_id": "a", "upstream_id": "theirs"},
        {"completion_id": "b", "request_id": "mine"},
        {"completion_id": "c", "upstream_id": "both", "request_id": "both"},
        {"completion_id": "d", "upstream_id": "two"}, {"completion_id": "e", "request_id": "two"},
    ]  # fmt: skip
    names = ["ours", "theirs", "mine", "both", "two"]
    write(lake, *(answer(**row) for row in named))
    write(lake, *(said(f"f-{name}", completion_id=name, request_id=name) for name in names))
    assert {name: found(lake)[f"f-{name}"][::2] for name in names} == {
        "ours": ("ours", False), "theirs": ("a", False), "mine": ("b", False),
        "both": ("c", False), "two": ("d", True),
    }  # fmt: skip


def test_the_latest_answer_before_it_is_meant_and_a_name_borne_twice_is_ambiguous(
    lake: DuckLake,
) -> None:
    for number, at in enumerate([0.0, 5.0, 20.0]):
        write(lake, answer(f"c{number}", at, request_id="again", conversation_id="talk"))
    write(lake, said("f", request_id="again"), said("g", conversation_id="talk"))
    assert found(lake) == {"f": ("c1", None, True), "g": ("c1", None, False)}


def test_an_answer_that_was_under_way_is_meant_once_it_comes(lake: DuckLake) -> None:
    write(lake, answer("c", 0.0, request_id="r"), said("f", request_id="r"))
    assert found(lake) == {"f": ("c", None, False)}
    write(lake, answer("slow", 5.0, request_id="r"))
    assert found(lake) == {"f": ("slow", None, True)}


@pytest.mark.parametrize("status", ["shadow", "rejected"])
def test_what_no_user_saw_is_meant_only_by_our_own_id(lake: DuckLake, status: str) -> None:
    hidden = {**answer("hidden", request_id="r"), "status": status}
    write(lake, hidden, said("f", request_id="r"), said("g", completion_id="hidden"))
    assert found(lake) == {"f": (None, None, False), "g": ("hidden", None, False)}


def test_nobody_waits_who_named_our_id_or_nothing(lake: DuckLake) -> None:
    write(lake, answer("c"), said("f", completion_id="c"), said("nameless"))
    assert waiting(lake) == set()
    write(lake, said("orphan", completion_id="later"))
    assert waiting(lake) == {"orphan"}
    write(lake, answer("other"))
    assert waiting(lake) == {"orphan"}
    write(lake, answer("later"))
    assert waiting(lake) == set()


def test_an_answer_of_long_ago_is_found_by_a_look_at_everything(
    lake: DuckLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lake, answer("old", -30 * DAY, request_id="r"))
    monkeypatch.setattr(targets, "SHARE", 1e9)
    write(lake, said("first", request_id="unheard of"))
    write(lake, said("f", request_id="r"))
    assert found(lake)["f"][0] is None
    assert lake.find_targets() == 2
    assert found(lake)["f"][0] == "old"


def test_what_nobody_answered_is_looked_for_twice_and_then_only_by_name(lake: DuckLake) -> None:
    write(lake, *(said(f"f{number}", completion_id=f"no{number}") for number in range(30)))
    looks = [lake.find_targets() for _ in range(3)]
    assert looks == [30, 0, 0]
    write(lake, answer("no7"))
    assert found(lake)["f7"][0] == "no7"


def test_a_lake_from_before_is_looked_through_once(
    lake: DuckLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lake, answer("c", task="t"))
    write(lake, *(said(f"f{number}", completion_id="c") for number in range(5)))
    for name in ("target", "task", "ambiguous"):
        sql = f"ALTER TABLE feedback DROP COLUMN {name}"
        lake.commit(partial(DuckTransaction.run, sql=sql))
    lake.close()
    monkeypatch.setattr(targets, "BATCH", 2)
    for _ in range(2):
        again = DuckLake(LakeConfig(), tmp_path)
        maintain(again, keep_hours=24.0)
        assert found(again) == {f"f{number}": ("c", "t", False) for number in range(5)}
        assert waiting(again) == set()


def test_targets_survive_compaction(lake: DuckLake) -> None:
    for number in range(8):
        write(lake, said(f"f{number}", completion_id=f"c{number}"))
    assert compact(lake, SMALL_BYTES)
    for number in range(8):
        write(lake, answer(f"c{number}"))
    assert compact(lake, SMALL_BYTES)
    assert {name: row[0] for name, row in found(lake).items()} == {
        f"f{number}": f"c{number}" for number in range(8)
    }
    assert lake.read("SELECT count(*) AS n FROM feedback_joined")["n"].to_pylist() == [8]


def test_one_rule_for_all_feedback_and_for_some(lake: DuckLake) -> None:
    write(lake, answer("a"), answer("b"))
    write(lake, said("1", completion_id="a", name="thumbs", author="end_user", author_id="u"))
    write(lake, said("2", 11.0, completion_id="a", name="thumbs", author="end_user", author_id="u"))
    write(lake, said("3", 12.0, completion_id="b", name="thumbs", author="end_user", author_id="u"))
    every = "SELECT feedback_id, state FROM feedback_state WHERE target = 'a' ORDER BY ALL"
    some = feedback_state("(SELECT * FROM feedback WHERE target = 'a')")
    rows = lake.read(every).to_pylist()
    assert rows == [
        {"feedback_id": "1", "state": "superseded"},
        {"feedback_id": "2", "state": "joined"},
    ]
    assert lake.read(f"SELECT feedback_id, state FROM ({some}) ORDER BY ALL").to_pylist() == rows
