"""Counts of the whole lake, kept up by what is new: what stands there of each gateway, what became
of feedback, how the scores stand.

- One story: all counts are of the same lake snapshot.
- A tally is the one before it, less what the touched completions counted for then, plus what they
  count for now. The collector keeps it in the lake (`progress`); a reader adds what came since.
- Without one, or where its snapshot has expired, everything is counted.
- A row that is stored twice is seen, however late: numbers are kept as spans, not as a highest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from everlearn.errors import LakeError
from everlearn.lake.progress import Mark, read_mark, write_mark
from everlearn.lake.schema import feedback_state
from everlearn.lake.store import Lake

MARK = "tally"
Span = tuple[int, int]

_STORED = """
WITH stored AS (
    SELECT gateway_id, seq, dead, count(*) AS n FROM (
        SELECT gateway_id, seq, false AS dead FROM {completions}
        UNION ALL SELECT gateway_id, seq, false FROM {feedback}
        UNION ALL SELECT gateway_id, seq, true FROM {dead_letters}
    ) WHERE seq IS NOT NULL GROUP BY ALL
), islands AS (
    SELECT *, seq - row_number() OVER (PARTITION BY gateway_id, dead ORDER BY seq) AS island
    FROM stored
)
SELECT gateway_id, dead, min(seq) AS first, max(seq) AS last, sum(n)::BIGINT AS n
FROM islands GROUP BY gateway_id, dead, island ORDER BY gateway_id, first"""

_STATES = """
SELECT state, count(*) AS n, count(*) FILTER (ambiguous) AS ambiguous
FROM ({states}) GROUP BY state"""

# What is mended is written anew: no second row.
_ADDED = """
SELECT gateway_id, seq, sum(CASE WHEN change_type IN ('insert', 'update_postimage') THEN 1
    ELSE -1 END)::BIGINT AS n
FROM {changed} GROUP BY ALL"""

_ABOUT = "coalesce(completion_id, request_id, conversation_id)"
_OF_THESE = f"""(
    SELECT * FROM feedback AT (VERSION => {{at}}) WHERE target BETWEEN $1 AND $2
        AND target IN (SELECT unnest($3::VARCHAR[]))
    UNION ALL SELECT * FROM feedback AT (VERSION => {{at}}) WHERE target IS NULL
        AND {_ABOUT} IN (SELECT unnest($3::VARCHAR[])))"""

_SCORES = """
SELECT task, evaluator, count(value) AS scored, count(*) - count(value) AS unscored,
    coalesce(sum(value), 0) AS total
FROM (
    SELECT task, evaluator, value FROM scores AT (VERSION => {at}) {these}
    QUALIFY row_number() OVER (PARTITION BY completion_id, evaluator, evaluator_version
        ORDER BY created_at DESC, value IS NULL) = 1
) GROUP BY task, evaluator"""

_SCORES_OF_THESE = """
    WHERE completion_id BETWEEN $1 AND $2 AND completion_id IN (SELECT unnest($3::VARCHAR[]))"""


@dataclass
class Gateway:
    """What stands in the lake of one gateway worker."""

    rows: int = 0
    dead_letters: int = 0
    spans: list[Span] = field(default_factory=list)
    """Numbers that are there, from and to, in order."""

    @property
    def stored(self) -> int:
        """Events, each once."""
        return sum(last - first + 1 for first, last in self.spans)

    @property
    def highest(self) -> int:
        """The last number."""
        return max((last for _, last in self.spans), default=0)


@dataclass
class Tally:
    """The counts at one lake snapshot."""

    snapshot: int
    gateways: dict[str, Gateway] = field(default_factory=dict)
    states: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By state of feedback: how much, and how much of it is ambiguous."""
    scores: dict[tuple[str | None, str], tuple[int, int, float]] = field(default_factory=dict)
    """By task and evaluator: scored, unscored, sum of the scored."""


def tally(lake: Lake) -> Tally:
    """The counts now."""
    snapshot = lake.snapshot_id()
    mark = read_mark(lake, MARK)
    if mark is None or mark.snapshot > snapshot:
        return _count(lake, snapshot)
    before = _from_json(mark)
    try:
        return before if before.snapshot == snapshot else _move(lake, before, snapshot)
    except LakeError:
        return _count(lake, snapshot)


