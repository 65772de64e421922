"""Which completion a piece of feedback is about: found when either arrives, in its transaction.

- A name is looked for as our completion id, then as the upstream's, the request's, the
  conversation's; of several completions the latest before the feedback is meant, else the next.
- By our id the whole lake is looked through: ids begin with their time, so files are skipped. By
  other names a day before the feedback is; what is not found there is looked for in everything.
- A name of the upstream or the request that two completions bear is `ambiguous`.
- Feedback that found nothing waits in `feedback_open`, and is looked at again by new completions'
  names alone. What was found by another name than ours waits a while too: the answer that it means
  may still be on its way.
- A look at everything costs no more than a tenth of the time: on a large lake the next one waits.
"""

import time
from typing import TYPE_CHECKING

import pyarrow as pa

from everlearn.lake.columns import FEEDBACK_OPEN

if TYPE_CHECKING:
    import duckdb

NAMES = ("completion_id", "upstream_id", "request_id", "conversation_id")
"""Of a completion, in the order in which a name is looked for."""
NAMED = ("completion_id", "request_id", "conversation_id")
"""Of a feedback."""
WINDOW = "INTERVAL 1 DAY"
SETTLING = "INTERVAL 5 MINUTE"
"""How long what was found by another name than ours may still change."""
WAITING = "INTERVAL 7 DAY"
"""How long feedback waits for its completion."""
LOOKS = 2
"""At everything, for what waits: the second sees what another collector wrote beside the first."""
BATCH = 10_000
"""Feedback that one transaction looks for."""
SHARE = 10.0
"""A look at everything is followed by so many times its duration without one."""
OPEN_ALL = """
    INSERT INTO feedback_open
    SELECT feedback_id, completion_id, request_id, conversation_id, received_at, now(), false, 0
    FROM feedback"""
"""For a lake from before targets were kept: all of it is looked for, a batch at a time."""
_FEW = 500
"""So many ids are told to the lake one by one, so that it skips files; of more, the range."""

_WAYS = {0: "completion_id", 1: "completion_id", 2: "request_id", 3: "conversation_id"}
"""Which name of the feedback is held against which of the completion's."""
_FOUND = """
    SELECT n.feedback_id, c.completion_id, c.task, {way} AS way,
        c.received_at > n.received_at AS later,
        abs(epoch(c.received_at) - epoch(n.received_at)) AS apart
    FROM completions c JOIN said n ON c.{theirs} = n.{ours}
    WHERE {among}"""
_NEAREST = """
    SELECT feedback_id, first(completion_id ORDER BY way, later, apart) AS target,
        first(task ORDER BY way, later, apart) AS task,
        min(way) IN (1, 2)
            AND count(DISTINCT completion_id) FILTER (way IN (1, 2)) > 1 AS ambiguous,
        min(way) > 0 AS settling
    FROM ({found}) GROUP BY feedback_id"""
_ANSWERED = "c.status IS DISTINCT FROM 'shadow' AND c.status IS DISTINCT FROM 'rejected'"


