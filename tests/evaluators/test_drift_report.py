"""Evidently's page of two windows."""

from pathlib import Path

from evaluators.drift.describe import Values
from evaluators.drift.report import is_available, write


def test_the_page_shows_every_metric_that_both_windows_have(tmp_path: Path) -> None:
    before: list[Values] = [
        {"input.length": float(n % 17), "output.finish": "stop", "gone": 1.0} for n in range(60)
    ]
    now: list[Values] = [
        {"input.length": float(40 + n % 17), "output.finish": "length"} for n in range(60)
    ]
    page = tmp_path / "drift" / "look.html"
    assert is_available()
    write(page, before, now)
    text = page.read_text()
    assert "input.length" in text
    assert "output.finish" in text
    assert "gone" not in text
