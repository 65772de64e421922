"""A tally that goes on from the one before it says what counting everything says."""

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from collector.compact import SMALL_BYTES, compact, maintain
from collector.tally import MARK, joined, keep, tally
from everlearn.config import LakeConfig
from everlearn.lake.ducklake import DuckLake
from everlearn.lake.progress import Mark, read_mark, write_mark
from everlearn.lake.transaction import DuckTransaction

T0 = 1_800_000_000.0
Row = dict[str, Any]


@pytest.fixture
def lake(tmp_path: Path) -> DuckLake:
    return DuckLake(LakeConfig(), tmp_path)


def write(lake: DuckLake, tables: dict[str, list[Row]]) -> None:
    def work(transaction: DuckTransaction) -> None:
        for table, rows in tables.items():
            transaction.append(table, rows)

    lake.commit(work)


def counted(lake: DuckLake) -> dict[str, Any]:
    """The tally without what came to nothing."""
    found = asdict(tally(lake))
    del found["snapshot"]
    found["states"] = {name: row for name, row in found["states"].items() if any(row)}
    found["scores"] = {
        key: (scored, unscored, round(total, 9))
        for key, (scored, unscored, total) in found["scores"].items()
        if scored or unscored
    }
    return found


def forget(lake: DuckLake) -> None:
    lake.commit(lambda transaction: transaction.query("DELETE FROM progress"))


def some(dice: random.Random, step: int) -> dict[str, list[Row]]:
    """A batch of anything: late, doubled, ambiguous, taken back, scored again."""
    names = [f"c{dice.randrange(40):02}" for _ in range(dice.randrange(1, 6))]
    shared = {"author": "end_user", "author_id": dice.choice("uv"), "name": "thumbs"}
    return {
        "completions": [
            {"completion_id": name, "request_id": f"r{dice.randrange(8)}", "status": "ok"}
            | {"received_at": T0 + step, "gateway_id": "gw", "seq": dice.randrange(1, 60)}
            for name in names
        ],
        "feedback": [
            {**shared, "feedback_id": f"f{step}-{number}", "received_at": T0 + step + 0.5}
            | dice.choice(
                [{"completion_id": f"c{dice.randrange(40):02}"}, {"request_id": dice.choice("r")}]
            )
            | {"kind": dice.choice(["binary", "binary", "retraction"]), "value_bool": True}
            | {"gateway_id": "gw", "seq": 1000 + 10 * step + number}
            for number in range(dice.randrange(3))
        ],
        "scores": [
            {"completion_id": name, "task": "t", "evaluator": "e", "evaluator_version": "1"}
            | {"value": dice.choice([None, 0.5, 1.0]), "created_at": T0 + step}
            for name in names
        ],
        "dead_letters": [{"gateway_id": "gw", "seq": 5000 + 2 * step, "raw": b"?"}],
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_tally_that_goes_on_says_what_counting_everything_says(lake: DuckLake, seed: int) -> None:
    dice = random.Random(seed)
    for step in range(8):
        write(lake, some(dice, step))
        if step in (0, 3):
            keep(lake)
        if step == 4:
            compact(lake, SMALL_BYTES)
        if step == 5:
            lake.find_targets()
    went_on = counted(lake)
    forget(lake)
    assert went_on == counted(lake)
    assert went_on["states"]


def test_a_row_that_is_stored_again_much_later_shows_as_a_double(lake: DuckLake) -> None:
    rows = [{"completion_id": f"c{n}", "gateway_id": "gw", "seq": n} for n in range(1, 50)]
    write(lake, {"completions": rows})
    keep(lake)
    write(lake, {"completions": [rows[3], {**rows[3], "seq": 60}]})
    gateway = tally(lake).gateways["gw"]
    assert (gateway.rows, gateway.stored, gateway.highest) == (51, 50, 60)
    assert gateway.spans == [(1, 49), (60, 60)]


def test_feedback_that_is_mended_is_one_row(lake: DuckLake) -> None:
    said = {"feedback_id": "f", "completion_id": "c", "gateway_id": "gw", "seq": 1}
    write(lake, {"feedback": [{**said, "received_at": T0}]})
    keep(lake)
    write(lake, {"completions": [{"completion_id": "c", "gateway_id": "gw", "seq": 2}]})
    found = tally(lake)
    assert found.gateways["gw"].rows == 2
    assert {name: n for name, (n, _) in found.states.items() if n} == {"joined": 1}


def test_a_snapshot_that_has_expired_costs_a_count_and_no_row(lake: DuckLake) -> None:
    write(lake, {"completions": [{"completion_id": "a", "gateway_id": "gw", "seq": 1}]})
    keep(lake)
    old = read_mark(lake, MARK)
    assert old is not None
    for number in range(2, 30):
        row = {"completion_id": "a", "gateway_id": "gw", "seq": number}
        write(lake, {"completions": [row]})
    maintain(lake, keep_hours=0.0)
    lake.commit(lambda transaction: transaction.query("DELETE FROM progress"))
    write_mark(lake, MARK, Mark(old.snapshot, old.document))
    assert tally(lake).gateways["gw"].rows == 29


@pytest.mark.parametrize(
    ("spans", "result"),
    [
        ([], []),
        ([(5, 9), (1, 4)], [(1, 9)]),
        ([(1, 3), (5, 5)], [(1, 3), (5, 5)]),
        ([(1, 9), (3, 4)], [(1, 9)]),
    ],
)
def test_spans_are_as_few_as_can_be(
    spans: list[tuple[int, int]], result: list[tuple[int, int]]
) -> None:
    assert joined(spans) == result
