"""A rubric judge is held against what experts say of each criterion."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evaluators.criteria import Agreed, by_criterion
from evaluators.graders import build_all
from evaluators.references import Reference
from everlearn.cli.judges import command
from everlearn.task import Task
from tests.builders import make_service
from tests.evaluators.lake import START, Rows
from tests.evaluators.test_judges import Bench, bench_of

RUBRIC: dict[str, Any] = {
    "name": "care", "type": "rubric_model", "model": "m",
    "criteria": [{"name": "safe", "text": "it hurts nobody", "gate": True},
                 {"name": "kind", "text": "it is kind"}],
}  # fmt: skip
OTHER = {**RUBRIC, "name": "other", "model": "n"}
STRANGE = {
    **RUBRIC, "name": "strange",
    "criteria": [{"name": "kind", "text": "it is one of a kind"}, {"name": "x", "text": "x"}],
}  # fmt: skip


def rubric_bench(rows: Rows, *graders: dict[str, Any], rubric: str | None = "care") -> Bench:
    return bench_of(rows, *(graders or (RUBRIC,)), labels={"rubric": rubric})


def asked(
    bench: Bench, said: dict[str, bool], met: dict[str, float | None], *,
    on: str = "certify", grader: str = "care", who: str = "ann",
) -> str:  # fmt: skip
    """An answer with an expert's word on criteria and a judge's."""
    name = bench.judged(True, grader=grader, value=1.0, on=on)
    bench.scores[-1]["sub_scores"] = json.dumps(met)
    told(bench, name, said, who)
    return name


def told(bench: Bench, name: str, said: dict[str, bool], who: str) -> None:
    """Later than all before it."""
    for criterion, good in said.items():
        number = len(bench.feedback)
        bench.feedback.append({
            "feedback_id": f"fb_c{number:06}", "completion_id": name, "kind": "label",
            "name": f"rubric.{criterion}", "value_text": "yes" if good else "no",
            "author": "expert", "author_id": who,
            "received_at": START + timedelta(hours=2, seconds=number),
        })  # fmt: skip


def found(bench: Bench) -> list[Agreed]:
    bench.write()
    return by_criterion(bench.rows.lake, bench.task, build_all(bench.task), bench.salt)


def test_each_criterion_has_its_own_agreement_and_interval(rows: Rows) -> None:
    bench = rubric_bench(rows)
    for number in range(20):
        apart = number % 4 == 0
        asked(
            bench, {"safe": True, "kind": number % 2 == 0},
            {"safe": 1.0, "kind": float((number % 2 == 0) != apart)},
        )  # fmt: skip
    safe, kind = found(bench)
    assert (safe.criterion, safe.labels, safe.units, safe.agreement) == ("safe", 20, 20, 1.0)
    assert safe.confusion is not None
    assert safe.confusion.kappa is None, "everybody says one thing only"
    assert (kind.agreement, kind.labels) == (0.75, 20)
    assert 0.5 < kind.lower < 0.75 < kind.upper < 0.95
    assert kind.confusion is not None
    assert (kind.confusion.judge_too_kind, kind.confusion.judge_too_strict) == (0, 5)
    assert kind.disagreements == [f"cmpl_0000{number:02}" for number in (16, 12, 8, 4, 0)]
    assert "criterion kind: agreement 0.750 [" in str(kind)


def test_labels_it_may_be_tuned_on_are_no_measure(rows: Rows) -> None:
    bench = rubric_bench(rows)
    asked(bench, {"kind": True}, {"safe": 1.0, "kind": 0.0}, on="tune")
    asked(bench, {"safe": True}, {"safe": 1.0, "kind": 1.0})
    [safe] = found(bench)
    assert (safe.criterion, safe.labels, safe.agreement) == ("safe", 1, 1.0)


def test_a_criterion_that_a_gate_left_unasked_is_no_verdict(rows: Rows) -> None:
    bench = rubric_bench(rows)
    asked(bench, {"safe": False, "kind": False}, {"safe": 0.0, "kind": None})
    safe, kind = found(bench)
    assert (safe.labels, safe.agreement) == (1, 1.0)
    assert (kind.labels, kind.agreement, kind.confusion) == (0, None, None)
    assert str(kind) == "criterion kind: no verdict on a certified label"


def test_the_latest_word_of_an_expert_and_of_the_judge_counts(rows: Rows) -> None:
    bench = rubric_bench(rows)
    name = asked(bench, {"kind": True}, {"safe": 1.0, "kind": 1.0})
    told(bench, name, {"kind": False}, "bob")
    bench.score(name, "care", 0.0, at=START + timedelta(days=1))
    bench.scores[-1]["sub_scores"] = json.dumps({"safe": 1.0, "kind": 0.0})
    [kind] = found(bench)
    assert (kind.labels, kind.agreement) == (1, 1.0)


@pytest.mark.parametrize("broken", [None, "[]", '"kind"', "{"])
def test_sub_scores_that_cannot_be_read_are_no_verdict(rows: Rows, broken: str | None) -> None:
    bench = rubric_bench(rows)
    asked(bench, {"kind": True}, {})
    bench.scores[-1]["sub_scores"] = broken
    assert [each.labels for each in found(bench)] == [0]


def test_another_judge_of_the_same_criteria_is_measured_and_one_of_others_is_not(
    rows: Rows,
) -> None:
    bench = rubric_bench(rows, RUBRIC, OTHER, STRANGE)
    name = asked(bench, {"kind": True}, {"safe": 1.0, "kind": 1.0})
    for grader in ("other", "strange"):
        bench.score(name, grader, 0.0, at=START)
        bench.scores[-1]["sub_scores"] = json.dumps({"safe": 1.0, "kind": 0.0})
    assert [(each.grader, each.agreement) for each in found(bench)] == [
        ("care", 1.0), ("other", 0.0),
    ]  # fmt: skip


def test_the_judges_own_reference_by_the_same_expert_does_not_count(rows: Rows) -> None:
    bench = rubric_bench(rows, {**RUBRIC, "request": "{{item.reference}}"})
    name = asked(bench, {"kind": True}, {"safe": 1.0, "kind": 1.0})
    bench.write()
    told_right = by_criterion(rows.lake, bench.task, build_all(bench.task), bench.salt)
    assert [each.labels for each in told_right] == [1]
    own = Reference("a0", 1.0, "expert").digest
    assert bench.completions[0]["response_text"] == "a0", name
    rows.lake.commit(lambda lake: lake.append("scores", [
        {**bench.scores[-1], "created_at": START + timedelta(days=1), "context": f"|p|{own}",
         "sub_scores": json.dumps({"safe": 1.0, "kind": 0.0})},
    ]))  # fmt: skip
    [kind] = by_criterion(rows.lake, bench.task, build_all(bench.task), bench.salt)
    assert (kind.labels, kind.agreement) == (1, 1.0), "the verdict that saw it is passed over"


def test_a_task_without_a_rubric_reads_nothing(tmp_path: Path) -> None:
    make_service(tmp_path)
    task = Task.model_validate({
        "task": "t", "base_model": "b", "upstream": "local", "graders": [RUBRIC],
        "release": {"primary": "care"},
    })  # fmt: skip
    nothing: Any = None
    assert by_criterion(nothing, task, build_all(task), "salt") == []


def test_the_verb_shows_them_under_their_judge(rows: Rows) -> None:
    bench = rubric_bench(rows)
    asked(bench, {"kind": True, "safe": True}, {"safe": 1.0, "kind": 0.0})
    bench.write()
    content = {
        "task": "text2sql", "base_model": "base", "upstream": "local", "graders": [RUBRIC],
        "labels": {"rubric": "care"}, "release": {"primary": "care"},
    }  # fmt: skip
    (rows.service.tasks_path / "text2sql.yaml").write_text(json.dumps(content))
    config = ["--config", str(rows.service.root / "everlearn.yaml")]
    told = CliRunner().invoke(command, ["text2sql", *config]).output.splitlines()
    head = next(n for n, line in enumerate(told) if line.startswith("care (judge)"))
    under = told[head : head + 5]
    assert any(line.startswith("  criterion kind: agreement 0.000 [") for line in under)
    rows_ = json.loads(CliRunner().invoke(command, ["text2sql", "--json", *config]).output)
    [safe, kind] = rows_["criteria"]
    assert (safe["criterion"], kind["criterion"], kind["agreement"]) == ("safe", "kind", 0.0)
    assert kind["confusion"]["judge_too_strict"] == 1
