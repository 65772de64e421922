"""Runs one SELECT against a DuckDB file and compares its rows with those of another one.

- Read-only, no files, no network, no extensions, configuration locked, no Python objects in reach.
- A reply without `value` means that this program, not the graded text, is to blame.
- Which text runs is told before it does: `reference`, then `answer`.
- CPU time over the limit ends the process: SIGPROF in the answer, SIGVTALRM in the reference.
"""

import signal
from collections import OrderedDict
from typing import Any

import duckdb

from evaluators.children.protocol import Forbid, Handler, Note, Reply, cpu_limit, serve
from evaluators.rows import Row, same

REFERENCES_KEPT = 1024

_Rows = list[Row]


class WrongAnswer(Exception):
    """The graded text is to blame; the text says how."""


def prepare(settings: dict[str, Any], forbid: Forbid) -> Handler:
    """Open the database of `settings` for good, then go under the filter of system calls."""
    connection = duckdb.connect(
        settings["database"],
        read_only=True,
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": f"{settings['max_memory_mb']}MB",
            "temp_directory": "",
            "threads": "1",
            "lock_configuration": "true",
        },
    )
    references: OrderedDict[tuple[str, int], _Rows] = OrderedDict()

    def handle(request: dict[str, Any], note: Note) -> Reply:
        return _grade(connection, references, request, note)

    forbid()
    return handle


def _grade(
    connection: Any,
    references: OrderedDict[tuple[str, int], _Rows],
    request: dict[str, Any],
    note: Note,
) -> Reply:
    seconds, max_rows = request["cpu_seconds"], request["max_rows"]
    wanted = None
    if request["reference"] is not None:
        key = (request["reference"], max_rows)
        try:
            if key not in references:
                note("reference")
                references[key] = _limited(connection, *key, seconds, signal.ITIMER_VIRTUAL)
            wanted = references[key]
        except WrongAnswer as error:
            return {"reason": f"the reference {error}"}
        references.move_to_end(key)
        if len(references) > REFERENCES_KEPT:
            references.popitem(last=False)
    note("answer")
    try:
        rows = _limited(connection, request["sql"], max_rows, seconds, signal.ITIMER_PROF)
    except WrongAnswer as error:
        return {"value": 0.0, "reason": f"the answer {error}"}
    if wanted is None:
        return {"value": 1.0, "reason": f"ran: {len(rows)} rows"}
    if same(rows, wanted, request["ordered"]):
        return {"value": 1.0, "reason": f"the same {len(rows)} rows"}
    return {"value": 0.0, "reason": _difference(rows, wanted)}


def _limited(connection: Any, sql: str, max_rows: int, seconds: float, timer: int) -> _Rows:
    cpu_limit(seconds, timer)
    try:
        return _run(connection, sql, max_rows)
    finally:
        cpu_limit(0, timer)


def _run(connection: Any, sql: str, max_rows: int) -> _Rows:
    """The rows of a single SELECT; WrongAnswer when it is none or does not run."""
    if any("\ud800" <= character <= "\udfff" for character in sql):
        raise WrongAnswer("is not valid Unicode")
    cursor = connection.cursor()  # a session of its own: nothing stays for the next one
    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
            raise WrongAnswer(f"is not a single SELECT: {kinds}")
        rows: _Rows = cursor.execute(statements[0]).fetchmany(max_rows + 1)
    except (duckdb.Error, MemoryError, RecursionError) as error:
        raise WrongAnswer(f"does not run: {_first_line(error)}") from error
    finally:
        cursor.close()
    if len(rows) > max_rows:
        raise WrongAnswer(f"gives more than {max_rows} rows")
    return rows


def _difference(rows: _Rows, wanted: _Rows) -> str:
    if len(rows) != len(wanted):
        return f"{len(rows)} rows, not {len(wanted)}"
    if rows and len(rows[0]) != len(wanted[0]):
        return f"{len(rows[0])} columns, not {len(wanted[0])}"
    return f"other rows ({len(rows)} in both)"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def main() -> None:
    """Entry point of the child."""
    serve(prepare)
