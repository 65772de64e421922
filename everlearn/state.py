"""The relational state seam: small JSON documents that change (releases, budgets, labels, keys).

SQLite by default, Postgres by address; one table, written with compare-and-swap so that two writers
never overwrite each other unseen. Whoever needs rows of another shape brings a table of his own.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from everlearn.config import Service
from everlearn.errors import ConfigError, EverlearnError, StateError
from everlearn.redact import without_passwords

CONNECT_SECONDS = 10
"""How long a server may take to answer."""
BUSY_SECONDS = 30
"""How long another writer of a SQLite file is waited for."""

_metadata = sa.MetaData()
_documents = sa.Table(
    "documents",
    _metadata,
    sa.Column("kind", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(256), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)


class StateConflict(EverlearnError):
    """Somebody else wrote the document since it was read; read again and decide again."""


class State:
    """Documents by (kind, key), each with a revision that counts its writes."""

    def __init__(self, url: str) -> None:
        """StateError if it cannot be reached, ConfigError if `url` is no address."""
        sqlite = url.startswith("sqlite")
        arguments = {"timeout": BUSY_SECONDS} if sqlite else {"connect_timeout": CONNECT_SECONDS}
        self._shown = without_passwords(url)
        try:
            self._engine = sa.create_engine(url, connect_args=arguments, pool_pre_ping=True)
        except (sa.exc.ArgumentError, ImportError) as error:
            example = "postgresql+psycopg://USER@HOST/DATABASE"
            reason = f"{without_passwords(str(error))}; write {example}"
            raise ConfigError(f"state.url = {self._shown!r}: {reason}") from None
        self.add_tables(_metadata)

    def add_tables(self, metadata: sa.MetaData) -> None:
        """Create what is not there yet: tables of whoever needs more than documents."""
        try:
            self._create(metadata)
        except StateError:
            # Of processes that start together, each may be the first to create the table.
            self._create(metadata)

    def get(self, kind: str, key: str) -> tuple[dict[str, Any], int] | None:
        """The document and its revision, or None."""
        where = (_documents.c.kind == kind) & (_documents.c.key == key)
        with self.transaction() as connection:
            row = connection.execute(sa.select(_documents).where(where)).one_or_none()
        return None if row is None else (json.loads(row.body), row.revision)

    def put(self, kind: str, key: str, document: dict[str, Any], revision: int = 0) -> int:
        """Write over `revision` (0 = must be new), return the next one; StateConflict otherwise."""
        body = json.dumps(document, allow_nan=False)
        with self.transaction() as connection:
            if revision == 0:
                try:
                    connection.execute(
                        _documents.insert().values(kind=kind, key=key, revision=1, body=body)
                    )
                except sa.exc.IntegrityError as error:
                    raise StateConflict(f"{kind} {key} exists already") from error
                return 1
            where = (
                (_documents.c.kind == kind)
                & (_documents.c.key == key)
                & (_documents.c.revision == revision)
            )
            done = connection.execute(
                _documents.update().where(where).values(revision=revision + 1, body=body)
            )
            if done.rowcount != 1:
                raise StateConflict(f"{kind} {key} is no longer at revision {revision}")
        return revision + 1

    def drop(self, kind: str, key: str) -> bool:
        """Take the document out, whatever its revision; whether there was one."""
        where = (_documents.c.kind == kind) & (_documents.c.key == key)
        with self.transaction() as connection:
            return connection.execute(_documents.delete().where(where)).rowcount == 1

    def all(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """Every document of a kind with its key, in the order of the keys."""
        query = sa.select(_documents).where(_documents.c.kind == kind).order_by(_documents.c.key)
        with self.transaction() as connection:
            return [(row.key, json.loads(row.body)) for row in connection.execute(query)]

    def close(self) -> None:
        """Drop the connections."""
        self._engine.dispose()

    def _create(self, metadata: sa.MetaData) -> None:
        with self.transaction() as connection:
            metadata.create_all(connection)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All or nothing; StateError with the reason when the store does not take it."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            reason = without_passwords(" ".join(str(cause).split()))
            raise StateError(f"state store {self._shown}: {reason}") from error


def open_state(service: Service) -> State:
    """The state store of the config."""
    if service.state.url:
        return State(service.state.url)
    service.data_path.mkdir(parents=True, exist_ok=True)
    path = service.data_path / "state.db"
    # It holds the salt of the held-out hash: nobody else on this machine reads it.
    path.touch(mode=0o600)
    return State(f"sqlite:///{path}")
