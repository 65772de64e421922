"""Drift: what is injected is found within one window, what is not is not; windows from the lake."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from evaluators.drift.look import Look, accept, look
from everlearn.errors import NotEnoughEvidence
from everlearn.lake.ducklake import DuckLake, open_lake
from tests.builders import make_service
from tests.evaluators.graders import make_task
from tests.evaluators.traffic import BEGIN, Bend, Row, bring, say

GRADER = {"name": "thumbs", "type": "feedback", "feedback": "thumbs"}


@pytest.fixture
def lake(tmp_path: Path) -> DuckLake:
    return open_lake(make_service(tmp_path))


def seen(lake: DuckLake, tmp_path: Path, **rules: Any) -> Look:
    return look(lake, make_task(tmp_path, GRADER, drift=rules))[0]


def new_topic(chance: random.Random, row: Row) -> Row:
    if chance.random() > 0.2:
        return row
    text = "please plan our holiday near mountains lakes hotels trains museums and restaurants"
    words = text.split()
    chance.shuffle(words)
    return {**row, "messages": json.dumps([{"role": "user", "content": " ".join(words)}])}


def doubled(chance: random.Random, row: Row) -> Row:
    return {**row, "response_text": row["response_text"] * 2}


def dropped(chance: random.Random, row: Row) -> Row:
    return {**row, "metadata": json.dumps({})}


def unused(chance: random.Random, row: Row) -> Row:
    return {**row, "completion_tokens": None}


def refusing(chance: random.Random, row: Row) -> Row:
    text = "I\u2019m sorry, but I cannot help with this request."
    return {**row, "response_text": text} if chance.random() < 0.05 else row


def another_language(chance: random.Random, row: Row) -> Row:
    text = "wie hoch ist die Summe der offenen Rechnungen und was ist mit dem Rest"
    asked = json.dumps([{"role": "user", "content": text}])
    return {**row, "messages": asked} if chance.random() < 0.2 else row


def called(chance: random.Random, row: Row) -> Row:
    return {**row, "tools": json.dumps([{"type": "function", "function": {"name": "f"}}])}


def slower(chance: random.Random, row: Row) -> Row:
    return {**row, "latency_ms": row["latency_ms"] * 1.5}


def cut_short(chance: random.Random, row: Row) -> Row:
    return {**row, "finish_reason": "length"} if chance.random() < 0.1 else row


def garbled(chance: random.Random, row: Row) -> Row:
    return {**row, "messages": "{not json"} if chance.random() < 0.1 else row


@pytest.mark.parametrize(
    ("bend", "metric"),
    [
        (new_topic, "unknown_words"),
        (doubled, "answer_chars"),
        (dropped, "given.metadata.tenant"),
        (unused, "given.completion_tokens"),
        (refusing, "refused"),
        (another_language, "language"),
        (called, "tools_offered"),
        (slower, "latency_ms"),
        (cut_short, "finish_reason"),
        (garbled, "unreadable"),
    ],
)
def test_injected_drift_is_found_within_one_window(
    tmp_path: Path, lake: DuckLake, bend: Bend, metric: str
) -> None:
    bring(lake, 0, 2000)
    bring(lake, 2000, 500, bend)
    found = seen(lake, tmp_path)
    assert metric in found.metrics
    assert found.event == "drift"
    events = lake.read("SELECT event, metrics, reason FROM drift_looks").to_pylist()
    assert [(row["event"], json.loads(row["metrics"])) for row in events] == [
        ("drift", list(found.metrics))
    ]
    assert any(metric in row["reason"] for row in events)
    alarmed = lake.read("SELECT metric FROM drift WHERE alarm").column(0).to_pylist()
    assert set(alarmed) == set(found.metrics)


def test_traffic_as_before_is_quiet_and_the_reference_grows_until_it_is_large(
    tmp_path: Path, lake: DuckLake
) -> None:
    sizes = []
    bring(lake, 0, 500)
    for window in range(1, 6):
        bring(lake, window * 500, 500)
        found = seen(lake, tmp_path)
        assert (found.event, found.metrics, found.look) == ("quiet", (), window)
        sizes.append(found.reference_rows)
    assert sizes == [500, 1000, 1500, 2000, 2000]
    assert found.reference.since < found.reference.until < found.window.since


def test_a_slow_drift_adds_up_because_the_reference_stays(tmp_path: Path, lake: DuckLake) -> None:
    bring(lake, 0, 2000)
    events = []
    for window, by in enumerate((0.02, 0.08, 0.2), start=4):

        def longer(chance: random.Random, row: Row, by: float = by) -> Row:
            text = row["response_text"]
            return {**row, "response_text": text + "x" * round(len(text) * by)}

        bring(lake, window * 500, 500, longer)
        events.append(seen(lake, tmp_path).event)
    assert events[0] == "quiet"
    assert events[-1] in ("drift", "standing")


def test_drift_is_an_event_once_and_again_when_it_ends(tmp_path: Path, lake: DuckLake) -> None:
    bring(lake, 0, 2000)
    events = []
    for window, bend in enumerate([doubled, doubled, None], start=4):
        bring(lake, window * 500, 500, bend)
        events.append(seen(lake, tmp_path).event)
    assert events == ["drift", "standing", "calm"]


def test_what_is_accepted_is_the_new_reference(tmp_path: Path, lake: DuckLake) -> None:
    task = make_task(tmp_path, GRADER)
    with pytest.raises(NotEnoughEvidence, match="nobody has looked yet"):
        accept(lake, task)
    bring(lake, 0, 2000)
    bring(lake, 2000, 500, doubled)
    assert seen(lake, tmp_path).event == "drift"
    assert accept(lake, task) == 1
    bring(lake, 2500, 500, doubled)
    again = seen(lake, tmp_path)
    assert (again.event, again.look) == ("quiet", 2)
    bring(lake, 3000, 500)
    assert "answer_chars" in seen(lake, tmp_path).metrics


def test_feedback_and_scores_are_compared_but_young_answers_are_not_blamed(
    tmp_path: Path, lake: DuckLake
) -> None:
    bring(lake, 0, 2500)
    say(lake, 0, 2000, share=0.4, good=0.9)
    say(lake, 2000, 500, share=0.4, good=0.5)
    scores = [
        {"completion_id": f"cmpl_{at:08d}", "task": "text2sql", "evaluator": "matches",
         "evaluator_version": "1", "value": float(at < 2000 or at % 2), "created_at": BEGIN}
        for at in range(2500)
    ]  # fmt: skip
    lake.commit(lambda transaction: transaction.append("scores", scores))
    found = seen(lake, tmp_path)
    assert {"feedback.thumbs", "score.matches"} <= set(found.metrics)
    assert "feedback" not in found.metrics
    assert any(change.metric == "feedback" for change in found.changes)


def test_feedback_later_than_the_patience_counts_on_neither_side(
    tmp_path: Path, lake: DuckLake
) -> None:
    bring(lake, 0, 2500)
    say(lake, 0, 2000, share=0.4, good=0.9)
    found = seen(lake, tmp_path, feedback_seconds=30)
    assert not any(change.metric.startswith("feedback") for change in found.changes)


def test_a_window_that_is_not_full_spends_nothing(tmp_path: Path, lake: DuckLake) -> None:
    with pytest.raises(NotEnoughEvidence, match="0 of 1000 completions for a reference"):
        seen(lake, tmp_path)
    bring(lake, 0, 1000)
    seen(lake, tmp_path)
    bring(lake, 1000, 499)
    with pytest.raises(NotEnoughEvidence, match="499 of 500 completions since look 1"):
        seen(lake, tmp_path)
    assert lake.read("SELECT max(look) AS look FROM drift_looks")["look"][0].as_py() == 1


def test_shadow_imported_and_candidate_answers_are_no_traffic(
    tmp_path: Path, lake: DuckLake
) -> None:
    bring(lake, 0, 1000)
    for start, fields in enumerate(
        [{"status": "shadow"}, {"status": "imported"}, {"arm": "challenger"}]
    ):
        bring(lake, 2000 + 500 * start, 500, lambda _, row, f=fields: {**row, **f})  # type: ignore[misc]
    assert seen(lake, tmp_path).window.until.isoformat() == "2026-01-01T00:16:39+00:00"


def test_one_row_of_each_user_is_compared(tmp_path: Path, lake: DuckLake) -> None:
    """One user who writes 200 of 500 rows, all of them long, is one voice."""
    bring(lake, 0, 2000)

    def noisy(chance: random.Random, row: Row) -> Row:
        return {**doubled(chance, row), "unit": "loud"} if chance.random() < 0.4 else row

    bring(lake, 2000, 500, noisy)
    found = seen(lake, tmp_path)
    assert found.event == "quiet"
    assert "few users" not in found.reason


def test_few_users_are_told(tmp_path: Path, lake: DuckLake) -> None:
    bring(lake, 0, 1000, lambda chance, row: {**row, "unit": f"user-{chance.randint(0, 9)}"})
    assert "few users" in seen(lake, tmp_path).reason


def test_a_new_version_is_named_beside_the_change(tmp_path: Path, lake: DuckLake) -> None:
    bring(lake, 0, 2000)
    bring(lake, 2000, 500, lambda chance, row: {**doubled(chance, row), "version": "7"})
    assert "answers of version 7 are new" in seen(lake, tmp_path).reason
