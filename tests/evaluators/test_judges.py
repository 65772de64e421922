"""A judge earns its vote by agreeing with experts on labels it was not tuned on."""

import json
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evaluators.experts import expert_labels, half
from evaluators.fill import chance, label_salt
from evaluators.graders import build
from evaluators.judges import JudgeRefused, Standing, decide, require, standings
from evaluators.references import Reference
from evaluators.report import ALONE, kept, report
from everlearn.errors import ConfigError, NotEnoughEvidence
from everlearn.lake.store import Transaction
from everlearn.prompts import prompt_key
from everlearn.rules import Judges
from everlearn.state import open_state
from everlearn.task import Task
from tests.evaluators.graders import make_task
from tests.evaluators.lake import START, Rows

JUDGE = {
    "name": "judge", "type": "score_model", "model": "m", "range": [1, 5],
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}  # fmt: skip
WITH_REFERENCE = {
    **JUDGE, "name": "compares", "range": [0, 1],
    "input": [{"role": "user", "content": "{{ sample.output_text }} {{ item.reference }}"}],
}  # fmt: skip
CHECK = {
    "name": "check", "type": "string_check", "operation": "eq",
    "input": "{{ sample.output_text }}", "reference": "yes",
}  # fmt: skip
BLEND = {"name": "blend", "type": "multi", "calculate_output": "0.5 * judge + 0.5 * check"}
THUMBS = {"name": "thumbs", "type": "feedback"}


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path)
    yield made
    made.lake.close()


class Bench:
    """Answers with an expert's label and a judge's verdict."""

    def __init__(self, rows: Rows, task: Task) -> None:
        self.rows, self.task = rows, task
        self.salt = label_salt(rows.service)
        self.scores: list[dict[str, Any]] = []
        self.feedback: list[dict[str, Any]] = []
        self.completions: list[dict[str, Any]] = []
        self.versions = {each.name: build(each, task).version for each in task.every_grader}

    def judged(
        self, good: bool, *, grader: str = "judge", value: float, on: str = "certify",
        probability: float | None = None, **score: Any,
    ) -> str:  # fmt: skip
        """Add an answer, of a user of its own; the prompt is chosen so that it is on that half."""
        number = len(self.completions)
        prompt = next(
            text
            for text in (f"q{number}/{tries}" for tries in range(100))
            if half(self.salt, prompt_key([{"role": "user", "content": text}])) == on
        )
        name = f"cmpl_{number:06}"
        at = START + timedelta(seconds=number)
        self.completions.append({
            "completion_id": name, "task": "text2sql", "status": "ok", "version": "v1",
            "received_at": at, "response_text": f"a{number}", "unit": f"user-{number}",
            "messages": json.dumps([{"role": "user", "content": prompt}]),
        })  # fmt: skip
        tags = None
        if probability is not None:
            tags = json.dumps({"asked": "random", "probability": str(probability)})
        self.feedback.append({
            "feedback_id": f"fb_{number:06}", "completion_id": name, "kind": "binary",
            "name": "thumbs", "value_bool": good, "author": "expert", "author_id": "ann",
            "received_at": at + timedelta(hours=1), "tags": tags,
        })  # fmt: skip
        self.score(name, grader, value, at=at, **score)
        return name

    def score(self, name: str, grader: str, value: float, *, at: Any, context: str = "||") -> None:
        self.scores.append({
            "completion_id": name, "task": "text2sql", "evaluator": grader, "value": value,
            "evaluator_version": self.versions[grader], "context": context, "created_at": at,
        })  # fmt: skip

    def write(self) -> None:
        for table in ("completions", "feedback", "scores"):
            self.rows.lake.commit(partial(_append, table=table, rows=getattr(self, table)))

    def standing(self, name: str = "judge") -> Standing:
        self.write()
        found = {each.grader: each for each in standings(self.rows.lake, self.task, self.salt)}
        return found[name]

    def require(self, name: str) -> None:
        require(
            self.task, [self.task.grader(name)], "heldout.grader",
            lake=lambda: self.rows.lake, salt=lambda: self.salt,
        )  # fmt: skip


def _append(transaction: Transaction, table: str, rows: list[dict[str, Any]]) -> None:
    transaction.append(table, rows)


