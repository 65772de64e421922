"""Imported conversations are taught like our own, where their people consent, and only there."""

import json
from pathlib import Path

import pytest

from collector.importing.rows import Terms
from collector.importing.run import run
from everlearn.config import load
from everlearn.lake.ducklake import open_lake
from everlearn.task import load_task
from tests.trainer.production import make_production
from trainer.snapshot import freeze


@pytest.mark.parametrize("consent", [True, False])
def test_imported_rows_are_taught_with_consent_only(tmp_path: Path, consent: bool) -> None:
    lake = open_lake(make_production(tmp_path, Path("base"), "http://127.0.0.1:1"))
    task = load_task(load(tmp_path / "everlearn.yaml"), "colours")
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"colour of thing {number}?"},
                        {"role": "assistant", "content": "red" if number % 2 else "unknown"},
                    ],
                    "user": f"user-{number}",
                    "feedback": {"kind": "correction", "value": "blue", "author": "expert"},
                }
            )
            + "\n"
            for number in range(40)
        )
    )
    report = run(lake, log, Terms("openai", "colours", consent))
    assert (report.completions, report.feedback) == (40, 40)
    counts = freeze(lake, task, champion="base", salt="").counts
    lake.close()
    taught = counts.get("train", {}).get("correction", 0)
    if consent:
        assert taught > 20
    else:
        assert taught == 0
        assert sum(counts["dropped"].values()) >= 40