def keep(lake: Lake) -> None:
    """Count, and keep it for whoever counts next."""
    found = tally(lake)
    write_mark(lake, MARK, Mark(found.snapshot, _to_json(found)))


def _count(lake: Lake, snapshot: int) -> Tally:
    found, at = Tally(snapshot), f"AT (VERSION => {snapshot})"
    tables = {name: f"{name} {at}" for name in ("completions", "feedback", "dead_letters")}
    _add_stored(found, lake.read(_STORED.format(**tables)).to_pylist())
    states = _STATES.format(states=feedback_state(f"(SELECT * FROM feedback {at})"))
    _add_states(found, lake.read(states).to_pylist(), 1)
    _add_scores(found, lake.read(_SCORES.format(at=snapshot, these="")).to_pylist(), 1)
    return found


def _move(lake: Lake, found: Tally, snapshot: int) -> Tally:
    before, first = found.snapshot, found.snapshot + 1
    new = {
        name: f"lake.table_insertions('{name}', {first}, {snapshot})"
        for name in ("completions", "dead_letters")
    }
    changed = f"lake.table_changes('feedback', {first}, {snapshot})"
    added = f"(SELECT gateway_id, seq, unnest(range(n)) FROM ({_ADDED.format(changed=changed)}))"
    _add_stored(found, lake.read(_STORED.format(**new, feedback=added)).to_pylist())
    about = _ids(lake, f"SELECT DISTINCT coalesce(target, {_ABOUT}) FROM {changed}")
    scored = _ids(
        lake,
        f"SELECT DISTINCT completion_id FROM lake.table_insertions('scores', {first}, {snapshot})",
    )
    for at, sign in ((before, -1), (snapshot, 1)):
        if about:
            states = feedback_state(_OF_THESE.format(at=at))
            rows = lake.read(_STATES.format(states=states), [about[0], about[-1], about])
            _add_states(found, rows.to_pylist(), sign)
        if scored:
            sql = _SCORES.format(at=at, these=_SCORES_OF_THESE)
            _add_scores(found, lake.read(sql, [scored[0], scored[-1], scored]).to_pylist(), sign)
    found.snapshot = snapshot
    return found


def _ids(lake: Lake, sql: str) -> list[str]:
    return sorted(each for each in lake.read(sql).column(0).to_pylist() if each is not None)


def _add_stored(found: Tally, rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        gateway = found.gateways.setdefault(row["gateway_id"], Gateway())
        gateway.rows += row["n"]
        gateway.dead_letters += row["n"] if row["dead"] else 0
        gateway.spans = joined([*gateway.spans, (row["first"], row["last"])])


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same numbers in as few spans as there can be."""
    result: list[Span] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def _add_states(found: Tally, rows: Iterable[Mapping[str, Any]], sign: int) -> None:
    for row in rows:
        n, ambiguous = found.states.get(row["state"], (0, 0))
        found.states[row["state"]] = (n + sign * row["n"], ambiguous + sign * row["ambiguous"])


def _add_scores(found: Tally, rows: Iterable[Mapping[str, Any]], sign: int) -> None:
    for row in rows:
        key = (row["task"], row["evaluator"])
        scored, unscored, total = found.scores.get(key, (0, 0, 0.0))
        found.scores[key] = (
            scored + sign * row["scored"],
            unscored + sign * row["unscored"],
            total + sign * row["total"],
        )


def _to_json(found: Tally) -> dict[str, Any]:
    return {
        "gateways": {
            name: [each.rows, each.dead_letters, each.spans]
            for name, each in found.gateways.items()
        },
        "states": found.states,
        "scores": [[*key, *values] for key, values in found.scores.items()],
    }


def _from_json(mark: Mark) -> Tally:
    found, document = Tally(mark.snapshot), mark.document
    for name, (rows, dead, spans) in document["gateways"].items():
        found.gateways[name] = Gateway(rows, dead, [(first, last) for first, last in spans])
    found.states = {name: (n, ambiguous) for name, (n, ambiguous) in document["states"].items()}
    found.scores = {(row[0], row[1]): (row[2], row[3], row[4]) for row in document["scores"]}
    return found
