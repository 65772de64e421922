"""evaluate(): idempotent, incremental, late facts counted, gaps visible - on a real lake."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from collector.compact import maintain
from evaluators import pending
from evaluators.bulk import Pair
from evaluators.run import EvaluateReport, evaluate, grade, grade_all
from evaluators.sandbox import sandbox
from evaluators.types import Sample
from everlearn.errors import NotFound
from everlearn.task import Task
from tests.builders import make_service
from tests.evaluators.graders import make_database, make_grader, make_task
from tests.evaluators.judge_server import answers, judge_server, says
from tests.evaluators.lake import START, Rows

EXECUTES: dict[str, Any] = {
    "name": "executes", "type": "execution", "language": "sql", "database": "orders.duckdb",
}  # fmt: skip
MATCHES: dict[str, Any] = {**EXECUTES, "name": "matches", "reference": "{{ item.reference }}"}
THUMBS: dict[str, Any] = {"name": "thumbs", "type": "feedback"}
COUNT, WRONG = "SELECT count(*) FROM orders", "SELECT 1"


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path)
    yield made
    made.lake.close()
    sandbox().close()


@pytest.fixture
def task(tmp_path: Path) -> Task:
    make_database(tmp_path)
    return make_task(tmp_path, EXECUTES, MATCHES, THUMBS)


def run(rows: Rows, task: Task, **options: Any) -> EvaluateReport:
    return evaluate(rows.service, task, rows.lake, **options)


def test_every_answer_is_scored_once(rows: Rows, task: Task) -> None:
    good, bad = rows.answered("how many?", COUNT), rows.answered("how many?", "SELEC")
    rows.said(good)
    report = run(rows, task)
    assert report.completions == 2
    assert rows.scores() == {
        (good, "executes"): 1.0, (good, "matches"): None, (good, "thumbs"): 1.0,
        (bad, "executes"): 0.0, (bad, "matches"): None, (bad, "thumbs"): None,
    }  # fmt: skip
    assert dict(report.graders["matches"].reasons) == {"item.reference is not known": 2}
    before = rows.count("scores")
    assert run(rows, task).completions == 0
    assert rows.count("scores") == before


def test_another_process_finds_nothing_left_to_do(rows: Rows, task: Task) -> None:
    rows.answered("how many?", COUNT)
    run(rows, task)
    again = Rows(rows.service.root)
    assert evaluate(again.service, task, again.lake).completions == 0
    again.lake.close()


def test_another_process_looks_at_what_is_new_alone(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path, THUMBS)
    old = [rows.answered(f"question {number}", COUNT) for number in range(5)]
    run(rows, task)
    looked: list[frozenset[str] | None] = []

    def spy(*arguments: Any, **options: Any) -> list[pending.Pending]:
        looked.append(options["among"])
        return pending.pending(*arguments, **options)

    monkeypatch.setattr("evaluators.run.pending", spy)
    again = Rows(rows.service.root)
    rows.said(old[2])
    new = rows.answered("question 5", COUNT)
    assert evaluate(again.service, task, again.lake).completions == 2
    assert looked == [frozenset({old[2], new})]
    assert rows.scores()[(old[2], "thumbs")] == 1.0
    again.lake.close()


def test_only_answers_to_the_task_count(rows: Rows, task: Task) -> None:
    rows.answered("q", COUNT, task=None)
    rows.answered("q", COUNT, task="other")
    rows.answered("q", "half an ans", status="client_abort")
    rows.answered("q", "", response_text=None)
    shadow = rows.answered("q", COUNT, status="shadow")
    assert run(rows, task).completions == 1
    assert {key[0] for key in rows.scores()} == {shadow}


def test_a_reference_that_comes_late_scores_what_waited_for_it(rows: Rows, task: Task) -> None:
    first = rows.answered("How many?", COUNT)
    second = rows.answered("how  MANY?", WRONG)
    other = rows.answered("who?", COUNT)
    run(rows, task)
    rows.corrected(second, "SELECT count(id) FROM orders")
    report = run(rows, task)
    assert report.completions == 2
    scores = rows.scores()
    assert (scores[first, "matches"], scores[second, "matches"]) == (1.0, 0.0)
    assert scores[second, "thumbs"] == 0.0
    assert scores[other, "matches"] is None
    assert run(rows, task).completions == 0


def test_a_second_correction_scores_again(rows: Rows, task: Task) -> None:
    answer = rows.answered("how many?", COUNT)
    rows.corrected(answer, WRONG)
    run(rows, task)
    assert rows.scores()[answer, "matches"] == 0.0
    rows.corrected(answer, COUNT)
    run(rows, task)
    assert rows.scores()[answer, "matches"] == 1.0
    later = rows.answered("how many?", "SELECT 12")
    run(rows, task)
    assert rows.scores()[later, "matches"] == 1.0


def test_an_answer_an_expert_accepted_is_a_reference(rows: Rows, task: Task) -> None:
    rows.said(rows.answered("how many?", COUNT), author="expert")
    twin = rows.answered("how many?", "SELECT 12")
    run(rows, task)
    assert rows.scores()[twin, "matches"] == 1.0


def test_feedback_that_comes_changes_or_goes_scores_again(rows: Rows, task: Task) -> None:
    answer, other = rows.answered("q", COUNT), rows.answered("r", COUNT)
    run(rows, task)
    seen = []
    rows.said(answer, author_id="ann")
    seen.append((run(rows, task).completions, rows.scores()[answer, "thumbs"]))
    rows.said(answer, author_id="ann", value_bool=False)
    seen.append((run(rows, task).completions, rows.scores()[answer, "thumbs"]))
    rows.said(answer, author_id="ann", kind="retraction")
    seen.append((run(rows, task).completions, rows.scores()[answer, "thumbs"]))
    assert seen == [(1, 1.0), (1, 0.0), (1, None)]
    assert rows.scores()[other, "thumbs"] is None


def test_feedback_that_came_before_its_answer_counts(rows: Rows, task: Task) -> None:
    rows.said("cmpl_later", value_bool=False)
    run(rows, task)
    rows.answered("q", COUNT, completion_id="cmpl_later")
    run(rows, task)
    assert rows.scores()["cmpl_later", "thumbs"] == 0.0


def test_a_grader_that_was_changed_scores_everything_again(rows: Rows, task: Task) -> None:
    answer = rows.answered("q", "SELECT * FROM orders ORDER BY id")
    rows.corrected(answer, "SELECT * FROM orders ORDER BY id DESC")
    run(rows, task)
    strict = make_task(task.folder, {**MATCHES, "ordered": True})
    assert run(rows, strict).completions == 1
    versions = rows.lake.read(
        "SELECT evaluator_version, value FROM scores_current WHERE evaluator = 'matches'"
    ).to_pylist()
    assert sorted(row["value"] for row in versions) == [0.0, 1.0]


def test_one_grader_a_limit_and_a_time_bound_the_work(rows: Rows, task: Task) -> None:
    old = rows.answered("q", COUNT, received_at=START - timedelta(days=1))
    new = [rows.answered("q", COUNT) for _ in range(3)]
    assert run(rows, task, grader="executes", since=START, limit=2).completions == 2
    assert set(rows.scores()) >= {(new[0], "executes"), (new[1], "executes")}
    assert run(rows, task, grader="executes", since=START).completions == 1
    assert (old, "executes") not in rows.scores()
    assert run(rows, task).completions == 4
    assert all((each, "thumbs") in rows.scores() for each in [old, *new])
    with pytest.raises(NotFound, match="no grader 'nobody'; there are: executes, matches, thumbs"):
        run(rows, task, grader="nobody")


def test_more_than_a_batch_is_seeded_and_done(
    rows: Rows, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.run.BATCH", 3)
    answers = [rows.answered(f"q{i}", COUNT) for i in range(8)]
    report = run(rows, task)
    assert (report.completions, report.seeded) == (8, 24)
    assert all(rows.scores()[each, "executes"] == 1.0 for each in answers)
    assert run(rows, task).completions == 0


def test_after_snapshots_have_expired_everything_is_looked_at(rows: Rows, task: Task) -> None:
    first = rows.answered("q", COUNT)
    run(rows, task)
    rows.said(first)
    maintain(rows.lake, keep_hours=0)
    run(rows, task)
    assert rows.scores()[first, "thumbs"] == 1.0


def test_a_judge_that_is_down_leaves_seeds_and_is_asked_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(tmp_path)
    answer = rows.answered("q", COUNT)
    prompt = [{"role": "user", "content": "{{ sample.output_text }}"}]
    task = make_task(
        tmp_path, {"name": "judge", "type": "score_model", "model": "m", "input": prompt}
    )
    with judge_server() as judge:
        service = make_service(
            tmp_path, upstreams={"local": {"base_url": judge.address}}, default_upstream="local"
        )
        judge.answer = answers(500)
        report = evaluate(service, task, rows.lake)
        assert (report.seeded, report.graders["judge"].failed) == (1, 1)
        assert rows.scores() == {(answer, "judge"): None}
        judge.answer = says('{"score": 0.8}')
        assert evaluate(service, task, rows.lake).completions == 0
        monkeypatch.setattr(pending, "RETRY_SECONDS", 0.0)
        assert evaluate(service, task, rows.lake).completions == 1
        assert rows.scores() == {(answer, "judge"): 0.8}
        assert evaluate(service, task, rows.lake).completions == 0
    rows.lake.close()


def test_a_judge_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "RETRY_SECONDS", 0.0)
    rows = Rows(tmp_path)
    rows.answered("q", COUNT)
    source = "def grade(sample, item):\n    return 1 / 0"
    task = make_task(tmp_path, {"name": "broken", "type": "python", "source": source})
    tries = [evaluate(rows.service, task, rows.lake).completions for _ in range(8)]
    assert tries == [1] * pending.MAX_FAILURES + [0] * (8 - pending.MAX_FAILURES)
    rows.lake.close()
    sandbox().close()


def test_scores_written_by_somebody_else_are_not_written_again(rows: Rows, task: Task) -> None:
    answer = rows.answered("q", COUNT)
    run(rows, task)
    newer = {
        "completion_id": answer, "task": "text2sql", "evaluator": "thumbs", "value": 0.3,
        "evaluator_version": make_grader(**THUMBS).version, "context": "||",
        "created_at": datetime.now(UTC) + timedelta(seconds=1),
    }  # fmt: skip
    rows.lake.commit(lambda transaction: transaction.append("scores", [newer]))
    assert run(rows, task).completions == 0
    assert rows.scores()[answer, "thumbs"] == 0.3


def test_bulk_grading_keeps_the_order_and_the_children(tmp_path: Path) -> None:
    make_database(tmp_path)
    grader = make_grader(tmp_path, **{**MATCHES, "name": "grader"})
    pairs: list[Pair] = [
        (Sample(f"SELECT {i}"), {"reference": f"SELECT {i % 2}"} if i % 3 else {})
        for i in range(60)
    ]
    expected = [float(i == i % 2) if i % 3 else None for i in range(60)]
    for _ in range(3):
        assert [row[0].value for row in grade_all([grader], pairs)] == expected
    sandbox().close()


def test_rewards_can_be_asked_from_a_thread_beside_a_running_loop(tmp_path: Path) -> None:
    make_database(tmp_path)
    grader = make_grader(tmp_path, **{**EXECUTES, "name": "grader"})
    pairs: list[Pair] = [(Sample(COUNT), {})] * 5
    found: list[float | None] = []

    async def beside() -> None:
        thread = threading.Thread(
            target=lambda: found.extend(row[0].value for row in grade_all([grader], pairs))
        )
        thread.start()
        own = await grade([grader], pairs)
        found.extend(row[0].value for row in own)
        await asyncio.to_thread(thread.join, 30)

    asyncio.run(beside())
    assert found == [1.0] * 10
    sandbox().close()
