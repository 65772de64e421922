"""Verbs that run every few minutes, or for ever, do not load what they have no use for."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from everlearn.cli import VERBS, WITHOUT_PANDAS, group
from everlearn.lake.ducklake import open_lake
from tests.builders import make_service

RUN = """
import sys
from click.testing import CliRunner
from everlearn.cli import group
told = CliRunner().invoke(group, sys.argv[1:])
assert told.exit_code == 0, (told.output, told.exception)
assert "pandas.core" not in sys.modules
import pandas
print(pandas.Timestamp(0))
"""


def test_they_are_verbs() -> None:
    assert dict(VERBS).keys() >= WITHOUT_PANDAS


@pytest.mark.parametrize(
    "words",
    [["evaluate", "t", "--since", "2026-01-01"], ["status"], ["maintain"], ["collect", "--once"]],
)
def test_what_asks_the_lake_for_times_loads_none_and_nobody_after_it_misses_it(
    tmp_path: Path, words: list[str]
) -> None:
    service = make_service(tmp_path)
    graders = [{"name": "thumbs", "type": "feedback"}]
    task = {"task": "t", "base_model": "b", "upstream": "local", "graders": graders}
    (tmp_path / "tasks" / "t.yaml").write_text(yaml.safe_dump(task))
    open_lake(service).close()
    program = [sys.executable, "-c", RUN, *words, "--config", str(tmp_path / "everlearn.yaml")]
    told = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip().startswith("1970-01-01")


def test_where_it_is_loaded_it_stays() -> None:
    import pandas

    CliRunner().invoke(group, ["status", "--help"])
    assert sys.modules["pandas"] is pandas
