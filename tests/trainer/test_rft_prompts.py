"""RFT from prompts and a grader, nothing else: no feedback, no right answer anywhere."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
import yaml

from evaluators.types import Score
from everlearn.errors import NotEnoughEvidence, TrainingError
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.task import Task, load_task
from registry.versions import Registry
from tests.builders import make_service
from tests.trainer.examples import accepted, corrected, make_row, rejected
from tests.trainer.production import completion, make_task
from tests.trainer.test_run import call
from tests.trainer.tiny import THINGS, WORDS, colour
from trainer.methods import TrainingData, rft
from trainer.plan import plan
from trainer.reward import (
    FLAT_STEPS,
    Flat,
    Grading,
    Mark,
    Unscored,
    Verdict,
    attributed,
    item,
    needs_reference,
    trl_reward,
)
from trainer.rows import Row
from trainer.run import train
from trainer.snapshot import freeze

LOOKED_UP = {
    "type": "execution",
    "name": "looked_up",
    "language": "sql",
    "database": "../things.duckdb",
    "input": "SELECT '{{sample.output_text}}'",
    "reference": "SELECT colour FROM things WHERE name = '{{item.metadata.thing}}'",
}


class Shop:
    """A lake of questions that nobody gave feedback on, and a table that knows."""

    def __init__(self, folder: Path, model: Path, mlflow: str, **train: Any) -> None:
        self.name = f"things-{folder.name[-20:].lower()}".rstrip("_-")
        content = make_task(folder, model, self.name, **train)
        content |= {"graders": [LOOKED_UP], "release": {"primary": "looked_up"}}
        (folder / "tasks" / "colours.yaml").write_text(yaml.safe_dump(content))
        with duckdb.connect(str(folder / "things.duckdb")) as database:
            database.execute("CREATE TABLE things (name VARCHAR, colour VARCHAR)")
            pairs = [(thing, colour(thing)) for thing in THINGS]
            database.executemany("INSERT INTO things VALUES (?, ?)", pairs)
        self.service = make_service(folder, mlflow={"tracking_uri": mlflow})
        self.task: Task = load_task(self.service, self.name)
        self.lake: DuckLake = open_lake(self.service)
        self.registry = Registry(self.service)
        rows = [
            completion(number, thing, word, task=self.name, metadata={"thing": thing})
            for number, (thing, word) in enumerate((t, w) for t in THINGS for w in WORDS)
        ]
        self.lake.commit(lambda transaction: transaction.append("completions", rows))


@pytest.fixture
def shop(tmp_path: Path, model: Path, mlflow: str) -> Iterator[Shop]:
    made = Shop(tmp_path, model, mlflow)
    yield made
    made.lake.close()


@pytest.mark.slow
def test_prompts_and_a_grader_that_runs_sql_are_enough_to_learn(shop: Shop) -> None:
    made = plan(shop.lake, shop.task, shop.registry, salt="", method="rft")
    assert made.refusal is None
    assert {row.target for row in made.snapshot.rows} == {None}
    assert made.snapshot.side("select")
    assert made.judged() is None
    # A judge of the reward loses its vote meanwhile: what was learned by it may not pass the gate.
    lost = replace(made, judged=lambda: "reward: judge kind may only advise")
    outcome = train(shop.service, shop.task, lost, shop.registry, lambda _: None)
    assert outcome.finding == (
        "its judge lost its vote while it trained: reward: judge kind may only advise"
    )
    # Half of what is asked the base model has right; the other word it learns by the grader alone.
    assert outcome.champion["heldout"] == 0.5
    assert outcome.tried[0]["heldout"] >= 0.9
    check_evidence(shop, outcome.run_id)


def check_evidence(shop: Shop, run_id: str) -> None:
    """Each step's metrics are in MLflow, and some of its completions in a table."""
    client = shop.registry.client
    for name in ("reward", "unscored", "looked_up"):
        found = client.get_metric_history(
            run_id, f"rft/reward/{name}" if name != "reward" else name
        )
        assert [each.step for each in found] == list(range(1, 41)), name
    logged = client.get_run(run_id).data.metrics
    assert {"rft/entropy", "rft/frac_reward_zero_std", "rft/completions/mean_length"} <= set(logged)
    opened = client.get_metric_history(run_id, "rft/curriculum/open")
    assert max(each.value for each in opened) > 0
    assert 0 < logged["rft/curriculum/asked"] <= 1
    table = json.loads(Path(client.download_artifacts(run_id, "completions.json")).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert {row["step"] for row in rows} == set(range(1, 41))
    assert {"prompt", "completion", "reward", "looked_up", "completion_id"} <= set(rows[0])
    assert client.get_run(run_id).data.tags["mlflow.loggedArtifacts"] == (
        '[{"path": "completions.json", "type": "table"}]'
    )


@pytest.mark.slow
def test_a_dry_run_says_prompts_grader_time_and_memory(
    shop: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shop.lake.close()
    words = ("train", shop.name, "--method", "rft", "--dry-run")
    config = ("--config", str(tmp_path / "everlearn.yaml"))
    code, said, _ = call(monkeypatch, capsys, *words, *config)
    assert code == 0
    assert "prompts, rewarded by reward = (looked_up) / 1, which needs no right answer" in said
    assert "GiB and at most 1 min in float32, 2560 answers are graded" in said
    assert "the grader scored 8 of 8 logged answers" in said
    code, said, _ = call(monkeypatch, capsys, *words, *config, "--json")
    assert json.loads(said)["rft"]["tried"]["scored"] == 8


def test_any_admitted_prompt_is_asked_once_known_answers_first() -> None:
    rows = (
        make_row(prompt="ordinary"),
        make_row(prompt="failed", kind="prompt"),
        rejected(prompt="disliked"),
        corrected(prompt="ordinary", target="right"),
        accepted(prompt="liked"),
    )
    found = {
        str(row.messages[0]["content"]): row.kind
        for row in rft.prompts(TrainingData(rows, reference=False))
    }
    assert found == {
        "ordinary": "correction", "failed": "prompt", "disliked": "rejected", "liked": "accepted"
    }  # fmt: skip
    known = rft.prompts(TrainingData(rows, reference=True))
    assert {row.kind for row in known} == {"correction", "accepted"}


def test_too_few_prompts_are_named_for_what_the_grader_needs() -> None:
    rows = (make_row(), make_row(), accepted())
    assert rft.lacking(TrainingData(rows, reference=False)) == "3 prompts < 8"
    assert rft.lacking(TrainingData(rows, reference=True)) == "1 prompts with a right answer < 8"


def python(source: str, **fields: Any) -> dict[str, Any]:
    return {"type": "python", "name": "own", "source": source, **fields}


def make(folder: Path, *graders: dict[str, Any], **fields: Any) -> tuple[Task, Grading]:
    primary = {"release": {"primary": graders[0]["name"]}}
    task = Task(
        task="t", base_model="m", upstream="local", graders=graders, **{**primary, **fields}
    )
    return task, Grading(task, make_service(folder), task.reward or task.graders[0])


def test_what_the_answer_did_to_the_grader_is_zero(tmp_path: Path) -> None:
    source = "def grade(sample, item):\n    return 1.0 / (len(sample['output_text']) - 4)\n"
    _, grading = make(tmp_path, python(source))
    row = make_row(completion="logged")
    verdicts = grading.detailed([row, row], ["four", "fives"])
    assert [each.value for each in verdicts] == [0.0, 1.0]
    assert "the answer's doing: ZeroDivisionError" in str(verdicts[0].reason)
    grading.close()


def test_what_somebody_else_did_is_unscored(tmp_path: Path) -> None:
    source = "def grade(sample, item):\n    return float(item['metadata']['price'])\n"
    _, grading = make(tmp_path, python(source))
    rows = [make_row(), make_row(context={"metadata": {"price": 0.5}})]
    verdicts = grading.detailed(rows, ["a", "a"])
    assert [each.value for each in verdicts] == [None, 0.5]
    assert "KeyError" in str(verdicts[0].reason)
    grading.close()


def test_a_grader_that_is_away_for_a_moment_is_nobodys_zero() -> None:
    row = make_row(completion="logged")
    new = {(row.completion_id, row.row_hash, "an answer"): row}
    away = [Score(error="judge: 503")]

    def ask(answers: Mapping[Mark, Row]) -> dict[Mark, Score]:
        return {mark: away.pop() if away else Score(1.0) for mark in answers}

    assert [each.value for each in attributed(new, ask).values()] == [1.0]


def test_one_component_without_a_verdict_leaves_the_whole_reward_without(tmp_path: Path) -> None:
    broken = python("def grade(sample, item):\n    return item['metadata']['price']\n")
    length = {
        **python("def grade(sample, item):\n    return len(sample['output_text'])\n"),
        "name": "length",
    }
    formula = {"type": "multi", "calculate_output": "0.5*own + 0.5*length"}
    _, grading = make(tmp_path, broken, length, reward=formula)
    (verdict,) = grading.detailed([make_row()], ["abc"])
    assert verdict.value is None
    assert verdict.parts == {"own": None, "length": 3.0}
    grading.close()


def test_too_many_unscored_answers_end_the_run_with_the_commonest_reason() -> None:
    seen = Unscored(0.25)
    good, bad = Verdict(1.0, {}), Verdict(None, {}, "judge: 503")
    seen.saw([bad, bad])  # one step says too little
    for _ in range(6):
        seen.saw([good] * 8)
    seen.saw([good] * 4 + [bad] * 4)
    with pytest.raises(TrainingError, match=r"30% of the last 40 .*max_unscored 25%: judge: 503"):
        seen.saw([bad] * 8)


def test_a_grader_that_raises_on_every_third_row_pulls_nothing_and_ends_a_run_that_minds(
    tmp_path: Path,
) -> None:
    source = (
        "def grade(sample, item):\n"
        "    if item['metadata']['n'] % 3 == 2:\n"
        "        raise ValueError('the third')\n"
        "    return float(sample['output_text'] == 'yes')\n"
    )
    _, grading = make(tmp_path, python(source))
    rows = [make_row(completion="no", context={"metadata": {"n": n}}) for n in range(3)]
    asked = {
        "prompts": None,
        "completions": ["yes", "no"] * 3,
        "row": [0, 0, 1, 1, 2, 2],
        "trainer_state": SimpleNamespace(global_step=0, max_steps=9),
    }
    patient = trl_reward(grading, rows, max_unscored=0.5)
    # Of the third row both answers are given the same: no advantage, either way.
    assert [patient(**asked) for _ in range(2)] == [[1.0, 0.0, 1.0, 0.0, 0.0, 0.0]] * 2
    strict = trl_reward(grading, rows, max_unscored=0.25)
    strict(**asked)
    with pytest.raises(TrainingError, match=r"33% of the last 12 answers .*the third"):
        strict(**asked)
    grading.close()


def flat(values: list[list[float | None]], first: int = 0) -> None:
    """A run whose steps were given `values`, two answers to each prompt."""
    seen = Flat()
    for step, given in enumerate(values, start=first + 1):
        seen.saw(step, given, [place // 2 for place in range(len(given))])


def test_a_reward_that_tells_nothing_apart_ends_the_run() -> None:
    # Prompts differ; no two answers to the same one do.
    same: list[float | None] = [0.0, 0.0, 1.0, 1.0, None, 0.5]
    flat([same] * (FLAT_STEPS - 1))
    with pytest.raises(
        TrainingError, match=r"first 48 answers .*\(the last were given 0, 0.5, 1\)"
    ):
        flat([same] * FLAT_STEPS)


def test_a_run_that_has_solved_its_prompts_goes_on() -> None:
    solved: list[float | None] = [1.0, 1.0]
    flat([[0.0, 1.0], *[solved] * 20])
    # Taken up after a kill, when all is solved.
    flat([solved] * 20, first=30)


def test_the_item_of_training_is_the_live_one(shop: Shop) -> None:
    said = {"author": "end_user", "weight": 1.0, "received_at": 1.0, "completion_id": "cmpl_00000"}
    shop.lake.commit(
        lambda transaction: transaction.append(
            "feedback",
            [
                {**said, "feedback_id": "f1", "kind": "binary", "name": "thumbs",
                 "value_bool": True},
                {**said, "feedback_id": "f2", "kind": "correction", "name": "correction",
                 "value_text": "black", "author": "expert"},
            ],
        )
    )  # fmt: skip
    row = by_id(freeze(shop.lake, shop.task, champion="base", salt="").rows)["cmpl_00000"]
    known = item(row)
    assert known["metadata"] == {"thing": "thing0"}
    assert (known["thumbs"], known["correction"], known["version"]) == (True, "black", "base")
    assert [each["kind"] for each in known["feedback"]] == ["binary", "correction"]
    assert known["response"] == "red"
    assert known["reference"] == "black"


def by_id(rows: tuple[Row, ...]) -> dict[str, Row]:
    return {row.completion_id: row for row in rows}


def test_a_prompt_whose_answer_failed_is_asked_again_where_no_reference_is_needed(
    tmp_path: Path,
) -> None:
    from trainer.admit import admit

    rows = [
        make_row(prompt="broken", verdicts={"runs": 0.0}),
        make_row(prompt="cut", finish_reason="length"),
        make_row(prompt="mute", completion=""),
        make_row(prompt="fine"),
        make_row(prompt="fine", verdicts={"runs": 0.0}),
        make_row(prompt="hers", trainable=False),
    ]
    kept = admit(rows, max_per_unit=9, must_pass=["runs"], ask=True)
    found = {
        str(row.messages[0]["content"]): row.kind for row in kept if row.dropped_reason is None
    }
    assert found == {"broken": "prompt", "cut": "prompt", "mute": "prompt", "fine": "replay"}
    assert {row.dropped_reason for row in kept} == {None, "duplicate", "no_consent"}


def test_a_grader_needs_a_reference_only_where_it_reads_one(tmp_path: Path) -> None:
    task, grading = make(
        tmp_path,
        python("def grade(sample, item):\n    return item['reference'] == 'x'\n"),
        {"type": "string_check", "name": "named", "operation": "eq",
         "input": "{{sample.output_text}}", "reference": "{{item.metadata.thing}}"},
    )  # fmt: skip
    assert [needs_reference(task, grader) for grader in task.graders] == [True, False]
    grading.close()


def test_no_prompt_means_no_evidence(shop: Shop) -> None:
    with pytest.raises(NotEnoughEvidence, match="0 prompts"):
        plan(
            shop.lake, shop.task, shop.registry, salt="", method="rft", refuses=lambda _: "too_long"
        ).check()
