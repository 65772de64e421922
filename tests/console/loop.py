"""A small loop in a lake: answers of two versions, feedback, scores, a dataset, a release,
looks for drift."""

import json
from typing import Any

from tests.evaluators.lake import START, Rows

RELEASE, SNAPSHOT = "rel_1", "snap_1"
COUNTS = {"train": {"accepted": 300}, "gate": {"expert": 5}, "dropped": {"duplicate": 7}}


def fill(rows: Rows) -> None:
    """Twelve answers to six prompts and what came of them."""
    for n in range(6):
        first = rows.answered(f"q{n}", "SELECT 1", version="1", unit=f"u{n}", latency_ms=10.0)
        second = rows.answered(
            f"q{n}", "SELECT 2", version="2", arm="challenger", probability=0.5, unit=f"v{n}",
            latency_ms=20.0,
        )  # fmt: skip
        for answer, value in ((first, 0.0), (second, 1.0)):
            rows.said(answer, author="expert", author_id="ann", value_bool=bool(value))
            add(
                rows, "scores", completion_id=answer, task="text2sql", evaluator="same",
                evaluator_version="v", value=value, context="x", created_at=START.timestamp() + 99,
            )  # fmt: skip
    comment = rows.said(first, kind="comment", value_text="too <long>", author_id="bob")
    rows.said("cmpl_nobody", author_id="eve")
    add(
        rows, "comments", feedback_id=comment, task="text2sql", completion_id=first, sort="rule",
        state="teaching", why="lift 0.2", created_at=START,
    )  # fmt: skip
    _dataset(rows, first)
    _release(rows)
    _looks(rows)


def _looks(rows: Rows) -> None:
    for look, event, shift in ((1, "quiet", 0.01), (2, "drift", 0.4)):
        add(
            rows, "drift_looks", task="text2sql", look=look, event=event, window_rows=500,
            reason="prompt_chars moved", window_until=START, created_at=START,
        )  # fmt: skip
        for metric in ("prompt_chars", "json"):
            add(
                rows, "drift", task="text2sql", look=look, metric=metric, kind="number",
                before=20.0, now=41.5, shift=shift, p_value=1e-9, created_at=START,
                alarm=metric == "prompt_chars" and look == 2,
            )  # fmt: skip


def _dataset(rows: Rows, completion_id: str) -> None:
    add(
        rows, "snapshots", snapshot_id=SNAPSHOT, task="text2sql", lake_snapshot=3, query="q",
        content_hash="a" * 64, counts=json.dumps(COUNTS), created_at=START,
    )  # fmt: skip
    add(
        rows, "snapshot_rows", snapshot_id=SNAPSHOT, completion_id=completion_id, unit="u1",
        split="train", kind="accepted", completion="SELECT 1", author="expert", weight=1.0,
    )  # fmt: skip


def _release(rows: Rows) -> None:
    now = START.timestamp() + 100
    metric = {
        "units": 20, "candidates": 10, "mean_candidate": 1.0, "mean_champion": 0.5,
        "promote_log_e": 2.0, "harm_log_e": 0.0, "effect_95": [0.075, 0.3],
    }  # fmt: skip
    for n, (event, phase, percent) in enumerate(
        [("started", "loading", 0.0), ("step", "ramping", 50.0), ("promoted", "promoted", 100.0)]
    ):
        add(
            rows, "releases", release_id=RELEASE, task="text2sql", version="2", event=event,
            phase=phase, stage=n, percent=percent, reason="promote e-value 9 >= 2",
            evidence=json.dumps({"same": metric} if n else {}), created_at=now + 60 * n,
        )  # fmt: skip
    for position in range(20):
        add(
            rows, "release_units", release_id=RELEASE, metric="same", unit=f"u{position}", stage=0,
            position=position, treated=position % 2 == 0, propensity=0.5,
            value=float(position % 3 == 0), closed_at=now + position,
        )  # fmt: skip


def add(rows: Rows, table: str, **row: Any) -> None:
    """One row."""
    rows.lake.commit(lambda transaction: transaction.append(table, [row]))