def bench_of(rows: Rows, *graders: dict[str, Any], **fields: Any) -> Bench:
    return Bench(rows, make_task(rows.service.root, *(graders or (JUDGE,)), **fields))


def test_a_judge_that_agrees_may_gate(rows: Rows) -> None:
    bench = bench_of(rows)
    for number in range(60):
        good = number % 3 > 0
        bench.judged(good, value=4.5 if good != (number % 15 == 0) else 1.5)
    found = bench.standing()
    assert (found.may_gate, found.labels, found.units) == (True, 60, 60)
    assert found.agreement == pytest.approx(56 / 60)
    assert 0.8 < found.lower < found.upper < 1
    assert found.reason.startswith("agreement at least 0.8")
    assert found.confusion is not None
    assert found.confusion.judge_too_kind == 4
    assert found.disagreements == ["cmpl_000045", "cmpl_000030", "cmpl_000015", "cmpl_000000"]
    bench.require("judge")


def test_labels_it_may_be_tuned_on_prove_nothing(rows: Rows) -> None:
    bench = bench_of(rows)
    for number in range(40):
        bench.judged(number % 2 == 0, value=5.0 if number % 2 == 0 else 1.0, on="tune")
    found = bench.standing()
    assert (found.may_gate, found.labels, found.to_tune) == (False, 0, 40)
    assert found.reason == "no certified label yet"
    with pytest.raises(NotEnoughEvidence, match="judge judge may only advise: no certified label"):
        bench.require("judge")


def test_a_judge_that_people_disagree_with_is_refused(rows: Rows) -> None:
    bench = bench_of(rows)
    for number in range(60):
        bench.judged(number % 2 == 0, value=5.0 if number % 4 < 2 else 1.0)
    found = bench.standing()
    assert found.agreement == 0.5
    assert not found.may_gate
    with pytest.raises(JudgeRefused, match=r"agreement at least 0\.3\d+ < min_agreement 0\.700"):
        bench.require("judge")


def test_a_judge_that_always_says_right_earns_no_vote_where_most_is_right(rows: Rows) -> None:
    bench = bench_of(rows)
    for number in range(80):
        bench.judged(number % 20 > 0, value=5.0)
    found = bench.standing()
    assert found.lower > 0.8
    assert (found.may_gate, found.kappa) == (False, None)
    assert "always says the same" in found.reason


def test_a_trusted_judge_decides_unproven_and_the_report_says_so(rows: Rows) -> None:
    bench = bench_of(rows, judges={"trusted": ["judge"]})
    found = bench.standing()
    assert found.may_gate
    assert found.reason.startswith("named in judges.trusted, unproven")
    bench.require("judge")
    with pytest.raises(ValueError, match=r"judges.trusted 'nobody' is not a grader"):
        bench_of(rows, judges={"trusted": ["nobody"]})


def test_graders_that_compute_and_people_need_no_vote(rows: Rows) -> None:
    bench = bench_of(rows, CHECK, THUMBS)
    assert bench.standing("check").may_gate
    assert bench.standing("thumbs").reason == "people's own word"

    def never() -> Any:
        raise AssertionError("asked for nothing")

    graders = bench.task.graders
    require(bench.task, graders, "a test", lake=never, salt=never)


def test_a_formula_decides_as_far_as_its_judges_do(rows: Rows) -> None:
    bench = bench_of(rows, JUDGE, CHECK, BLEND)
    assert bench.standing("blend").reason == "asks judge, which may only advise"
    with pytest.raises(NotEnoughEvidence, match="judge judge may only advise"):
        bench.require("blend")
    trusting = bench_of(rows, JUDGE, CHECK, BLEND, judges={"trusted": ["judge"]})
    assert trusting.standing("blend").may_gate
    trusting.require("blend")


def test_one_experts_word_on_both_sides_does_not_count(rows: Rows) -> None:
    """The judge compares with the answer that the same expert accepted: of course they agree."""
    bench = bench_of(rows, WITH_REFERENCE)
    for number in range(10):
        own = Reference(f"a{number}", 1.0, "expert").digest
        bench.judged(True, grader="compares", value=1.0, context=f"|p|{own}")
    other = Reference("somebody else's", 1.0, "expert").digest
    for _ in range(3):
        bench.judged(True, grader="compares", value=1.0, context=f"|p|{other}")
    found = bench.standing("compares")
    assert (found.labels, found.circular) == (3, 10)


