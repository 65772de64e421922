from pathlib import Path

import duckdb
import pytest

from examples.text2sql.database import FILE, ROWS, Orders, orders, write


def rows_of(path: Path) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return list(connection.execute("SELECT * FROM orders ORDER BY id").fetchall())


def test_the_shipped_file_holds_the_rows_of_the_script() -> None:
    assert rows_of(FILE) == orders()
    assert len(orders()) == ROWS
    assert FILE.stat().st_size < 2**20


def test_a_written_file_is_the_same_again(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "orders.duckdb")) == orders()


def test_answers_are_compared_by_their_rows_in_any_order() -> None:
    mine = Orders()
    by_region = "SELECT region, count(*) FROM orders GROUP BY region"
    assert mine.same(f"{by_region} ORDER BY region DESC", by_region)
    assert not mine.same("SELECT count(*) FROM orders", "SELECT sum(amount) FROM orders")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I do not know",
        "SELECT nothing FROM orders",
        "SELECT 1; SELECT 2",
        "DELETE FROM orders",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM range(100000000000) a, range(100000000000) b",
    ],
)
def test_what_does_not_run_is_wrong_and_harms_nothing(answer: str) -> None:
    mine = Orders()
    assert mine.rows(answer) is None
    assert not mine.same(answer, answer)
    assert mine.same("SELECT count(*) FROM orders", f"SELECT {ROWS}")
