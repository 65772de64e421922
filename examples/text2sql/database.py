"""The `orders` table: six hundred made-up orders, the same ones every time.

`python -m examples.text2sql.database` writes `orders.duckdb`, which stands beside this file.
"""

import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb

from examples.text2sql.language import VALUES

FILE = Path(__file__).with_name("orders.duckdb")
ROWS = 600
CUSTOMERS = 20
PATIENCE_SECONDS = 1.0
SCHEMA = (
    "CREATE TABLE orders (id INTEGER, customer VARCHAR, region VARCHAR, product VARCHAR, "
    "channel VARCHAR, status VARCHAR, amount INTEGER, quantity INTEGER, days INTEGER, "
    "month INTEGER)"
)
_SETTINGS = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "threads": "1",
    "memory_limit": "256MB",
    "lock_configuration": "true",
}


def orders() -> list[tuple[Any, ...]]:
    """All rows; amount in euros, days from order to delivery."""
    rng = random.Random(1912)
    return [
        (
            number,
            f"customer {rng.randrange(CUSTOMERS)}",
            *(rng.choice(VALUES[column]) for column in ("region", "product", "channel", "status")),
            rng.randrange(10, 1000),
            rng.randrange(1, 201),
            rng.randrange(1, 91),
            rng.randrange(1, 13),
        )
        for number in range(1, ROWS + 1)
    ]


def write(path: Path) -> Path:
    """A fresh database file."""
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as connection:
        _fill(connection)
    return path


class Orders:
    """A copy of one's own, in memory: what a person runs an answer against."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config=_SETTINGS)
        _fill(self._connection)
        self._results: dict[str, Counter[tuple[Any, ...]] | None] = {}

    def rows(self, sql: str) -> Counter[tuple[Any, ...]] | None:
        """The rows of a SELECT, whatever their order; None if it does not run."""
        if sql not in self._results:
            self._results[sql] = self._run(sql)
        return self._results[sql]

    def same(self, answer: str, truth: str) -> bool:
        """Whether both run and give the same rows."""
        rows = self.rows(answer)
        return rows is not None and rows == self.rows(truth)

    def _run(self, sql: str) -> Counter[tuple[Any, ...]] | None:
        patience = threading.Timer(PATIENCE_SECONDS, self._connection.interrupt)
        patience.start()
        try:
            statements = duckdb.extract_statements(sql)
            if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
                return None
            return Counter(self._connection.execute(statements[0]).fetchmany(10_000))
        except (duckdb.Error, RuntimeError):  # an interrupted query may raise either
            return None
        finally:
            patience.cancel()


def _fill(connection: Any) -> None:
    connection.execute(SCHEMA)
    connection.executemany(f"INSERT INTO orders VALUES ({', '.join('?' * 10)})", orders())


if __name__ == "__main__":
    write(FILE)
