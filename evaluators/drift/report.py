"""The page that shows both windows side by side: Evidently's, which comes with the extra `drift`.

Evidently decides nothing: its tests and thresholds are per look, ours hold for a task's whole life
(`compare.py`). It takes 5 to 10 s to import and is loaded only here.
"""

import os
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evaluators.drift.describe import Values

MISSING = "no report: Evidently is not installed here (pip install 'everlearn[drift]')"


def is_available() -> bool:
    """Whether Evidently can be imported; does not import it."""
    return find_spec("evidently") is not None


def write(path: Path, before: Sequence[Values], now: Sequence[Values]) -> None:
    """Write the HTML page; its folder is made."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Its imports use what numpy deprecates, and a metric of one value has no correlation.
        warnings.simplefilter("ignore")
        _report(before, now).save_html(str(path))


def _report(before: Sequence[Values], now: Sequence[Values]) -> Any:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    numbers, categories = _columns(before, now)
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    sides = [
        Dataset.from_pandas(_frame(rows, numbers, categories), data_definition=definition)
        for rows in (now, before)
    ]
    return Report([DataDriftPreset(), DataSummaryPreset()]).run(*sides)


def _columns(before: Sequence[Values], now: Sequence[Values]) -> tuple[list[str], list[str]]:
    """Metrics with values on both sides: numbers, and everything else as categories."""
    numbers: list[str] = []
    categories: list[str] = []
    for name in sorted({name for values in (*before, *now) for name in values}):
        known = [[v for r in rows if (v := r.get(name)) is not None] for rows in (before, now)]
        if not all(known):
            continue
        is_number = isinstance(known[0][0], float) and not isinstance(known[0][0], bool)
        (numbers if is_number else categories).append(name)
    return numbers, categories


def _frame(rows: Sequence[Values], numbers: Sequence[str], categories: Sequence[str]) -> Any:
    import pandas as pd

    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in numbers}
    for name in categories:
        columns[name] = [None if row.get(name) is None else str(row.get(name)) for row in rows]
    frame = pd.DataFrame(columns)
    return frame.astype(dict.fromkeys(numbers, "float64"))
