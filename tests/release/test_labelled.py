"""What experts say of the answers that chance puts before them decides a release."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluators.fill import chance
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.rules import ReleaseRules
from everlearn.task import Task, load_task
from serving.release.accounts import Accounts
from serving.release.history import by_arm
from serving.release.labelled import known_share, labelled, labels_of, starting
from serving.release.observations import Counted, Window, closed_units, count, frozen, metric
from serving.release.states import Phase
from serving.release.votes import deciding
from tests.builders import make_service
from tests.release.world import World, make_release, make_rules

T, SALT, WAIT = 1_800_000_000.0, "salt", 600.0
RULES = make_rules(primary="good", guardrails=("error_rate",), labels={"wait_seconds": WAIT})
RELEASE = make_release(RULES, release_id="rel_1", label_share=0.5, answer_seconds=5.0)
DRAWN, LEFT = (
    sorted(name for number in range(40) if (chance(SALT, name := f"c{number:02}") < 0.5) is side)
    for side in (True, False)
)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[DuckLake]:
    with_it = open_lake(make_service(tmp_path))
    yield with_it
    with_it.close()


def task_of(rules: ReleaseRules = RULES) -> Task:
    good = {"name": "good", "type": "string_check", "input": "{{sample.output_text}}",
            "reference": "good", "operation": "eq"}  # fmt: skip
    graders: Any = [{"name": "thumbs", "type": "feedback"}, good]
    return Task(task="t", base_model="b", upstream="local", graders=graders, release=rules)


def answer(name: str, **overrides: Any) -> dict[str, Any]:
    return {
        **{"completion_id": name, "task": "t", "unit": name, "arm": "champion", "stage": 0},
        **{"probability": 0.75, "release": "rel_1", "version": "base", "received_at": T},
        **{"status": "ok", "response_text": "good", "latency_ms": 5.0, **overrides},
    }


def word(name: str, at: float, *, up: bool, author: str = "expert") -> dict[str, Any]:
    return {
        **{"feedback_id": f"fb_{name}_{at}_{author}", "completion_id": name, "task": "t"},
        **{"kind": "binary", "name": "thumbs", "value_bool": up, "author": author, "weight": 1.0},
        **{"author_id": f"{author}-1", "received_at": at},
    }


def put(lake: DuckLake, **tables: list[dict[str, Any]]) -> None:
    def work(transaction: Any) -> None:
        for name, rows in tables.items():
            transaction.append(name, rows)

    lake.commit(work)


def score(name: str, value: float) -> dict[str, Any]:
    return {"completion_id": name, "task": "t", "evaluator": "good", "value": value,
            "created_at": T + 1}  # fmt: skip


def closed(lake: DuckLake) -> dict[str, Counted]:
    task = task_of()
    wanted = metric(task, RELEASE, "good")
    due = closed_units(lake, "t", RELEASE, wanted, Window(T + 3600, T - 1))
    rows = labelled(lake, task, SALT, due=due, rows=count(due, wanted, RELEASE, 0), wanted=wanted)
    return {row.unit: row for row in rows}


def test_a_label_of_a_drawn_answer_counts_if_it_came_in_time_and_is_an_experts(
    lake: DuckLake,
) -> None:
    right, wrong, late, user, silent = DRAWN[:5]
    end = T + WAIT + RELEASE.answer_seconds
    put(
        lake,
        completions=[answer(name) for name in (*DRAWN[:5], LEFT[0])],
        scores=[score(name, 0.75) for name in (*DRAWN[:4], LEFT[0])],
        feedback=[
            word(right, T + 10, up=True),
            word(wrong, T + 10, up=True),
            word(wrong, end - 1, up=False),
            word(late, end + 1, up=True),
            word(user, T + 10, up=True, author="end_user"),
            word(LEFT[0], T + 10, up=True),
        ],
    )
    found = closed(lake)
    told = {name: (row.drawn, row.label) for name, row in found.items()}
    assert told == {
        right: (True, 1.0), wrong: (True, 0.0), late: (True, None), user: (True, None),
        silent: (True, None), LEFT[0]: (False, None),
    }  # fmt: skip
    assert {row.label_share for row in found.values()} == {0.5}
    assert (found[right].value, found[silent].value) == (0.75, None)
    assert all(row.observation is not None for row in found.values())


def test_a_unit_counts_by_its_first_answer_and_not_if_nobody_could_be_shown_it(
    lake: DuckLake,
) -> None:
    put(
        lake,
        completions=[
            answer(DRAWN[0], unit="two"),
            answer(LEFT[0], unit="two", received_at=T + 2),
            answer(DRAWN[1], unit="failed", status="upstream_error", response_text=None),
            answer(DRAWN[2], unit="failed", received_at=T + 2),
        ],
        scores=[score(DRAWN[0], 0.0), score(LEFT[0], 1.0), score(DRAWN[2], 1.0)],
        feedback=[word(DRAWN[0], T + 10, up=True), word(DRAWN[2], T + 10, up=True)],
    )
    found = closed(lake)
    assert (found["two"].value, found["two"].drawn, found["two"].label) == (0.0, True, 1.0)
    assert found["failed"].observation is None


def test_the_share_that_people_label_to_the_end_is_seen_before_the_start(lake: DuckLake) -> None:
    """Of 400 answers those that are asked about first are labelled, up to a fifth."""
    names = sorted((f"h{number:03}" for number in range(400)), key=lambda name: chance(SALT, name))
    done = [name for name in names if chance(SALT, name) < 0.2]
    put(
        lake,
        completions=[answer(name, release=None, received_at=T - 5000) for name in names],
        scores=[score(name, float(place % 2)) for place, name in enumerate(names)],
        feedback=[word(name, T - 4900, up=place % 2 == 1) for place, name in enumerate(done)],
    )
    task = task_of()
    asked = task.model_copy(update={"labels": task.labels.model_copy(
        update={"random_percent": 40.0})})  # fmt: skip
    found = known_share(lake, asked, SALT, T)
    drawn = sum(chance(SALT, name) < 0.4 for name in names)
    assert (found.drawn, found.labelled) == (drawn, len(done))
    assert found.share is not None
    assert 0.2 <= found.share <= 0.22
    assert found.worth > 1.5, "the judge says what people say"
    told = starting(make_release(RULES, label_share=found.share, label_worth=found.worth))
    assert f"people label {found.share:.2%} of the answers to the end" in told
    late = known_share(lake, asked, SALT, T - 4950)
    assert (late.share, late.labelled) == (None, 0)
    assert "were labelled within 600 s" in late.refusal(task)
    assert "Thumbs are no sample by chance" in late.refusal(task)


def test_a_judge_that_people_correct_needs_no_vote() -> None:
    assert "good" not in {each.name for each in deciding(task_of(), RULES)}
    trusted = RULES.model_copy(update={"labels": None})
    assert "good" in {each.name for each in deciding(task_of(trusted), trusted)}


def test_what_waits_for_people_cannot_be_corrected_by_the_random_share(tmp_path: Path) -> None:
    rules = make_rules(primary="thumbs", labels={"wait_seconds": WAIT})
    with pytest.raises(ValueError, match=r"'thumbs' waits for people: .* there are: good"):
        task_of(rules)
    with pytest.raises(ValueError, match=r"labels\.wait_seconds 600 is not below max_seconds 60"):
        make_rules(labels={"wait_seconds": WAIT}, max_seconds=60)
    service = make_service(tmp_path)
    content = {"task": "t", "base_model": "b", "upstream": "local", "release": {"labels": {}}}
    (service.tasks_path / "t.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"release\.primary 'thumbs' is not a grader"):
        load_task(service, "t")


def test_people_decide_where_the_judge_sees_no_difference(
    make_world: Callable[..., World],
) -> None:
    """Everything is drawn; judge: as good, people: three times as good."""
    world = make_world(
        make_rules(
            primary="good",
            guardrails=("error_rate",),
            labels={"wait_seconds": 10},
            steps=(50, 100),
        )
    )
    world.ramp(label_share=1.0)
    dice, done = random.Random(1), set[str]()
    for _ in range(12):
        world.ask(60, {"good": 0.8}, {"good": 0.8})
        label(world, dice, done)
        world.clock.sleep(5.0)
        world.loop.tick()
        if not world.release.active:
            break
    assert world.release.phase is Phase.PROMOTED, world.release.reason
    assert "promote e-value" in world.release.reason
    release = world.release
    counted = world.loop.counting.evidence(release, None)
    assert Accounts(release.parsed_rules, frozen(world.lake, release.release_id)).evidence() == (
        counted
    )
    labels = labels_of(world.lake, release)
    assert labels == counted.primary.labels
    assert labels is not None
    assert labels.drawn == labels.labelled == counted.primary.units
    arms = by_arm(world.lake, "text2sql", release)
    assert arms["challenger"]["quality"] > arms["champion"]["quality"] + 0.3


def label(world: World, dice: random.Random, done: set[str]) -> None:
    """An expert says of every new answer what he thinks of it."""
    rows = world.lake.read("SELECT completion_id, arm FROM completions ORDER BY unit").to_pylist()
    new = [row for row in rows if row["completion_id"] not in done]
    done.update(row["completion_id"] for row in new)
    words = [
        {
            **word(
                row["completion_id"],
                world.clock.now(),
                up=dice.random() < (0.9 if row["arm"] == "challenger" else 0.3),
            ),
            "task": "text2sql",
        }
        for row in new
    ]
    put(world.lake, feedback=words)
