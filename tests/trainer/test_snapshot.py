from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import ConfigError, NotFound
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.lake.erase import Subject, erase
from everlearn.people import Trust
from everlearn.prompts import side_of
from everlearn.task import Task, load_task
from tests.trainer.production import START, completion, correction, fill, make_production, thumbs
from tests.trainer.tiny import THINGS, colour
from trainer.snapshot import freeze, load, read_rows

PROMPT = THINGS[0]
ENDPOINTS = ("chat/completions", "completions", "responses")


@pytest.fixture
def lake(tmp_path: Path) -> DuckLake:
    return open_lake(make_production(tmp_path, Path("base"), "http://127.0.0.1:1"))


@pytest.fixture
def task(tmp_path: Path, lake: DuckLake) -> Task:
    from everlearn.config import load as load_config

    return load_task(load_config(tmp_path / "everlearn.yaml"), "colours")


def put(lake: DuckLake, **tables: list[dict[str, Any]]) -> None:
    def write(transaction: Any) -> None:
        for name, rows in tables.items():
            transaction.append(name, rows)

    lake.commit(write)


def test_a_snapshot_holds_what_people_said_and_what_nobody_judged(
    lake: DuckLake, task: Task
) -> None:
    fill(lake)
    counts = freeze(lake, task, champion="base", salt="").counts
    assert set(counts["train"]) == {"accepted", "correction", "rejected"}
    assert set(counts["select"]) | set(counts["gate"]) == {"expert", "end_user"}
    assert counts["dropped"]["duplicate"] > 0


def test_what_was_asked_without_a_template_is_not_taught_with_one(
    lake: DuckLake, task: Task
) -> None:
    asked = [completion(n, PROMPT, "colour", endpoint=e) for n, e in enumerate(ENDPOINTS)]
    put(lake, completions=asked, feedback=[thumbs(n, True) for n in range(len(asked))])
    rows = {row.completion_id: row for row in read_rows(lake, task, "base")}
    kept = [rows[each["completion_id"]].dropped_reason for each in asked]
    assert kept == [None, "plain_prompt", None]
    dropped = freeze(lake, task, champion="base", salt="").counts["dropped"]
    assert dropped["plain_prompt"] == 1


def test_a_snapshot_never_changes_afterwards(lake: DuckLake, task: Task) -> None:
    fill(lake)
    made = freeze(lake, task, champion="base", salt="")
    put(lake, completions=[completion(9999, PROMPT, "colour")], feedback=[thumbs(9999, True)])
    again = load(lake, made.snapshot_id, "colours")
    assert again.content_hash == made.content_hash
    assert again.counts == made.counts
    texts = {row.completion_id: (row.messages, row.target) for row in again.side("train")}
    assert texts == {row.completion_id: (row.messages, row.target) for row in made.side("train")}


def test_a_snapshot_of_an_erased_unit_is_what_is_left_of_it(lake: DuckLake, task: Task) -> None:
    fill(lake)
    made = freeze(lake, task, champion="base", salt="")
    erased = made.side("train")[0].unit
    erase(lake, Subject(unit=erased))
    left = load(lake, made.snapshot_id, "colours")
    assert left.side("train")
    assert [row.completion_id for row in left.rows] == [
        row.completion_id for row in made.rows if row.unit != erased
    ]
    # A dataset under the hash of the whole one would be a claim that nobody can check any more.
    assert left.content_hash != made.content_hash
    assert left.content_hash == load(lake, made.snapshot_id, "colours").content_hash


def test_equal_data_has_an_equal_hash(lake: DuckLake, task: Task) -> None:
    fill(lake)
    first, second = (freeze(lake, task, champion="base", salt="") for _ in range(2))
    assert first.snapshot_id != second.snapshot_id
    assert first.content_hash == second.content_hash


def test_held_out_rows_are_chosen_by_unit(lake: DuckLake, task: Task) -> None:
    fill(lake)
    made = freeze(lake, task, champion="base", salt="")
    for row in made.rows:
        if row.split != "dropped":
            assert row.split == side_of(row.unit, heldout_percent=30, salt="")
    assert {row.split for row in made.rows} == {"train", "select", "gate", "dropped"}


def test_what_a_dropped_row_said_is_not_kept(lake: DuckLake, task: Task) -> None:
    put(
        lake,
        completions=[completion(1, PROMPT, "colour", trainable=False)],
        feedback=[thumbs(1, True)],
    )
    made = freeze(lake, task, champion="base", salt="")
    assert made.counts["dropped"] == {"no_consent": 1}
    stored = lake.read("SELECT messages, completion, target FROM snapshot_rows").to_pylist()
    assert stored == [{"messages": None, "completion": None, "target": None}]


def test_only_answered_completions_of_the_task_and_the_champions_ordinary_ones(
    lake: DuckLake, task: Task
) -> None:
    put(
        lake,
        completions=[
            completion(1, THINGS[1], "colour", status="upstream_error"),
            completion(2, THINGS[2], "colour", task="another"),
            completion(3, THINGS[3], "colour", version="7"),
            completion(4, THINGS[4], "colour", unit="user-thing0"),
        ],
    )
    rows = freeze(lake, task, champion="base", salt="").rows
    assert [row.completion_id for row in rows] == ["cmpl_00004"]


