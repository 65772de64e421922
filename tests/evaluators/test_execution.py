"""The execution grader: the model's mistakes are zeros, everybody else's are no score."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from evaluators.graders.base import Base
from evaluators.sandbox import sandbox
from everlearn.errors import ConfigError
from tests.evaluators.graders import make_database, make_grader, verdict

pytestmark = pytest.mark.anyio
ENDLESS = "SELECT count(*) FROM range(100000000000) a, range(1000) b"


def execution(folder: Path, **fields: Any) -> Base[Any]:
    spec = {"type": "execution", "language": "sql", "database": "orders.duckdb", **fields}
    return make_grader(folder, **spec)


def children() -> list[psutil.Process]:
    """Of the grader: other tests' servers are children of this process too."""
    program = "evaluators.children.sql"
    return [each for each in psutil.Process().children() if program in " ".join(each.cmdline())]


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    sandbox().close()
    assert not children()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_database(tmp_path)
    return tmp_path


async def test_without_a_reference_what_runs_is_right(folder: Path) -> None:
    grader = execution(folder)
    assert (await verdict(grader, "SELECT * FROM orders")).value == 1.0
    assert (await verdict(grader, "SELECT * FROM order")).value == 0.0


async def test_the_same_rows_as_the_reference_are_right(folder: Path) -> None:
    grader = execution(folder, reference="{{ item.reference }}")
    reference = "SELECT customer, sum(amount) FROM orders GROUP BY 1 ORDER BY 1"
    good = "SELECT customer, sum(amount) FROM orders GROUP BY customer ORDER BY 2 DESC"
    assert (await verdict(grader, good, reference=reference)).value == 1.0
    ordered = execution(folder, reference="{{ item.reference }}", ordered=True)
    assert (await verdict(ordered, good, reference=reference)).value == 0.0
    wrong = await verdict(grader, "SELECT customer, 1 FROM orders", reference=reference)
    assert (wrong.value, wrong.reason) == (0.0, "12 rows, not 3")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("DROP TABLE orders", "not a single SELECT: DROP"),
        ("SELECT 1; DROP TABLE orders", "not a single SELECT: SELECT, DROP"),
        ("", "not a single SELECT: nothing"),
        ("I think it is 42.", "does not run: Parser Error"),
        ("ATTACH '/tmp/x.db'", "not a single SELECT"),
        ("COPY orders TO '/tmp/everlearn.csv'", "not a single SELECT"),
        ("SET memory_limit = '90GB'", "not a single SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "does not run"),
        ("SELECT * FROM settings", "does not run: Catalog Error"),
        ("SELECT * FROM range(20000)", "more than 10000 rows"),
        ("SELECT range(1000000000)", "does not run: Out of Memory"),
        ("SELECT '\ud800'", "is not valid Unicode"),
        (ENDLESS, "took more than 0.3 s of CPU time"),
    ],
)
async def test_what_the_model_did_wrong_is_a_zero_with_its_reason(
    folder: Path, answer: str, reason: str
) -> None:
    found = await verdict(execution(folder, timeout_seconds=0.3), answer)
    assert found.value == 0.0
    assert found.error is None
    assert reason in (found.reason or "")


async def test_a_child_that_was_ended_is_replaced(folder: Path) -> None:
    grader = execution(folder, timeout_seconds=0.2)
    assert (await verdict(grader, ENDLESS)).value == 0.0
    assert (await verdict(grader, "SELECT 1")).value == 1.0


async def test_nothing_of_an_answer_stays_for_the_next(folder: Path) -> None:
    grader = execution(folder, reference="{{ item.reference }}")
    await verdict(grader, "CREATE TABLE orders AS SELECT 1", reference="SELECT 1")
    await verdict(grader, "DELETE FROM orders", reference="SELECT 1")
    found = await verdict(grader, "SELECT count(*) FROM orders", reference="SELECT 12")
    assert found.value == 1.0


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (None, "item.reference is not known"),
        ("SELECT broken", "the reference does not run"),
        ("DROP TABLE orders", "the reference is not a single SELECT"),
        (ENDLESS, "the reference took more than 0.3 s of CPU time"),
    ],
)
async def test_a_reference_that_is_no_use_leaves_the_answer_unscored(
    folder: Path, reference: str | None, reason: str
) -> None:
    grader = execution(folder, timeout_seconds=0.3, reference="{{ item.reference }}")
    found = await verdict(grader, "SELECT 1", reference=reference)
    assert found.value is None
    assert found.error is None
    assert reason in (found.reason or "")


async def test_a_database_that_is_gone_or_in_use_is_no_fault_of_the_answer(folder: Path) -> None:
    grader = execution(folder)
    opened = f"import duckdb, sys; c = duckdb.connect({str(folder / 'orders.duckdb')!r})"
    code = f"{opened}; print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        found = await verdict(grader, "SELECT 1")
        assert found.value is None
        assert "could not start" in (found.error or "")
    (folder / "orders.duckdb").unlink()
    gone = await verdict(grader, "SELECT 1")
    assert gone.value is None
    assert "No such file" in (gone.error or "")


async def test_a_database_that_was_replaced_is_read_anew(folder: Path) -> None:
    grader = execution(folder, reference="SELECT 99")
    assert (await verdict(grader, "SELECT count(*) FROM orders")).value == 0.0
    (folder / "orders.duckdb").unlink()
    with duckdb.connect(str(folder / "orders.duckdb")) as connection:
        connection.execute("CREATE TABLE orders AS SELECT * FROM range(99)")
    assert (await verdict(grader, "SELECT count(*) FROM orders")).value == 1.0


async def test_children_killed_from_outside_cost_nobody_a_point(folder: Path) -> None:
    grader = execution(folder)
    await verdict(grader, "SELECT 1")
    there = children()
    assert there
    for child in there:
        child.send_signal(signal.SIGKILL)
    assert (await verdict(grader, "SELECT 1")).value == 1.0


async def test_sleep_is_a_zero_for_the_answer_and_no_score_for_the_reference(folder: Path) -> None:
    sleep = "SELECT sleep_ms(60000)"
    grader = execution(folder, timeout_seconds=0.01, reference="{{ item.reference }}")
    started = time.monotonic()
    found = await verdict(grader, sleep, reference="SELECT 1")
    assert (found.value, found.reason) == (0.0, "the answer waited longer than 5.05 s")
    other = await verdict(grader, "SELECT 1", reference=sleep)
    assert (other.value, other.reason) == (None, "the reference waited longer than 5.05 s")
    assert time.monotonic() - started < 40


def test_a_missing_or_foreign_database_does_not_compile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        execution(tmp_path)
    (tmp_path / "orders.duckdb").write_text("no database at all")
    with pytest.raises(ConfigError, match="not a DuckDB file"):
        execution(tmp_path)
