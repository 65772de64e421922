"""The loop's numbers at a scrape, over a lake and a state store with a known story in them."""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from console import gauges, source
from console.app import create_app
from evaluators.queue import Candidate, Queue
from evaluators.run import evaluate
from everlearn.errors import ConfigError, LakeError
from everlearn.metrics import DataFolder, answer_prometheus
from everlearn.state import open_state
from everlearn.task import load_task
from tests.builders import make_service
from tests.console.loop import fill
from tests.console.session import browser, write_task
from tests.evaluators.lake import START, Rows
from tests.scrape import value
from trainer.lock import holding


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rows]:
    # every scrape looks anew, however slow the machine is
    monkeypatch.setattr(gauges, "KEPT_SECONDS", 0.0)
    monkeypatch.setattr(source, "CHEAP_SECONDS", float("inf"))
    made = Rows(tmp_path)
    write_task(tmp_path, "text2sql")
    yield made
    made.lake.close()


def scraped(app: Any) -> str:
    return generate_latest(app.state.metrics.registry).decode()


def told(text: str, name: str, **labels: str) -> float:
    return value(text, f"everlearn_{name}", task="text2sql", **labels)


def test_the_backlog_is_what_no_grader_has_looked_at_and_its_age(rows: Rows) -> None:
    app, task = create_app(rows.service), load_task(rows.service, "text2sql")
    rows.answered("a", "1")
    rows.answered("b", "2", status="upstream_error")
    rows.answered("c", "3", task="other")
    text = scraped(app)
    assert told(text, "unscored_backlog") == 1
    assert told(text, "unscored_oldest_timestamp_seconds") == START.timestamp() + 1
    evaluate(rows.service, task, rows.lake)
    text = scraped(app)
    assert told(text, "unscored_backlog") == 0
    with pytest.raises(KeyError):
        told(text, "unscored_oldest_timestamp_seconds")
    rows.answered("d", "4")
    text = scraped(app)
    assert told(text, "unscored_backlog") == 1
    assert told(text, "unscored_oldest_timestamp_seconds") == START.timestamp() + 4


def test_the_newest_label_is_an_experts_and_follows_the_lake(rows: Rows) -> None:
    app = create_app(rows.service)
    first = rows.answered("a", "1")
    rows.said(first, author="expert", task="text2sql")
    assert told(scraped(app), "expert_label_timestamp_seconds") == START.timestamp() + 2
    rows.said(first, task="text2sql")
    assert told(scraped(app), "expert_label_timestamp_seconds") == START.timestamp() + 2
    rows.said(first, author="expert", task="text2sql")
    assert told(scraped(app), "expert_label_timestamp_seconds") == START.timestamp() + 4


def test_the_label_queue_by_state(rows: Rows) -> None:
    task = load_task(rows.service, "text2sql")
    with closing(open_state(rows.service)) as state:
        queue = Queue(state, task)
        queue.offer(Candidate(n, n, "disagreement", "why", 0.5, None) for n in ("c1", "c2"))
        assert queue.next("ann") is not None
        assert queue.label("c1", "ann", "right")
    text = scraped(create_app(rows.service))
    found = [told(text, "label_queue", state=name) for name in ("open", "labelled", "skipped")]
    assert found == [1, 1, 0]


def test_a_training_runs_and_then_has_an_outcome(rows: Rows) -> None:
    app = create_app(rows.service)
    assert told(scraped(app), "training_running") == 0
    began = time.time()
    with holding(rows.service, "text2sql") as held:
        assert told(scraped(app), "training_running") == 1
        held.ended("run_1", "nothing_learned")
    text = scraped(app)
    assert told(text, "training_running") == 0
    assert told(text, "training_last_outcome", outcome="nothing_learned") == 1
    assert told(text, "training_last_end_timestamp_seconds") >= began
    with holding(rows.service, "text2sql") as held:
        held.ended("run_2", "registered")
    text = scraped(app)
    assert told(text, "training_last_outcome", outcome="registered") == 1
    with pytest.raises(KeyError):
        told(text, "training_last_outcome", outcome="nothing_learned")


def test_releases_and_scores_are_those_of_the_lake(rows: Rows) -> None:
    fill(rows)
    text = scraped(create_app(rows.service))
    assert told(text, "release_running") == 0
    assert told(text, "release_percent") == 100
    assert told(text, "release_last_event_timestamp_seconds") == START.timestamp() + 220
    assert told(text, "scores", evaluator="same", state="scored") == 12
    unseen = {"release_id": "rel_unseen", "task": "text2sql", "version": "9", "percent": 0.0}
    row = {**unseen, "event": "pairing", "created_at": START.timestamp() + 300}
    rows.lake.commit(lambda transaction: transaction.append("releases", [row]))
    text = scraped(create_app(rows.service))
    assert told(text, "release_running") == 1
    assert told(text, "release_percent") == 0


def test_what_cannot_be_read_is_left_out_and_the_rest_is_told(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise LakeError("the disk is gone")

    monkeypatch.setattr(gauges, "backlog", broken)
    text = scraped(create_app(rows.service))
    assert value(text, "everlearn_loop_readable", part="backlog") == 0
    assert value(text, "everlearn_loop_readable", part="trainings") == 1
    assert "everlearn_unscored_backlog" not in text
    assert told(text, "training_running") == 0


def test_requests_are_counted_by_page_not_by_address(rows: Rows) -> None:
    app = create_app(rows.service)
    with browser(app) as nobody:
        nobody.get("/health")
        for name in ("a", "b", "c"):
            nobody.client.get(
                f"/datasets/{name}", headers={"authorization": f"Bearer {app.state.token}"}
            )
    text = scraped(app)
    name = "everlearn_console_requests_total"
    assert value(text, name, page="/datasets/{snapshot_id}", code="404") == 3
    assert value(text, name, page="other", code="200") == 1
    assert "/datasets/a" not in text


def test_the_disk_of_the_data_folder_while_it_is_there(tmp_path: Path) -> None:
    registry, folder = CollectorRegistry(), tmp_path / "data"
    registry.register(DataFolder(folder))
    assert generate_latest(registry) == b""
    folder.mkdir()
    text = generate_latest(registry).decode()
    free, total = (value(text, f"everlearn_data_{name}_bytes") for name in ("free", "total"))
    assert total == shutil.disk_usage(folder).total
    assert 0 < free <= total


def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"console.metrics_port = {port}"):
            answer_prometheus(service, "console.metrics_port", port, CollectorRegistry())