def test_what_only_quarantined_raters_spoke_of_is_an_ordinary_answer_still(
    lake: DuckLake, task: Task
) -> None:
    task = task.model_copy(update={"trust": Trust(max_per_minute=3, min_raters=1)})
    asked = [completion(n, thing, "colour") for n, thing in enumerate(THINGS[:6])]
    asked += [completion(6, THINGS[6], "colour"), completion(7, THINGS[0], "shade", unit="evil")]
    fast = {"author_id": "evil", "received_at": START}
    said = [thumbs(n, n % 2 > 0, **fast) for n in (0, 1, 2, 3, 7)]
    said += [thumbs(3, False, feedback_id="fb_honest", author_id="ann")]
    said += [thumbs(4, True, kind="comment", value_bool=None, value_text="no", author_id="ann")]
    put(lake, completions=asked, feedback=said)
    rows = {True: read_rows(lake, task, "base"), False: read_rows(lake, task, "base", ("evil",))}
    ordinary = {
        held: {row.completion_id[-1] for row in found if row.kind == "replay"
               and row.dropped_reason is None} for held, found in rows.items()
    }  # fmt: skip
    # Neither what somebody else spoke of too, nor what the quarantined one asked for himself.
    assert ordinary == {True: {"0", "1", "2", "5", "6"}, False: {"5", "6"}}
    dropped = {row.completion_id[-1] for row in rows[True] if row.dropped_reason}
    assert dropped == {"0", "1", "2", "7"}


def test_other_feedback_than_the_tasks_is_no_thumbs(lake: DuckLake, task: Task) -> None:
    put(
        lake,
        completions=[completion(1, PROMPT, "colour")],
        feedback=[thumbs(1, True, name="was_copied")],
    )
    assert freeze(lake, task, champion="base", salt="").counts["train"] == {}


def test_a_retracted_thumb_does_not_count(lake: DuckLake, task: Task) -> None:
    put(
        lake,
        completions=[completion(1, PROMPT, "colour")],
        feedback=[
            thumbs(1, True, author_id="ann"),
            thumbs(1, True, feedback_id="fb_r", kind="retraction", author_id="ann"),
        ],
    )
    assert "accepted" not in freeze(lake, task, champion="base", salt="").counts["train"]


def test_a_logged_verdict_saves_a_liked_answer_from_the_experts_other_wording(
    lake: DuckLake, task: Task
) -> None:
    score = {"task": "colours", "evaluator": "matches", "evaluator_version": "1"}
    completions = [
        completion(1, PROMPT, "colour", unit="a", response_text="red !"),
        completion(2, PROMPT, "colour", unit="b", response_text="blue"),
    ]
    put(
        lake,
        completions=completions,
        feedback=[thumbs(1, True), correction(2, colour(PROMPT))],
        scores=[{**score, "completion_id": "cmpl_00001", "value": 1.0, "created_at": 1.0}],
    )
    rows = {row.completion_id: row for row in freeze(lake, task, champion="base", salt="").rows}
    assert rows["cmpl_00001"].dropped_reason is None
    put(lake, scores=[{**score, "completion_id": "cmpl_00001", "value": 0.0, "created_at": 2.0}])
    rows = {row.completion_id: row for row in freeze(lake, task, champion="base", salt="").rows}
    assert rows["cmpl_00001"].dropped_reason == "expert_disagrees"


def test_a_preference_is_a_pair(lake: DuckLake, task: Task) -> None:
    put(
        lake,
        completions=[
            completion(1, PROMPT, "colour", unit="a"),
            completion(2, PROMPT, "colour", unit="b", response_text="blue"),
        ],
        feedback=[
            thumbs(1, True, kind="preference", value_bool=None, other_completion_id="cmpl_00002")
        ],
    )
    (row,) = freeze(lake, task, champion="base", salt="").rows
    assert (row.kind, row.target, row.completion) == ("preference", "red", "blue")


def test_an_unknown_snapshot_is_named(lake: DuckLake) -> None:
    with pytest.raises(NotFound, match="snapshot 'snap_x' of task colours does not exist"):
        load(lake, "snap_x", "colours")


def test_feedback_cannot_examine_answers_nobody_has_seen(lake: DuckLake, task: Task) -> None:
    thumbs_only = Task(
        task="colours",
        base_model="m",
        upstream="local",
        graders=({"type": "feedback", "name": "thumbs"}, task.graders[0]),
    )
    with pytest.raises(ConfigError, match=r"heldout.grader = 'thumbs'.*name one of: matches"):
        freeze(lake, thumbs_only, champion="base", salt="")


def test_an_expert_who_changes_his_mind_is_taught_as_he_thinks_now(
    lake: DuckLake, task: Task
) -> None:
    completions = [completion(n, PROMPT, "colour", unit="a") for n in (1, 2, 3)]
    said = [correction(1, "mauve"), correction(2, "green"), thumbs(3, True)]
    times = [START + timedelta(hours=hours) for hours in (1, 3, 2)]
    dated = [{**each, "received_at": at} for each, at in zip(said, times, strict=True)]
    put(lake, completions=completions, feedback=dated)
    rows = {row.completion_id: row for row in freeze(lake, task, champion="base", salt="").rows}
    assert rows["cmpl_00001"].dropped_reason == "superseded"
    assert (rows["cmpl_00002"].split, rows["cmpl_00002"].target) == ("train", "green")
    assert rows["cmpl_00003"].dropped_reason == "expert_disagrees"


def test_what_was_said_long_before_the_newest_word_is_too_old(lake: DuckLake, task: Task) -> None:
    completions = [completion(n, THINGS[n], "colour", unit=f"u{n}") for n in (1, 2)]
    said = [correction(n, colour(THINGS[n])) for n in (1, 2)]
    times = [START, START + timedelta(days=40)]
    dated = [{**each, "received_at": at} for each, at in zip(said, times, strict=True)]
    put(lake, completions=completions, feedback=dated)
    recent = task.model_copy(update={"train": task.train.model_copy(update={"max_age_days": 30})})
    rows = {row.completion_id: row for row in freeze(lake, recent, champion="base", salt="").rows}
    assert rows["cmpl_00001"].dropped_reason == "too_old"
    assert rows["cmpl_00002"].split != "dropped"
