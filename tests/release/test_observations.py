"""What a unit counts for: the same failure on both arms alike, and what an answer cost."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.lake.ducklake import DuckLake, open_lake
from serving.release.observations import (
    Metric,
    Reference,
    Window,
    answer_seconds,
    closed_units,
    metric,
    reference,
    worth,
)
from serving.release.states import Rate
from tests.builders import make_service
from tests.everlearn.test_coverage import SHORT, THUMBS, make_task
from tests.release.world import make_release, make_rules

T = 1_800_000_000.0
DEAR, CHEAP = Rate(5e-6, 15e-6, 0.0), Rate(0.0, 0.0, 1e-7)
RELEASE = make_release(
    release_id="rel_1",
    prices={"champion": DEAR, "challenger": CHEAP},
    cost_mean=0.01,
    latency_mean_ms=100.0,
    latency_reference_ms=100.0,
    latency_ratio=1.5,
)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[DuckLake]:
    with_it = open_lake(make_service(tmp_path))
    yield with_it
    with_it.close()


def row(unit: str, arm: str | None, **overrides: Any) -> dict[str, Any]:
    share = 0.25
    assigned = overrides.get("fallback_from") or arm
    return {
        "completion_id": f"cmpl_{random.random()}",
        "task": "text2sql",
        "unit": unit,
        "arm": arm,
        "probability": share if assigned == "challenger" else 1 - share,
        "release": "rel_1",
        "stage": 0,
        "version": "base",
        "received_at": T + 1,
        "latency_ms": 50.0,
        "status": "ok",
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        **overrides,
    }


def units(lake: DuckLake, name: str, rows: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    lake.commit(lambda transaction: transaction.append("completions", rows))
    window = Window(T + 60, T)
    found = closed_units(lake, "text2sql", RELEASE, Metric(name, 30.0, 30.0), window)
    return {each["unit"]: (each["arm"], each["share"], each["value"]) for each in found}


@pytest.mark.parametrize("order", range(4))
def test_a_failure_that_somebody_elses_answer_hid_counts_the_same_on_both_arms(
    lake: DuckLake, order: int
) -> None:
    """Rescued by another upstream (another model there is no arm), or by the champion, or by the
    upstream after both failed; each user has one failure and one good answer."""
    failed = {"status": "upstream_error", "http_status": 502}
    rows = [
        row("champion, rescued", None, fallback_from="champion"),
        row("champion, rescued under its name", "champion", fallback_from="champion"),
        row("champion, nobody helped", "champion", **failed),
        row("challenger, rescued", "challenger", **failed),
        row("challenger, rescued", "champion", fallback_from="challenger"),
        row("both failed", "challenger", **failed),
        row("both failed", None, fallback_from="challenger"),
    ]
    rows += [
        row(unit, "champion" if unit.startswith("champion") else "challenger", received_at=T + 2)
        for unit in dict.fromkeys(each["unit"] for each in rows)
    ]
    random.Random(order).shuffle(rows)
    assert units(lake, "error_rate", rows) == {
        "champion, rescued": ("champion", 0.25, 0.5),
        "champion, rescued under its name": ("champion", 0.25, 0.5),
        "champion, nobody helped": ("champion", 0.25, 0.5),
        "challenger, rescued": ("challenger", 0.25, 0.5),
        "both failed": ("challenger", 0.25, 0.5),
    }


def test_an_answer_costs_what_its_arms_upstream_asks(lake: DuckLake) -> None:
    """0.0065 and 0.000005, against a mean of 0.01 before: 0.5 is as dear, 1 is free."""
    rows = [
        row("dear", "champion"),
        row("cheap", "challenger"),
        row("no count of tokens", "champion", completion_tokens=None),
        row("no count needed", "challenger", completion_tokens=None),
        row("somebody else answered", "champion", fallback_from="challenger"),
        row("ten times as dear", "champion", prompt_tokens=10_000),
    ]
    found = {unit: value for unit, (_, _, value) in units(lake, "cost", rows).items()}
    assert found == {
        "dear": pytest.approx(1 - 0.0065 / 0.02),
        "cheap": pytest.approx(1 - 0.000005 / 0.02),
        "no count of tokens": None,
        "no count needed": pytest.approx(1 - 0.000005 / 0.02),
        "somebody else answered": None,
        "ten times as dear": 0.0,
    }
    told = worth(lake, "text2sql", RELEASE)
    assert told["challenger"] == {
        "answers": 2,
        "cost": pytest.approx(0.000005),
        "seconds": pytest.approx(0.05),
    }
    assert told["champion"]["cost"] == pytest.approx((0.0065 + 0.0515) / 2)


@pytest.mark.parametrize("age", [0.0, 5.0])
def test_both_arms_close_at_one_age_however_long_their_answers_take(
    lake: DuckLake, age: float
) -> None:
    """The candidate takes 4 s: its row comes into the lake when it is done."""
    quick = [row(f"quick {n}", "champion", received_at=T + n) for n in range(3)]
    slow = [row(f"slow {n}", "challenger", received_at=T + n + 0.5) for n in range(3)]
    late = row("late", "challenger", received_at=T, latency_ms=9000.0, status="timeout")
    wanted = Metric("error_rate", age)

    def due(now: float, rows: list[dict[str, Any]]) -> list[str]:
        if rows:
            lake.commit(lambda transaction: transaction.append("completions", rows))
        found = closed_units(lake, "text2sql", RELEASE, wanted, Window(now, T))
        return [each["unit"] for each in found]

    expected = ["quick 0", "quick 1", "quick 2"] if age == 0 else []
    assert due(T + 3, quick) == expected
    both = ["quick 0", "slow 0", "quick 1", "slow 1", "quick 2", "slow 2"]
    assert due(T + 8, slow) == both
    assert due(T + 9, [late]) == ["late", *both]


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_arms_users_get_as_many_questions_in_as_a_quick_arms(
    lake: DuckLake, seed: int
) -> None:
    """The same people ask the same things in a row; one version is up to 30 times slower."""
    dice = random.Random(seed)
    wanted, rows, expected = Metric("thumbs", 60.0, 10.0), [], {}
    for person in range(20):
        pauses = [dice.choice([0.0, 0.1, 2.0, 4.0, 11.0]) for _ in range(2)]
        asked = 1 + (pauses[0] <= 10) + (sum(pauses) <= 10)
        for arm, latency in (("champion", 0.3), ("challenger", dice.uniform(0.3, 9.0))):
            at, unit = T + dice.uniform(0, 5), f"{person} {arm}"
            expected[unit] = asked
            for pause in (0.0, *pauses):
                at += pause
                rows.append(row(unit, arm, received_at=at, latency_ms=latency * 1000 - 0.5))
                at += latency
    dice.shuffle(rows)
    scores = [
        {
            "completion_id": each["completion_id"],
            "task": "text2sql",
            "evaluator": "thumbs",
            "value": 1.0 if each["received_at"] == first else 0.0,
            "created_at": each["received_at"] + 10,
        }
        for each in rows
        for first in [min(e["received_at"] for e in rows if e["unit"] == each["unit"])]
    ]

    def work(transaction: Any) -> None:
        transaction.append("completions", rows)
        transaction.append("scores", scores)

    lake.commit(work)
    found = closed_units(lake, "text2sql", RELEASE, wanted, Window(T + 100, T))
    assert {each["unit"]: round(1 / each["value"]) for each in found} == expected


def test_what_is_said_after_the_closing_age_is_unheard_however_late_it_is_counted(
    lake: DuckLake,
) -> None:
    """Units close after 30 s; nobody counts before 100 s, when all have their thumb."""
    rows = [row(f"after {age}", "champion", received_at=T) for age in (2, 29, 31, 90)]
    said = [
        {"completion_id": each["completion_id"], "task": "text2sql", "age": age}
        for each, age in zip(rows, (2, 29, 31, 90), strict=True)
    ]
    thumb = {"kind": "binary", "name": "thumbs", "value_bool": True, "author": "end_user"}

    def work(transaction: Any) -> None:
        transaction.append("completions", rows)
        for each in said:
            at = T + each.pop("age")
            heard = {**thumb, "feedback_id": f"fb_{at}", "received_at": at, "weight": 1.0}
            transaction.append("feedback", [{**each, **heard}])
            score = {"evaluator": "thumbs", "value": 1.0, "created_at": at}
            transaction.append("scores", [{**each, **score}])

    lake.commit(work)
    wanted = Metric("thumbs", 30.0, 10.0, said=("thumbs",))
    found = closed_units(lake, "text2sql", RELEASE, wanted, Window(T + 100, T))
    values = {each["unit"]: each["value"] for each in found}
    assert values == {"after 2": 1.0, "after 29": 1.0, "after 31": None, "after 90": None}


def test_the_age_follows_the_champions_answers_and_people_get_their_time_after_it() -> None:
    slow, quick = Reference(4000.0, 1000.0, None), Reference(20.0, 10.0, None)
    rules = make_rules()
    found = [answer_seconds(rules, each) for each in (None, quick, slow)]
    assert found == [5.0, 5.0, 12.0]
    pinned = [answer_seconds(make_rules(answer_seconds=each), slow) for each in (1, 4, 20)]
    assert pinned == [12.0, 4.0, 20.0]
    assert answer_seconds(make_rules(answer_seconds=1), quick) == 1
    task = make_task(THUMBS, SHORT, unit_close_seconds=30)
    release = make_release(task.release_rules, answer_seconds=12.0)
    ages = {name: metric(task, release, name) for name in ("thumbs", "error_rate", "short")}
    assert ages["error_rate"] == Metric("error_rate", 12.0)
    assert ages["short"] == Metric("short", 12.0)
    assert ages["thumbs"] == Metric("thumbs", 42.0, 30.0, said=("thumbs",))


@pytest.mark.parametrize("load", [1.0, 1.4, 3.0])
def test_a_candidate_within_the_tolerated_ratio_is_as_good_as_the_champion_under_any_load(
    lake: DuckLake, load: float
) -> None:
    champion = [50.0 * load, 80.0 * load, 100.0 * load]
    rows = [row(f"champion {i}", "champion", latency_ms=ms) for i, ms in enumerate(champion)]
    rows += [row(f"within {i}", "challenger", latency_ms=1.5 * ms) for i, ms in enumerate(champion)]
    rows += [row(f"slower {i}", "challenger", latency_ms=2.5 * ms) for i, ms in enumerate(champion)]
    found = units(lake, "latency_p95", rows)
    arms = [[found[f"{arm} {i}"][2] for i in range(3)] for arm in ("champion", "within", "slower")]
    assert arms[0] == arms[1]
    assert sum(arms[2]) <= sum(arms[0])
    assert load == 3.0 or sum(arms[2]) < sum(arms[0])


def test_latency_is_compared_with_the_champions_mean(lake: DuckLake) -> None:
    rows = [row("as slow", "challenger", latency_ms=100.0), row("half", "champion")]
    found = units(lake, "latency", rows)
    assert (found["as slow"][2], found["half"][2]) == (0.5, 0.75)


def test_what_a_version_is_compared_with_comes_from_before_the_start(lake: DuckLake) -> None:
    rows = [row(f"u{i}", "champion", received_at=T - 10) for i in range(19)]
    lake.commit(lambda transaction: transaction.append("completions", rows))
    assert reference(lake, "text2sql", "base", T, DEAR) is None
    last = [row("u19", "champion", received_at=T - 5), row("later", "champion", latency_ms=9e9)]
    lake.commit(lambda transaction: transaction.append("completions", last))
    found = reference(lake, "text2sql", "base", T, DEAR)
    assert found is not None
    assert (found.latency_p95_ms, found.latency_mean_ms) == (50.0, 50.0)
    assert found.cost_mean == pytest.approx(0.0065)
    free = reference(lake, "text2sql", "base", T, None)
    assert free is not None
    assert free.cost_mean is None
