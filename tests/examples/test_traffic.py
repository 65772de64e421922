import ast
import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.text2sql import traffic as module
from examples.text2sql.language import Kind, part_of
from examples.text2sql.people import People
from examples.text2sql.traffic import Traffic, accuracy, command, summary
from tests.ports import find_free_port

EXAMPLE = Path(module.__file__).parent
PRODUCT = {
    "everlearn", "gateway", "collector", "evaluators", "trainer", "registry", "serving", "console",
}  # fmt: skip
EAGER = People(thumbs_share=0.8, review_share=0.8, max_corrections=15, think_seconds=0.02)


@pytest.mark.slow
@pytest.mark.anyio
async def test_people_ask_run_what_they_get_and_say_what_they_think(gateway: str) -> None:
    traffic = Traffic(gateway, rate_per_second=40, seed=3, people=EAGER)
    await traffic.run(requests=150)

    seen = summary(traffic)
    assert seen["requests"] == 150
    assert seen["failed"] == seen["failed_feedback"] == 0
    assert seen["accuracy"]["formal"] >= 0.95
    assert 0.25 <= seen["accuracy"]["jargon"] <= 0.75
    assert seen["runs"] >= 0.95
    assert 95 <= traffic.thumbs <= 145
    assert traffic.corrections == 15
    assert traffic.accepted > 0

    ids = [record.completion_id for record in traffic.records]
    assert len(set(ids)) == 150
    assert None not in ids
    assert {(record.arm, record.version) for record in traffic.records} == {("champion", "base")}
    assert {record.stream for record in traffic.records} == {True, False}
    assert max(Counter(record.user for record in traffic.records).values()) <= 3
    assert all(part_of(record.question) == "asked" for record in traffic.records)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "lowest", "highest"), [("jargon", 0.35, 0.65), ("formal", 0.97, 1)]
)
def test_accuracy_is_measured_through_the_gateway(
    gateway: str, kind: Kind, lowest: float, highest: float
) -> None:
    assert lowest <= accuracy(gateway, "text2sql", kind, 80) <= highest


@pytest.mark.slow
def test_the_command_prints_what_people_saw_and_writes_the_truth(
    gateway: str, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.jsonl"
    arguments = ["--base-url", gateway, "--requests", "5", "--rate", "50", "--truth", str(truth)]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["requests"] == 5
    assert len(truth.read_text().splitlines()) == 5


@pytest.mark.anyio
async def test_a_failed_request_is_seen_and_not_tried_again() -> None:
    traffic = Traffic(f"http://127.0.0.1:{find_free_port()}/v1", rate_per_second=100, people=EAGER)
    await traffic.run(requests=4)
    assert len(traffic.records) == 4
    assert all("APIConnectionError" in (record.error or "") for record in traffic.records)
    assert summary(traffic)["failed"] == 4
    assert traffic.thumbs == traffic.corrections == 0


@pytest.mark.anyio
async def test_nobody_comes_after_the_stop() -> None:
    traffic = Traffic(f"http://127.0.0.1:{find_free_port()}/v1")
    traffic.stop()
    await traffic.run()
    assert traffic.records == []


@pytest.mark.parametrize(
    "name", ["traffic.py", "people.py", "language.py", "database.py", "simulate.py"]
)
def test_people_are_outside_the_product(name: str) -> None:
    tree = ast.parse((EXAMPLE / name).read_text())
    imported = {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    } | {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not imported & PRODUCT
