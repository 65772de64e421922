"""One row stops nobody: a thousand hostile rows go the whole way, from the log to the plan of a
training run, and every one of them is accounted for."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.collect import Collector
from collector.wal_source import WalSource
from evaluators.fill import fill
from evaluators.labels import agreements
from evaluators.queue import Queue, ask
from evaluators.references import references
from evaluators.run import EvaluateReport, evaluate
from everlearn.config import Service
from everlearn.events import encode
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.log.wal import WalWriter
from everlearn.rules import Labels
from everlearn.state import open_state
from everlearn.task import Task, load_task
from registry.versions import Registry
from tests.builders import make_completion, make_feedback, make_service
from tests.hostile import events
from trainer.plan import plan
from trainer.snapshot import freeze

COUNT = 1200
GOOD = [f"cmpl_good{number}" for number in range(20)]
GRADERS = [
    {"type": "string_check", "name": "matches", "input": "{{ sample.output_text }}",
     "reference": "{{ item.reference }}", "operation": "eq"},
    {"type": "string_check", "name": "calls", "input": "{{ sample.output_tools }}",
     "reference": "f", "operation": "like"},
    {"type": "text_similarity", "name": "near", "input": "{{ item.messages }}{{ item.tools }}",
     "reference": "{{ sample.choices }}", "evaluation_metric": "fuzzy_match"},
    {"type": "json_schema", "name": "shape", "json_schema": {"type": "object"}},
    {"type": "feedback", "name": "thumbs", "feedback": "thumbs"},
]  # fmt: skip
TASK = {
    "task": "hostile", "base_model": "models/none", "upstream": "local", "graders": GRADERS,
    "heldout": {"grader": "matches", "percent": 30}, "release": {"primary": "matches"},
}  # fmt: skip
ALIKE = b'{"messages":[{"role":"user","content":"ordinary"}]}'


class Way:
    """What became of the rows at each station, made once."""

    def __init__(self, folder: Path, mlflow: str) -> None:
        self.service: Service = make_service(folder, mlflow={"tracking_uri": mlflow})
        (folder / "tasks" / "hostile.yaml").write_text(yaml.safe_dump(TASK))
        self.task: Task = load_task(self.service, "hostile")
        self.records = self._log()
        self.lake: DuckLake = open_lake(self.service)
        collector = Collector(WalSource(self.service.wal_path), self.lake, self.service.collector)
        collector.run(lambda: True, lambda _: None)
        self.report: EvaluateReport = evaluate(self.service, self.task, self.lake)

    def _log(self) -> int:
        wal = WalWriter(self.service.wal_path, 0, self.service.gateway.capture)
        written = 0
        for event in events(COUNT):
            wal.append(event if isinstance(event, bytes) else encode(event))
            written += 1
        for name in GOOD:
            wal.append(encode(make_completion(completion_id=name, task="hostile", request=ALIKE)))
            wal.append(encode(make_feedback(completion_id=name, author="expert")))
        wal.close()
        return written + 2 * len(GOOD)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.lake.read(sql).to_pylist()
        return found


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory, mlflow_address: str) -> Way:
    return Way(tmp_path_factory.mktemp("hostile"), mlflow_address)


def test_every_record_is_a_row_or_a_dead_letter(way: Way) -> None:
    counts = {
        name: way.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"]
        for name in ("completions", "feedback", "dead_letters")
    }
    assert sum(counts.values()) == way.records
    assert counts["completions"] == COUNT + len(GOOD)
    assert counts["dead_letters"] == COUNT / 50
    assert all(row["reason"] for row in way.rows("SELECT reason FROM dead_letters"))


def test_what_the_lake_calls_json_is_json(way: Way) -> None:
    columns = ("messages", "tools", "answer", "sampling", "metadata", "response_format")
    for column in columns:
        for row in way.rows(f"SELECT {column} AS json FROM completions WHERE {column} IS NOT NULL"):
            json.loads(row["json"])
            row["json"].encode()


def test_odd_rows_leave_most_answers_readable(way: Way) -> None:
    [row] = way.rows(
        "SELECT count(answer) AS answers, count(messages) AS messages, count(*) AS rows "
        "FROM completions"
    )
    # One place bent of some thirty, one body in four torn: most of each body is still there.
    assert row["answers"] > 0.6 * row["rows"]
    assert row["messages"] > 0.6 * row["rows"]


def test_every_verdict_is_met(way: Way) -> None:
    found = {row["status"] for row in way.rows("SELECT DISTINCT status FROM completions")}
    assert found >= {"ok", "incomplete", "refused", "upstream_error", "shadow", "client_abort"}


def test_every_answer_has_a_score_or_a_reason_of_every_grader(way: Way) -> None:
    [row] = way.rows(
        "SELECT count(*) AS n FROM completions WHERE response_text IS NOT NULL "
        "AND (status = 'ok' OR (status = 'shadow' AND error IS NULL))"
    )
    assert way.report.completions == row["n"] > COUNT / 4
    scores = way.rows("SELECT value, reason, error FROM scores_current")
    assert len(scores) == row["n"] * len(GRADERS)
    assert all(each["value"] is not None or each["reason"] or each["error"] for each in scores)


def test_the_others_are_scored(way: Way) -> None:
    found = way.rows("SELECT completion_id, value FROM scores_current WHERE evaluator = 'thumbs'")
    scores = {row["completion_id"]: row["value"] for row in found}
    assert [scores[name] for name in GOOD] == [1.0] * len(GOOD)


def test_evaluate_has_nothing_left_to_do(way: Way) -> None:
    again = evaluate(way.service, way.task, way.lake)
    failed = way.rows("SELECT count(*) AS n FROM scores_current WHERE error IS NOT NULL")[0]["n"]
    assert again.completions <= failed


def test_references_labels_and_agreements_come_to_an_end(way: Way) -> None:
    assert references(way.lake, "hostile")
    labels = Labels(random_percent=100, max_open=10_000)
    task = way.task.model_copy(update={"labels": labels})
    filled = fill(way.service, task, way.lake)
    assert filled.random > COUNT / 4
    with closing(open_state(way.service)) as state:
        queue, seen = Queue(state, task), 0
        while (found := ask(queue, way.lake, "hostile", "ann")) is not None:
            assert found.answer.text or found.answer.calls
            queue.label(found.completion_id, "ann", "right")
            seen += 1
    assert seen == sum(filled)
    assert agreements(way.lake, way.task)


def test_a_snapshot_accounts_for_every_judged_answer_and_a_dry_run_says_its_plan(way: Way) -> None:
    made = freeze(way.lake, way.task, champion="base", salt="s")
    judged = way.rows(
        "SELECT f.completion_id, count(*) AS voices FROM feedback_joined f JOIN completions c "
        "USING (completion_id) WHERE c.status = 'ok' AND ((f.name = 'thumbs' AND f.kind = 'binary' "
        "AND f.value_bool IS NOT NULL) OR f.kind = 'correction' AND f.value_text IS NOT NULL) "
        "GROUP BY f.completion_id"
    )
    there = {row.completion_id for row in made.rows}
    # Of what is left out several people spoke, and their voices are even.
    assert all(row["completion_id"] in there or row["voices"] > 1 for row in judged)
    assert set(GOOD) <= there
    assert all(row.dropped_reason for row in made.side("dropped"))
    planned = plan(
        way.lake, way.task, Registry(way.service), salt="s", method="sft", write=False,
        snapshot_id=made.snapshot_id,
    )  # fmt: skip
    assert planned.summary()["counts"] == made.counts
