"""`everlearn sql`: read-only SQL over the lake."""

from base64 import b64encode

import click

from everlearn.cli import config_option, json_option


@click.command("sql")
@click.argument("query")
@json_option
@config_option
def command(query: str, as_json: bool, config_path: str | None) -> None:
    """Run one SELECT over the lake (tables: docs/lake.md)."""
    import json

    import duckdb

    from everlearn.config import load
    from everlearn.errors import InputError, LakeError
    from everlearn.lake.ducklake import open_lake

    try:
        kinds = [statement.type.name for statement in duckdb.extract_statements(query)]
    except duckdb.Error as error:
        raise InputError(f"not SQL: {str(error).splitlines()[0]}") from error
    if kinds not in (["SELECT"], ["EXPLAIN"]):
        raise InputError(f"one SELECT is allowed, received {', '.join(kinds) or 'nothing'}")
    lake = open_lake(load(config_path), read_only=True)
    try:
        table = lake.read(query)
    except LakeError as error:
        if isinstance(error.__cause__, (duckdb.ProgrammingError, duckdb.DataError)):
            raise InputError(f"the query cannot run: {error}") from error
        raise
    if as_json:
        click.echo(json.dumps(table.to_pylist(), default=_plain, ensure_ascii=False))
    else:
        shown = [[_shown(value) for value in row.values()] for row in table.to_pylist()]
        click.echo(render(table.column_names, shown))


def render(names: list[str], rows: list[list[str]]) -> str:
    """Rows as text columns under their names."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = [names, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _plain(value: object) -> str:
    """What JSON has no type for, as text: bytes as what they say, or base64 where they are none."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64encode(value).decode()


def _shown(value: object) -> str:
    return "" if value is None else _plain(value)