def test_a_verdict_from_before_the_label_counts_where_a_judge_reads_feedback(rows: Rows) -> None:
    reads = {
        **JUDGE, "range": [0, 1], "input": [{"role": "user", "content": "{{ item.thumbs }}"}],
    }  # fmt: skip
    bench = bench_of(rows, reads)
    early = bench.judged(True, value=0.0)
    late = bench.judged(True, value=1.0)
    bench.scores[-1]["created_at"] = START + timedelta(days=1)
    bench.score(early, "judge", 1.0, at=START + timedelta(days=1))
    found = bench.standing()
    # The early verdict was wrong; what was made after the label saw it.
    assert (found.labels, found.circular, found.agreement) == (1, 1, 0.0)
    assert found.disagreements == [early] != [late]


def test_of_two_experts_the_latest_is_the_label_and_halves_never_change(rows: Rows) -> None:
    bench = bench_of(rows)
    name = bench.judged(True, value=5.0)
    bench.feedback.append({
        **bench.feedback[-1], "feedback_id": "fb_x", "author_id": "bob", "value_bool": False,
        "received_at": START + timedelta(days=1),
    })  # fmt: skip
    bench.write()
    [label] = expert_labels(rows.lake, bench.task, bench.salt)
    assert (label.completion_id, label.good, label.rater) == (name, False, "bob")
    assert label.half == "certify"
    halves = {half("s", f"k{number}") for number in range(20)}
    assert halves == {"tune", "certify"}
    assert half("s", "k") == half("s", "k")


def test_who_makes_up_a_probability_meets_the_hash(rows: Rows) -> None:
    bench = bench_of(rows)
    for probability in (1.0, 0.5, 1e-12, 7.0, -1.0):
        bench.judged(True, value=5.0, probability=probability)
    bench.write()
    found = {each.completion_id: each.probability for each in expert_labels(
        rows.lake, bench.task, bench.salt)}  # fmt: skip
    fair = 0.5 if chance(bench.salt, "cmpl_000001") < 0.5 else None
    assert list(found.values()) == [1.0, fair, None, None, None]


def test_rates_are_of_the_random_share_and_kept_for_status(rows: Rows) -> None:
    bench = bench_of(rows)
    for number in range(60):
        good = number % 4 > 0
        asked = 1.0 if number < 40 else None
        # What was asked for a reason is all wrong: it must not count.
        bench.judged(good and number < 40, value=5.0 if good else 1.0, probability=asked)
    bench.write()
    found = dict(report(rows.service, bench.task, rows.lake).rates)
    assert set(found) == {ALONE, "judge"}
    assert found[ALONE]["rate"] == pytest.approx(0.75)
    assert (found["judge"]["answers"], found["judge"]["labels"]) == (60, 40)
    assert found["judge"]["lower"] < 0.75 < found["judge"]["upper"]
    state = open_state(rows.service)
    assert {each["grader"] for each in kept(state, "text2sql")} == {ALONE, "judge"}
    state.close()


def test_a_grader_that_experts_words_change_makes_no_rates(rows: Rows) -> None:
    bench = bench_of(rows, WITH_REFERENCE)
    for _ in range(20):
        bench.judged(True, grader="compares", value=1.0, probability=1.0)
    bench.write()
    assert [name for name, _ in report(rows.service, bench.task, rows.lake).rates] == [ALONE]


@pytest.mark.parametrize(
    ("lower", "kappa", "labels", "expected"),
    [
        (0.71, 0.5, 50, True), (0.69, 0.5, 50, False), (0.7, 0.5, 50, True),
        (0.9, None, 50, False), (0.9, 0.0, 50, False), (0.0, None, 0, False),
    ],
)  # fmt: skip
def test_the_vote(lower: float, kappa: float | None, labels: int, expected: bool) -> None:
    standing = Standing(
        grader="j", kind="judge", version="v", labels=labels, units=labels, agreement=0.9,
        lower=lower, upper=1.0, kappa=kappa, confusion=None, disagreements=[], to_tune=0,
        circular=0, may_gate=False, reason="",
    )  # fmt: skip
    assert decide(standing, Judges(min_agreement=0.7))[0] is expected


def test_min_agreement_is_a_share_above_a_coin() -> None:
    with pytest.raises((ConfigError, ValueError)):
        Judges(min_agreement=0.5)
