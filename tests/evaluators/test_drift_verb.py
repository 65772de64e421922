"""`everlearn drift` as a shell sees it."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from everlearn.cli import main
from everlearn.lake.ducklake import open_lake
from tests.builders import make_service
from tests.evaluators.test_drift import doubled
from tests.evaluators.traffic import bring


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["everlearn", "drift", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_exit_code_tells_what_the_look_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = open_lake(make_service(tmp_path))
    task = {
        "task": "text2sql", "base_model": "base", "upstream": "local",
        "graders": [{"name": "thumbs", "type": "feedback", "feedback": "thumbs"}],
        "drift": {"window": 250},
    }  # fmt: skip
    (tmp_path / "tasks" / "text2sql.yaml").write_text(yaml.safe_dump(task))
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "text2sql") == 3
    assert "0 of 500 completions" in capsys.readouterr().err
    assert run(monkeypatch, "nothing") == 2
    bring(lake, 0, 1250)
    assert run(monkeypatch, "text2sql") == 0
    assert "text2sql: quiet: nothing stands out of" in capsys.readouterr().out
    bring(lake, 1250, 250, doubled)
    assert run(monkeypatch, "text2sql", "--json") == 5
    found = json.loads(capsys.readouterr().out)
    assert (found["look"], found["event"]) == (2, "drift")
    assert "answer_chars" in found["metrics"]
    assert {"metric", "before", "now", "shift", "p_value", "alarm"} <= set(found["changes"][0])
    assert set(found["report"]) == {"path", "mlflow_run", "note"}
    assert run(monkeypatch, "text2sql", "--accept") == 0
    assert "the window of look 2 is the reference" in capsys.readouterr().out
