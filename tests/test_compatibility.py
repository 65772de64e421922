"""`docs/compatibility.md` promises nothing that no test shows."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "compatibility.md").read_text()
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def test_every_row_names_a_test_that_exists() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "| test |" not in line]
    named = [NAMED.search(row) for row in rows]
    assert len(rows) > 40
    assert [row for row, found in zip(rows, named, strict=True) if found is None] == []
    for file, test in {found.groups() for found in named if found is not None}:
        functions = ast.parse((ROOT / "tests" / file).read_text()).body
        names = {
            each.name
            for each in functions
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert test in names, f"{file} has no {test}"
