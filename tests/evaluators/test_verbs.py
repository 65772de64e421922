"""The verbs evaluate, grade, labels and config check, as a shell sees them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluators.sandbox import sandbox
from everlearn.cli import main
from everlearn.lake.erase import Subject, erase
from tests.console.gateway import gateway
from tests.evaluators.graders import make_database
from tests.evaluators.lake import Rows

EXECUTES = {"name": "executes", "type": "execution", "language": "sql", "database": "orders.duckdb"}
CHECK = {
    "name": "same", "type": "string_check", "operation": "eq",
    "input": "{{ sample.output_text }}", "reference": "{{ item.reference }}",
}  # fmt: skip


Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def everlearn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Verb]:
    """Exit code, output and errors of `everlearn ...` in `tmp_path`."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["everlearn", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    monkeypatch.chdir(tmp_path)
    yield run
    sandbox().close()


def write_task(folder: Path, *graders: dict[str, Any]) -> None:
    task = {
        "task": "text2sql", "base_model": "base", "upstream": "local", "graders": list(graders),
        "release": {"primary": graders[0]["name"]}, "labels": {"random_percent": 100},
    }  # fmt: skip
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / "text2sql.yaml").write_text(yaml.safe_dump(task))


def test_evaluate_and_labels_over_a_lake(tmp_path: Path, everlearn: Verb) -> None:
    rows = Rows(tmp_path)
    make_database(tmp_path / "tasks")
    write_task(tmp_path, EXECUTES)
    answer = rows.answered("how many?", "SELECT count(*) FROM orders")
    rows.lake.close()
    code, out, _ = everlearn("evaluate", "text2sql", "--json")
    assert code == 0
    assert json.loads(out)["graders"]["executes"]["mean"] == 1.0
    code, out, _ = everlearn("evaluate", "text2sql", "--since", "2026-01-01")
    assert (code, out.splitlines()[0]) == (0, "text2sql: 0 completions looked at")
    assert (
        json.loads(everlearn("labels", "next", "text2sql", "--json")[1])["completion_id"] == answer
    )
    assert answer in everlearn("labels", "list", "text2sql")[1]
    assert "executes: no label yet" in everlearn("labels", "agreement", "text2sql")[1]
    code, _, err = everlearn("evaluate", "text2sql", "--since", "yesterday")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = everlearn("evaluate", "nothing")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_grade_runs_a_grader_file(tmp_path: Path, everlearn: Verb, suffix: str) -> None:
    file = tmp_path / f"grader.{suffix}"
    file.write_text(json.dumps(CHECK) if suffix == "json" else yaml.safe_dump(CHECK))
    item = '{"reference": "4"}'
    code, out, _ = everlearn("grade", str(file), "--item", item, "--sample", "4")
    found = json.loads(out)
    assert (code, found["reward"], found["metadata"]["type"]) == (0, 1.0, "string_check")
    code, out, _ = everlearn("grade", str(file), "--sample", "4")
    assert (code, json.loads(out)["reward"]) == (0, None)
    assert json.loads(out)["metadata"]["errors"]["invalid_variable_error"] is True
    code, out, _ = everlearn("grade", "validate", str(file))
    assert (code, "string_check grader same is valid" in out) == (0, True)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"type": "magic"}', '{"type": "python", "name": "g", "source": "def"}',
     '{"type": "multi", "name": "g", "calculate_output": "a +"}'],
)  # fmt: skip
def test_a_grader_file_that_does_not_compile_exits_2(
    tmp_path: Path, everlearn: Verb, content: str
) -> None:
    (tmp_path / "grader.json").write_text(content)
    code, _, err = everlearn("grade", "validate", "grader.json")
    assert code == 2
    assert err.startswith("everlearn: ")
    assert "Traceback" not in err


def test_config_check_refuses_a_grader_that_does_not_compile(
    tmp_path: Path, everlearn: Verb
) -> None:
    Rows(tmp_path).lake.close()
    write_task(tmp_path, {"name": "bad", "type": "python", "source": "def grade(:"})
    code, _, err = everlearn("config", "check")
    assert (code, err.count("\n")) == (2, 1)
    assert "task text2sql: grader bad: source does not compile" in err
    code, _, err = everlearn("evaluate", "text2sql")
    assert (code, err.count("\n")) == (2, 1)


def test_a_label_is_put_through_the_gateway(tmp_path: Path, everlearn: Verb) -> None:
    rows = Rows(tmp_path)
    answer = rows.answered("how many?", "SELECT 1")
    other = rows.answered("how many?", "2", task="other")
    erased = rows.answered("how many?", "3", unit="ann")
    assert erase(rows.lake, Subject(unit="ann"))
    rows.lake.close()
    make_database(tmp_path / "tasks")
    write_task(tmp_path, EXECUTES)
    with gateway() as taken:
        address = f"http://127.0.0.1:{taken.port}"
        code, out, _ = everlearn(
            "labels", "put", "text2sql", answer, "down", "--correction", "SELECT 2",
            "--gateway", address,
        )  # fmt: skip
        assert (code, out) == (0, f"{answer}: 2 accepted\n")
        assert [event["kind"] for event in taken.feedback] == ["binary", "correction"]
        code, _, err = everlearn("labels", "put", "text2sql", answer, "--gateway", address)
        assert (code, err) == (2, "everlearn: a label is up, down, 1 to 5 or a correction\n")
        for name, why in (
            ("cmpl_1", "no such answer"), (erased, "was erased"),
            (other, "an answer of other, not of"),
        ):  # fmt: skip
            code, _, err = everlearn("labels", "put", "text2sql", name, "up", "--gateway", address)
            assert (code, why in err) == (2, True), err
        assert len(taken.feedback) == 2
    code, _, err = everlearn("labels", "put", "text2sql", answer, "up", "--gateway", address)
    assert (code, "no answer" in err) == (4, True)
    code, _, err = everlearn("labels", "next", "text2sql")
    said = (
        "task text2sql: no answer waits for a label; `everlearn labels fill text2sql` looks again"
    )
    assert (code, err) == (3, f"everlearn: {said}\n")
