"""The day in the life: what the words mean, and what counts as having held."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import load
from everlearn.task import load_tasks
from examples.text2sql.database import Orders
from examples.text2sql.day import outcome
from examples.text2sql.day.outcome import Day, Look
from examples.text2sql.day.run import FIRST, PLAN, SECOND, TASKS
from examples.text2sql.language import questions, redefined
from examples.text2sql.traffic import Record

CONFIG = Path(outcome.__file__).parent / "everlearn.yaml"
WHOLE = {"acknowledged": 9, "stored": 9, "missing": 0, "duplicates": 0}


def event(second: float, version: str, name: str, percent: float = 100.0) -> dict[str, Any]:
    return {
        "second": second, "version": version, "event": name, "percent": percent, "reason": "because"
    }  # fmt: skip


def answers(version: str, second: float, right: int, wrong: int) -> list[Record]:
    blank = Record("u", "jargon", "q", False, second, finished_at=second, version=version)
    return [replace(blank, correct=index < right) for index in range(right + wrong)]


@pytest.fixture
def day() -> Day:
    """One on which all went well."""
    seconds = (60, PLAN.first_drift - 60, PLAN.first_drift + 60, PLAN.second_drift - 60,
        PLAN.second_drift + 60, PLAN.end - 60)  # fmt: skip
    looks = [
        Look(second, task, right)
        for second, right in zip(seconds, (0.5, 0.97, 0.6, 0.96, 0.5, 0.99), strict=True)
        for task in TASKS
    ]
    events = {task: [event(300, "1", "started", 5), event(500, "1", "promoted")] for task in TASKS}
    events["reports"] += [event(600, "2", "started", 5)]
    events["text2sql"] += [event(600, "2", "started", 5), event(650, "2", "rolled_back", 0)]
    records = {task: answers("base", 400, 5, 5) + answers("1", 400, 9, 1) for task in TASKS}
    return Day(
        0.0,
        tuple(TASKS),
        looks,
        [(660, "drift", "words")],
        events,
        records,
        WHOLE,
        ("text2sql", "2"),
        1,
    )


def failing(day: Day) -> list[str]:
    return [row.what for row in outcome.table(day, PLAN) if not row.ok]


def test_a_word_that_is_redefined_means_its_decoy_and_others_what_they_did() -> None:
    orders, seen = Orders(), set()
    for question in islice(questions("jargon", "kept", 0), 200):
        now = redefined(question, FIRST)
        assert (now.sql, now.decoy) == (
            (question.decoy, question.sql)
            if question.term in FIRST
            else (question.sql, question.decoy)
        )
        assert now.text == question.text
        assert orders.rows(now.sql) is not None
        seen.add(question.term in FIRST)
    assert seen == {True, False}
    assert FIRST < SECOND


def test_the_files_of_the_day_declare_its_tasks_alike() -> None:
    service = load(CONFIG)
    tasks = load_tasks(service)
    assert set(tasks) == set(TASKS)
    first, second = (task.model_dump(exclude={"task"}) for task in tasks.values())
    assert first == second
    assert service.model_server.served_model_name == tasks["text2sql"].base_name


def test_a_day_on_which_all_went_well_held(day: Day) -> None:
    assert failing(day) == []
    assert "13 min, 10 min, 11 min" in outcome.text(outcome.table(day, PLAN))


def test_a_drift_that_is_not_learned_again_is_told(day: Day) -> None:
    day.looks = [look for look in day.looks if look.task == "reports" or look.right < 0.99]
    assert failing(day) == [next(what for what in failing(day) if what.startswith("text2sql"))]


def test_a_worse_version_and_a_spoiled_one_are_bad_promotions(day: Day) -> None:
    day.records["reports"] = answers("base", 400, 9, 1) + answers("1", 400, 8, 2)
    assert outcome.bad_promotions(day) == [("reports", "1")]
    day.events["text2sql"][-1]["event"] = "promoted"
    assert ("text2sql", "2") in outcome.bad_promotions(day)
    assert any("spoiled" in what for what in failing(day))


@pytest.mark.parametrize(
    ("failed", "held"), [(0, True), (1, True), (2, False)], ids=["none", "one in 1000", "two"]
)
def test_a_failed_request_in_a_thousand_is_all_that_a_user_bears(
    day: Day, failed: int, held: bool
) -> None:
    usual = answers("1", 900, 1000, 0)
    day.records["text2sql"] = [
        replace(record, error="refused") if index < failed else record
        for index, record in enumerate(usual)
    ]
    day.records["reports"] = []
    assert (failing(day) == []) is held


def test_an_event_that_is_missing_or_doubled_is_told(day: Day) -> None:
    for key in ("missing", "duplicates"):
        day.capture = {**WHOLE, key: 1}
        assert failing(day) == ["events acknowledged, stored, missing, doubled"]


def test_the_page_shows_table_picture_and_story(day: Day, tmp_path: Path) -> None:
    page = tmp_path / "day.html"
    outcome.write(day, PLAN, outcome.table(day, PLAN), page)
    text = page.read_text()
    assert text.count("<svg") == 1
    for shown in ("jargon right", "minutes since the first user", "reports", "11:00", "0 worse"):
        assert shown in text