class Targets:
    """Finds targets inside the transactions of one lake; paces looks at everything."""

    def __init__(self) -> None:
        self._next_look = 0.0

    def resolve(self, cursor: "duckdb.DuckDBPyConnection", said: pa.Table) -> pa.Table:
        """New feedback with its target; what found none, or not yet for good, is noted as open."""
        found = self._search(cursor, said)
        cursor.register("said", said)
        cursor.register("found", found)
        result = cursor.execute(
            "SELECT s.* REPLACE (f.target AS target, f.task AS task, "
            "coalesce(f.ambiguous, false) AS ambiguous) FROM said s LEFT JOIN found f "
            "USING (feedback_id)"
        ).to_arrow_table()
        cursor.execute(
            f"INSERT INTO feedback_open ({', '.join(FEEDBACK_OPEN.names)}) "
            "SELECT s.feedback_id, s.completion_id, s.request_id, s.conversation_id, "
            "s.received_at, now(), f.target IS NOT NULL, 1 FROM said s LEFT JOIN found f "
            "USING (feedback_id) WHERE coalesce(f.settling, true) AND "
            "coalesce(s.completion_id, s.request_id, s.conversation_id) IS NOT NULL"
        )
        return result

    def waits(self, cursor: "duckdb.DuckDBPyConnection") -> bool:
        """Whether any feedback waits: else nobody needs the names of what comes."""
        return bool(cursor.execute("SELECT 1 FROM feedback_open LIMIT 1").fetchall())

    def arrive(self, cursor: "duckdb.DuckDBPyConnection", names: pa.Table) -> None:
        """Completions with these names have come: feedback that waits for one is looked at."""
        cursor.register("arrived", names)
        met = " OR ".join(
            f"o.{ours} IN (SELECT {NAMES[way]} FROM arrived WHERE {NAMES[way]} IS NOT NULL)"
            for way, ours in _WAYS.items()
        )
        said = cursor.execute(f"SELECT o.* FROM feedback_open o WHERE {met}").to_arrow_table()
        if said.num_rows:
            self._write(cursor, said, self._search(cursor, said))

    def sweep(self, cursor: "duckdb.DuckDBPyConnection") -> int:
        """Look at everything for what has waited without one; forget what waited long enough. How
        many were looked for: call again until it is none."""
        cursor.execute(
            f"DELETE FROM feedback_open WHERE opened_at < now() - {WAITING} "
            f"OR (found AND opened_at < now() - {SETTLING})"
        )
        said = cursor.execute(
            f"SELECT * FROM feedback_open WHERE NOT found AND looks < {LOOKS} LIMIT {BATCH}"
        ).to_arrow_table()
        if said.num_rows:
            self._write(cursor, said, self._everywhere(cursor, said))
        return int(said.num_rows)

    def _search(self, cursor: "duckdb.DuckDBPyConnection", said: pa.Table) -> pa.Table:
        """By our id, then a day back by other names, then, if it is time, in everything."""
        found = _look(cursor, said, f"{{floor}} - {WINDOW}")
        left = _without(cursor, said, found)
        if left.num_rows == 0 or time.monotonic() < self._next_look:
            return found
        return pa.concat_tables([found, self._everywhere(cursor, left)])

    def _everywhere(self, cursor: "duckdb.DuckDBPyConnection", said: pa.Table) -> pa.Table:
        started = time.monotonic()
        found = _look(cursor, said, None)
        self._next_look = time.monotonic() + SHARE * (time.monotonic() - started)
        return found

    def _write(self, cursor: "duckdb.DuckDBPyConnection", said: pa.Table, found: pa.Table) -> None:
        """Mend the feedback that was looked for, and what is open of it."""
        cursor.register("said", said)
        cursor.register("found", found)
        cursor.execute(
            "UPDATE feedback SET target = f.target, task = f.task, ambiguous = f.ambiguous "
            "FROM found f WHERE feedback.feedback_id = f.feedback_id AND "
            "(feedback.target, feedback.task, feedback.ambiguous) IS DISTINCT FROM "
            "(f.target, f.task, f.ambiguous)"
        )
        cursor.execute(
            "DELETE FROM feedback_open WHERE feedback_id IN "
            "(SELECT feedback_id FROM found WHERE NOT settling)"
        )
        cursor.execute(
            "UPDATE feedback_open SET found = found OR feedback_id IN (SELECT feedback_id "
            "FROM found), looks = looks + 1 WHERE feedback_id IN (SELECT feedback_id FROM said)"
        )


def _look(cursor: "duckdb.DuckDBPyConnection", said: pa.Table, since: str | None) -> pa.Table:
    """The target of each feedback that has one; by other names than ours, received `since`."""
    cursor.register("said", said)
    found = _nearest(cursor, [0], [])
    left = _without(cursor, said, found)
    ways = [way for way, ours in _WAYS.items() if way and left[ours].null_count < left.num_rows]
    if not ways:
        return found
    cursor.register("said", left)
    bounds = [_ANSWERED]
    if since is not None:
        floor = "(SELECT min(received_at) FROM said)"
        at = cursor.execute(f"SELECT {since.format(floor=floor)}").fetchone()
        bounds.append(f"c.received_at >= TIMESTAMPTZ '{at[0].isoformat()}'" if at else "true")
    return pa.concat_tables([found, _nearest(cursor, ways, bounds)])


def _nearest(cursor: "duckdb.DuckDBPyConnection", ways: list[int], bounds: list[str]) -> pa.Table:
    among = bounds or [_range(cursor)]
    parts = [
        _FOUND.format(way=way, theirs=NAMES[way], ours=_WAYS[way], among=" AND ".join(among))
        for way in ways
    ]
    return cursor.execute(_NEAREST.format(found=" UNION ALL ".join(parts))).to_arrow_table()


def _range(cursor: "duckdb.DuckDBPyConnection") -> str:
    """The condition on our ids by which files are skipped."""
    sql = "SELECT DISTINCT completion_id FROM said WHERE completion_id IS NOT NULL ORDER BY ALL"
    ids = [row[0] for row in cursor.execute(sql).fetchall()]
    if not ids:
        return "false"
    if len(ids) > _FEW:
        return f"c.completion_id BETWEEN {_quoted(ids[0])} AND {_quoted(ids[-1])}"
    return f"c.completion_id IN ({', '.join(map(_quoted, ids))})"


def _without(cursor: "duckdb.DuckDBPyConnection", said: pa.Table, found: pa.Table) -> pa.Table:
    cursor.register("all_said", said)
    cursor.register("found", found)
    sql = "SELECT s.* FROM all_said s ANTI JOIN found f USING (feedback_id)"
    return cursor.execute(sql).to_arrow_table()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
