"""The console over a real lake and a real gateway-shaped server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from console.app import create_app
from evaluators import isolation
from everlearn.config import load
from tests.console.gateway import entered
from tests.evaluators.graders import make_database
from tests.evaluators.lake import Rows
from tests.ports import find_free_port

EXECUTES = {"name": "executes", "type": "execution", "language": "sql", "database": "orders.duckdb"}
CHECK = {
    "name": "same", "type": "string_check", "operation": "eq",
    "input": "{{ sample.output_text }}", "reference": "{{ item.reference }}",
}  # fmt: skip
CAT = {"name": "cat", "type": "execution", "language": "command", "command": ["cat"]}
READS = {
    "name": "reads", "type": "score_model", "model": "m", "guidelines": "/etc/passwd",
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}  # fmt: skip
RUN = "/v1/fine_tuning/alpha/graders/run"


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path)
    make_database(tmp_path / "tasks")
    task = {
        "task": "text2sql", "base_model": "base", "upstream": "local",
        "graders": [EXECUTES, {**CAT, "command": ["true"]}],
        "release": {"primary": "executes"},
    }  # fmt: skip
    (tmp_path / "tasks" / "text2sql.yaml").write_text(yaml.safe_dump(task))
    yield made
    made.lake.close()


@pytest.fixture
def client(rows: Rows) -> Iterator[TestClient]:
    with entered(create_app(rows.service)) as made:
        yield made


def test_the_overview_shows_every_task_and_escapes_what_models_say(
    rows: Rows, client: TestClient
) -> None:
    rows.answered("q", "SELECT 1", version="<b>1</b>")
    page = client.get("/")
    assert page.status_code == 200
    assert "text2sql" in page.text
    assert "&lt;b&gt;1&lt;/b&gt;" in page.text
    assert "<b>1</b>" not in page.text


def test_completeness_is_the_ledger(client: TestClient) -> None:
    found = client.get("/completeness").json()
    assert (found["missing"], found["duplicates"]) == (0, 0)


def test_a_task_that_does_not_exist_is_an_error_in_one_line(client: TestClient) -> None:
    answer = client.get("/labels/nothing")
    assert answer.status_code == 400
    assert "there are: text2sql" in answer.json()["error"]["message"]


def test_a_grader_runs_in_the_openai_format(client: TestClient) -> None:
    body = {"grader": CHECK, "item": {"reference": "4"}, "model_sample": "4"}
    found = client.post(RUN, json=body).json()
    assert found["reward"] == 1.0
    assert found["metadata"]["scores"] == {"same": 1.0}
    assert set(found) == {
        "reward", "sub_rewards", "metadata", "model_grader_token_usage_per_model",
    }  # fmt: skip
    multi = {"name": "m", "type": "multi", "calculate_output": "2*a", "graders": {"a": CHECK}}
    found = client.post(RUN, json={**body, "grader": multi}).json()
    assert (found["reward"], found["sub_rewards"]) == (2.0, {"a": 1.0})
    found = client.post(RUN, json={**body, "item": {}}).json()
    assert found["reward"] is None
    assert found["metadata"]["errors"]["invalid_variable_error"] is True
    tool = {**CAT, "command": ["true"]}
    assert client.post(RUN, json={**body, "grader": tool}).json()["reward"] == 1.0
    executed = client.post(RUN, json={"grader": EXECUTES, "model_sample": "SELECT 1"}).json()
    assert executed["reward"] == 1.0


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ({"type": "magic"}, "type"),
        ({**CHECK, "operation": "near"}, "operation"),
        ({**CHECK, "input": "{{ x }}"}, "is not item.NAME"),
        ({**EXECUTES, "database": "../../etc/passwd"}, "not named by any task"),
        (CAT, "command ['cat']: no task names it"),
        (READS, "guidelines '/etc/passwd': not named by any task"),
        ({"name": "e", "type": "endpoint", "url": "http://169.254.169.254/"}, "no task names it"),
        ({"name": "m", "type": "multi", "calculate_output": "a"}, "no grader 'a'"),
    ],
)
def test_a_grader_that_is_wrong_is_a_400(
    client: TestClient, grader: dict[str, Any], message: str
) -> None:
    for route in (RUN, RUN.replace("/run", "/validate")):
        answer = client.post(route, json={"grader": grader, "model_sample": "x"})
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


def test_code_from_the_network_runs_only_in_isolation(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the config says."""
    config = rows.service.root / "everlearn.yaml"
    config.write_text(config.read_text() + "sandbox: {isolation: none}\n")
    source = "import os\ndef grade(sample, item):\n    return float(os.path.exists('/etc'))"
    body = {"grader": {"name": "p", "type": "python", "source": source}, "model_sample": "x"}
    with entered(create_app(load(config))) as client:
        assert client.post(RUN, json=body).json()["reward"] == 0.0
        monkeypatch.setattr(isolation, "bubblewrap", lambda: None)
        for grader in (body["grader"], EXECUTES):
            answer = client.post(RUN, json={**body, "grader": grader})
            assert answer.status_code == 400
            assert "apt install bubblewrap" in answer.json()["error"]["message"]


def test_the_console_imports_nothing_heavy() -> None:
    code = (
        "import sys; import console.app, console.pages.labels; "
        "print([m for m in ('torch', 'transformers', 'trl', 'mlflow', 'peft') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_verb_serves_the_console(rows: Rows) -> None:
    from tests.console.gateway import answering

    port = find_free_port()
    config = rows.service.root / "everlearn.yaml"
    config.write_text(config.read_text() + f"console: {{port: {port}}}\n")
    with subprocess.Popen(
        [sys.executable, "-m", "everlearn", "console", "--config", str(config)],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            address = process.stdout.readline().removeprefix("console: ").strip()
            assert address.startswith(f"http://127.0.0.1:{port}/?token=")
            assert "text2sql" in answering(address)
        finally:
            process.terminate()
            assert process.wait(timeout=20) in (0, -15)
