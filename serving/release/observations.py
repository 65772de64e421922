"""Closed units of a release, read from the lake and frozen there in `release_units`.

- A unit is who was drawn: a user, a conversation or a request, in an epoch (`release.unit`).
- It counts once per stage and metric, some seconds after its first request of the stage, with
  what is known then; later scores change nothing. So every decision can be made again from the
  frozen rows, and a controller that was killed goes on from them.
- A metric closes the units of both arms at one age, counted from the request, when even a slow
  answer is done (`answer_seconds`): closed with the answer itself, a slower arm would come later,
  and its absence would look like harm. The primary metric, and what waits for people, closes
  `unit_close_seconds` later.
- An answer that takes longer still counts when it comes.
- What people say of an answer counts if their first word came before the unit's closing age,
  however late it is counted: an outage of the controller brings in no thumbs.
- What a unit asks for is cut off by its own time, without what it waited for answers: by the clock,
  who asks three things in a row gets fewer of them in from the slower arm, so fewer of that arm's
  units say anything, and the sample ratio breaks.
- A unit's first failure is a row of its own at once (`failures.FAILURES`), unless the unit has
  closed as one of `error_rate` before: what it was on is then known and no bet any more.
- Held-back units are no part of the comparison.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from everlearn.coverage import feedback_names
from everlearn.errors import LakeError
from everlearn.graders import ScoreModel
from everlearn.lake.store import Lake, Transaction
from everlearn.rules import ReleaseRules
from everlearn.state import StateConflict
from everlearn.task import Task
from gateway.assignment import fraction
from serving.release.analysis import Observation, propensity
from serving.release.corrected import Asked
from serving.release.failures import FAILURES, OF
from serving.release.states import Rate, Release

LIVE = (OF, "latency_p95", "cost", "latency")
"""Metrics of the completion itself: no grader scores them."""
HISTORY_DAYS = 30
MIN_HISTORY_UNITS = 60
"""Fewer units with a past make no thirds."""
MIN_LATENCIES = 20
SLOWER_SECONDS = 5.0
LONGEST_ANSWER_SECONDS = 300.0
CLOCK_SECONDS = 60.0
"""By which a gateway's clock may be ahead of ours, for its failures to count at once."""


@dataclass(frozen=True)
class Metric:
    """What is compared: where its value comes from and when a unit closes."""

    name: str
    close_seconds: float
    """Age, since the first request."""
    asked_seconds: float = 0.0
    """What the unit asks for within so much time of its own counts; 0: its first answer alone."""
    low: float = 0.0
    high: float = 1.0
    """Range of the grader's values; mapped to 0..1."""
    said: tuple[str, ...] = ()
    """Names of the feedback that it waits for."""
    label_share: float | None = None
    """Of the answers that are put before people, whose words correct it."""


class Counted(NamedTuple):
    """One frozen row."""

    metric: str
    unit: str
    stage: int
    position: int
    treated: bool
    propensity: float | None
    value: float | None
    stratum: int
    raters: str | None = None
    """Digests of the users on whose words the value rests; None: not on people's (`raters.py`)."""
    unheard: int | None = None
    """Users whose words were left out."""
    label_share: float | None = None
    """With which chance it was to be put before people; None: its value stands as it is."""
    drawn: bool | None = None
    label: float | None = None

    @property
    def observation(self) -> Observation | None:
        """What it says, if it says anything."""
        if self.propensity is not None and self.label_share is not None:
            asked = Asked(self.label_share, bool(self.drawn), _number(self.label))
            place = self.treated, self.propensity
            return Observation(*place, _number(self.value), self.stratum, asked)
        if self.propensity is None or self.value is None:
            return None
        return Observation(self.treated, self.propensity, self.value, self.stratum)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def metric(task: Task, release: Release, name: str) -> Metric:
    """The metric of that name, with the release's closing time."""
    rules = release.parsed_rules
    if name == FAILURES:
        return Metric(name, 0.0)
    if name in LIVE:
        return Metric(name, release.answer_seconds)
    grader = task.grader(name)
    said = tuple(sorted(feedback_names(grader, task.graders)))
    waits = name == rules.primary or said
    low, high = grader.range if isinstance(grader, ScoreModel) else (0.0, 1.0)
    if name == rules.primary and rules.labels is not None:
        # The first answer alone: it is the one that chance puts before people, or not.
        close = rules.closing_seconds + release.answer_seconds
        return Metric(name, close, low=low, high=high, label_share=release.label_share)
    asked = rules.unit_close_seconds if waits else 0.0
    return Metric(name, asked + release.answer_seconds, asked, low, high, said)


def answer_seconds(rules: ReleaseRules, found: "Reference | None") -> float:
    """By when an answer is done: the task's word where 95 % of the champion's answers are done by
    then, else three times what these take, and time for a candidate that is slower."""
    usual = found.latency_p95_ms / 1000 if found is not None else 0.0
    if rules.answer_seconds == "auto":
        return min(LONGEST_ANSWER_SECONDS, max(SLOWER_SECONDS, 3 * usual))
    if usual <= rules.answer_seconds:
        return rules.answer_seconds
    return max(rules.answer_seconds, min(LONGEST_ANSWER_SECONDS, 3 * usual))


# Arms are compared as assigned, whoever answered in the end: a failure that somebody else's answer
# hid is an error of the arm that failed, the champion's and the challenger's alike. A challenger's
# failure has an event of its own beside the user's answer: of the two the user's counts.
# The unit is what was drawn, as the gateway kept it: nothing that one draw put on its arm counts
# twice, and nothing that was drawn anew is left out.
_ANSWERS = """
    SELECT completion_id, unit, person, stage, received_at, status, latency_ms, assigned AS arm,
        prompt_tokens, completion_tokens, fallback_from IS NOT NULL AS failed_over,
        status = 'ok' AND response_text IS NOT NULL AS shown,
        CASE assigned WHEN 'challenger' THEN probability ELSE 1 - probability END AS share
    FROM (
        SELECT * REPLACE (coalesce(draw, unit) AS unit), unit AS person,
            CASE WHEN fallback_from IN ('champion', 'challenger', 'holdback')
                THEN fallback_from ELSE arm END AS assigned
        FROM {completions}
    )
    WHERE release = $release AND task = $task AND received_at >= to_timestamp($received)
        AND assigned IN ('champion', 'challenger') AND status <> 'shadow' AND {own}
        AND unit IS NOT NULL AND stage IS NOT NULL AND probability IS NOT NULL
    QUALIFY fallback_from IS NOT NULL OR arm <> 'challenger' OR status = 'ok' OR NOT coalesce(
        bool_or(fallback_from = 'challenger') OVER (PARTITION BY unit, received_at), false)
"""
# Of several challengers each is compared with the champion, by units drawn for one of these two;
# the draw tells for which one, also where the champion's answer hid a failure.
_OWN = """(assigned = 'champion' OR least({0.challengers} - 1, floor({0.challengers}
    * (TRY_CAST('0x' || draw AS UBIGINT)::DOUBLE / 18446744073709551616))) = {0.which})"""
# Under watch: the champion is the candidate, and the version before, which holds units back by a
# draw of the same probability in each epoch, the champion.
_SWAPPED = """(
    SELECT * REPLACE (
        {swap_arm} AS arm, {swap_from} AS fallback_from,
        CASE WHEN arm = 'holdback' OR fallback_from = 'holdback' THEN 1 - {share!r}::DOUBLE
            ELSE {share!r}::DOUBLE END AS probability)
    FROM completions {at} WHERE release = $release
)"""
_SWAP = "CASE {0} WHEN 'champion' THEN 'challenger' WHEN 'holdback' THEN 'champion' ELSE {0} END"
_DUE = """
WITH paced AS ({answers}),
answers AS (
    SELECT *, coalesce(sum(latency_ms) OVER (
        PARTITION BY unit, stage ORDER BY received_at, completion_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) / 1000 AS waited
    FROM paced WHERE {kept}
),
counted AS (
    SELECT DISTINCT unit, stage, CASE WHEN treated THEN 'challenger' ELSE 'champion' END AS arm
    FROM release_units WHERE release_id = $frozen AND metric IN ($metric, $closed)
),
visits AS (
    SELECT unit, stage, min(received_at) AS opened,
        arg_min(arm, (received_at, completion_id)) AS arm,
        arg_min(share, (received_at, completion_id)) AS share
    FROM answers ANTI JOIN counted USING (unit, stage) GROUP BY unit, stage
),
placed AS (
    SELECT *, lag(arm) OVER past AS former_arm, lag(stage) OVER past AS former_stage
    FROM (FROM visits UNION ALL BY NAME FROM counted)
    WINDOW past AS (PARTITION BY unit ORDER BY stage)
),
due AS (SELECT * FROM placed WHERE opened <= to_timestamp($now - $close)),
scored AS ({scores}),
heard AS ({heard})
SELECT due.unit, due.stage, due.arm, due.share, due.former_arm, due.former_stage,
    epoch(due.opened) AS opened, min(answers.person) AS person, avg({value}) AS value,
    list(answers.completion_id) FILTER (({value}) IS NOT NULL) AS answers,
    arg_min(answers.completion_id, (answers.received_at, answers.completion_id))
        FILTER (answers.shown) AS first
FROM due
JOIN answers ON answers.unit = due.unit AND answers.stage = due.stage
    AND answers.received_at <= due.opened + to_seconds($close)
    AND answers.received_at - to_seconds(CASE WHEN $asked > 0 THEN waited ELSE 0 END)
        <= due.opened + to_seconds($asked)
LEFT JOIN scored ON scored.completion_id = answers.completion_id
LEFT JOIN heard ON heard.completion_id = answers.completion_id
GROUP BY ALL ORDER BY opened, due.unit
"""
_SCORES = """
    SELECT completion_id, arg_max_null(value, created_at) AS value
    FROM scores WHERE task = $task AND evaluator = $metric AND created_at >= to_timestamp($since)
    GROUP BY completion_id
"""
_HEARD = """
    SELECT target AS completion_id, min(received_at) AS first FROM feedback
    WHERE task = $task AND received_at >= to_timestamp($received)
        AND (name IN (SELECT unnest($said::VARCHAR[])) OR kind = 'correction')
    GROUP BY target
"""
_NOT_HEARD = "SELECT NULL::VARCHAR AS completion_id, NULL::TIMESTAMPTZ AS first WHERE false"
_IN_TIME = """CASE WHEN heard.first IS NULL OR heard.first <= due.opened + to_seconds($close)
    THEN scored.value END"""
_NO_SCORES = "SELECT NULL::VARCHAR AS completion_id, NULL::DOUBLE AS value WHERE false"
_HISTORY = """
    SELECT completions.unit, avg(scores.value) AS reward
    FROM scores JOIN completions USING (completion_id)
    WHERE scores.task = $task AND scores.evaluator = $primary AND completions.status <> 'shadow'
        AND scores.created_at < to_timestamp($since)
        AND scores.created_at >= to_timestamp($since) - to_days($days)
        AND completions.task = $task
    GROUP BY completions.unit
"""
_FAILED = "(failed_over OR status IN ('upstream_error', 'timeout'))"
# Whether an answer is as good as it should be: 1 is good, so that harm is a fall. What a candidate
# may take longer is added to its limit alone: were it to both, a busy hour that pushes everybody
# over it would accuse each candidate that is a little slower, however much is allowed.
_VALUES = {
    OF: f"CASE WHEN {_FAILED} THEN 0.0 WHEN status = 'ok' THEN 1.0 END",
    FAILURES: "0.0",
    "latency_p95": """CASE
        WHEN answers.status = 'timeout' THEN 0.0
        WHEN answers.status = 'ok' THEN (answers.latency_ms <= $limit_ms
            * CASE answers.arm WHEN 'challenger' THEN $latency_ratio ELSE 1 END)::DOUBLE END""",
    # As good as the champion's mean is 0.5, for nothing 1, twice as much or more 0.
    "latency": """CASE WHEN answers.status = 'ok' AND NOT answers.failed_over
        THEN 1 - least(1.0, answers.latency_ms / (2 * $latency_mean)) END""",
    # (least() would take a cost that is not known for 1.)
    "cost": """CASE WHEN answers.status = 'ok' AND NOT answers.failed_over AND {cost} IS NOT NULL
        THEN 1 - least(1.0, {cost} / (2 * $cost_mean)) END""",
}


def _price(rates: dict[str, Rate]) -> str:
    """SQL: what an answer cost; null where a number that the price needs is not known."""
    cases = [f"WHEN '{arm}' THEN {_linear(rate)}" for arm, rate in sorted(rates.items())]
    return f"CASE answers.arm {' '.join(cases)} END" if cases else "NULL"


def _linear(rate: Rate) -> str:
    columns = (
        ("prompt_tokens", rate.prompt_token),
        ("completion_tokens", rate.completion_token),
        ("latency_ms", rate.millisecond),
    )
    # What costs nothing need not be known.
    return " + ".join(f"answers.{name} * {each!r}::DOUBLE" for name, each in columns if each)


class Window(NamedTuple):
    """Which answers to look at."""

    now: float
    since: float
    """Received from here on: units that opened earlier have been counted (`oldest_since`)."""
    snapshot: int | None = None
    """Of the lake, taken before its answers were last scored, so that none counts as unscored
    because it came a moment too late; None: all."""


def closed_units(
    lake: Lake, task: str, release: Release, wanted: Metric, window: Window
) -> list[dict[str, Any]]:
    """Units due to be counted for a metric, in the order of their opening.

    An answer counts however long it took: what matters is that its unit was not counted before it
    came, not when it was asked for.
    """
    snapshot = window.snapshot
    failures = wanted.name == FAILURES
    live = wanted.name in LIVE or failures
    sql = _DUE.format(
        answers=_answers(release, snapshot),
        kept=_FAILED if failures else "true",
        scores=_NO_SCORES if live else _SCORES,
        heard=_HEARD if wanted.said else _NOT_HEARD,
        value=_VALUES.get(wanted.name, _IN_TIME if wanted.said else "scored.value").replace(
            "{cost}", _price(release.prices)
        ),
    )
    params: dict[str, Any] = {
        "release": release.drawn_as,
        "frozen": release.release_id,
        "task": task,
        "received": window.since,
        "since": release.created_at,
        "metric": wanted.name,
        "closed": OF if failures else wanted.name,
        "now": window.now + (CLOCK_SECONDS if failures else 0.0),
        "close": wanted.close_seconds,
        "asked": wanted.asked_seconds,
        "said": list(wanted.said),
        "limit_ms": release.latency_reference_ms,
        "latency_ratio": release.latency_ratio,
        "latency_mean": release.latency_mean_ms,
        "cost_mean": release.cost_mean,
    }
    due = read(lake, sql, params)
    if release.watch:
        # Those held back for good are drawn no more.
        share = release.parsed_rules.holdback_percent / 100
        due = [row for row in due if fraction("holdback", task, row["person"]) >= share]
    return due


def _answers(release: Release, snapshot: int | None) -> str:
    """SQL: the answers of the arms that are compared."""
    own = "true" if release.challengers == 1 else _OWN.format(release)
    return _ANSWERS.format(completions=_completions(release, snapshot), own=own)


def _completions(release: Release, snapshot: int | None) -> str:
    """SQL: the completions, with the arms by their part in the question."""
    at = "" if snapshot is None else f"AT (VERSION => {snapshot})"
    if not release.watch:
        return f"completions {at}"
    return _SWAPPED.format(
        swap_arm=_SWAP.format("arm"),
        swap_from=_SWAP.format("fallback_from"),
        share=1 - release.parsed_rules.watch_percent / 100,
        at=at,
    )


def oldest_since(
    lake: Lake, release_id: str, after: int, until: int, *, failed: bool = False
) -> float:
    """When the oldest of the release's answers (or failures alone) was received that reached the
    lake after one of its snapshots and until another; infinity if none did, 0 where that is not
    known any more."""
    if after >= until:
        return math.inf
    sql = (
        "SELECT epoch(min(received_at)) AS oldest "
        f"FROM lake.table_insertions('completions', {after + 1:d}, {until:d}) WHERE release = ?"
    )
    if failed:
        sql += f" AND {_FAILED.replace('failed_over', 'fallback_from IS NOT NULL')}"
    try:
        oldest = lake.read(sql, [release_id])["oldest"][0].as_py()
    except LakeError:
        return 0.0
    return math.inf if oldest is None else float(oldest)


def rewards(lake: Lake, task: str, primary: str, before: float) -> dict[str, float]:
    """Mean reward by unit in the days before a release: fixed once it has begun."""
    params = {"task": task, "primary": primary, "since": before, "days": HISTORY_DAYS}
    rows = read(lake, f"{_HISTORY} HAVING avg(scores.value) IS NOT NULL", params)
    return {row["unit"]: row["reward"] for row in rows}


def read(lake: Lake, sql: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a query written with $names; only the names it uses are passed."""
    order = [name for name in params if f"${name}" in sql]
    # Longest first: $metric must not eat the head of another name.
    for place, name in sorted(enumerate(order, 1), key=lambda entry: -len(entry[1])):
        sql = sql.replace(f"${name}", f"${place}")
    return list(lake.read(sql, [params[name] for name in order]).to_pylist())


def count(
    rows: Sequence[dict[str, Any]],
    wanted: Metric,
    release: Release,
    start: int,
    past: Mapping[str, float] = MappingProxyType({}),
) -> list[Counted]:
    """The rows as they will be frozen, numbered from `start`; `past`: rewards by unit."""
    width = wanted.high - wanted.low
    steps, beside = release.parsed_rules.steps, release.challengers
    counted = []
    for place, row in enumerate(rows, start):
        value = row["value"]
        # A watch draws anew at each stage, so what a unit was on says nothing.
        former, former_arm = row["former_stage"], row["former_arm"]
        if release.watch:
            former, former_arm = None, None
        former_share = None if former is None else steps[former] / 100
        counted.append(
            Counted(
                metric=wanted.name,
                unit=row["unit"],
                stage=row["stage"],
                position=place,
                treated=row["arm"] == "challenger",
                propensity=propensity(row["share"], former_arm, former_share, beside),
                value=None if value is None else min(1.0, max(0.0, (value - wanted.low) / width)),
                stratum=_stratum(past.get(row["person"]), release.cuts),
            )
        )
    return counted


def _stratum(reward: float | None, cuts: tuple[float, float] | None) -> int:
    """0 without a past, else the third of past reward: 1, 2, 3."""
    if reward is None or cuts is None:
        return 0
    return 1 + sum(reward > cut for cut in cuts)


def freeze(lake: Lake, release_id: str, rows: Sequence[Counted], now: float) -> None:
    """Append the rows; StateConflict if somebody else has counted units of this release."""
    if not rows:
        return

    def work(transaction: Transaction) -> None:
        sql = "SELECT count(*) AS n FROM release_units WHERE release_id = ?"
        if transaction.query(sql, [release_id])[0]["n"] != rows[0].position:
            raise StateConflict(f"release {release_id} is counted by another controller too")
        entries = [{**row._asdict(), "release_id": release_id, "closed_at": now} for row in rows]
        transaction.append("release_units", entries)

    lake.commit(work)


def frozen(lake: Lake, release_id: str) -> list[Counted]:
    """Every row of the release in the order of counting."""
    names = ", ".join(Counted._fields)
    sql = f"SELECT {names} FROM release_units WHERE release_id = ? ORDER BY position"
    return [Counted(**row) for row in lake.read(sql, [release_id]).to_pylist()]


class Reference(NamedTuple):
    """The champion's last 1,000 good answers before a release."""

    latency_p95_ms: float
    latency_mean_ms: float
    cost_mean: float | None
    """None: no price, or no token counts."""


def reference(
    lake: Lake, task: str, version: str, before: float, rate: Rate | None
) -> Reference | None:
    """What a candidate is compared with; None if there are too few answers."""
    cost = "NULL" if rate is None else _linear(rate)
    sql = f"""
        SELECT count(*) AS n, quantile_cont(latency_ms, 0.95) AS p95, avg(latency_ms) AS mean,
            avg({cost}) AS cost
        FROM (
            SELECT latency_ms, prompt_tokens, completion_tokens FROM completions
            WHERE task = ? AND version = ? AND status = 'ok' AND received_at < to_timestamp(?)
            ORDER BY received_at DESC LIMIT 1000) AS answers
    """
    row = lake.read(sql, [task, version, before]).to_pylist()[0]
    if row["n"] < MIN_LATENCIES:
        return None
    return Reference(float(row["p95"]), float(row["mean"]), row["cost"] or None)


def worth(lake: Lake, task: str, release: Release) -> dict[str, dict[str, Any]]:
    """For people, by arm: answers, mean cost of one (null: not known) and mean seconds."""
    sql = f"""
        SELECT arm, count(*) AS answers, avg({_price(release.prices)}) AS cost,
            avg(latency_ms) / 1000 AS seconds
        FROM ({_answers(release, None)}) AS answers
        WHERE status = 'ok' AND NOT failed_over GROUP BY arm
    """
    params = {"release": release.drawn_as, "task": task, "received": release.created_at}
    return {row.pop("arm"): row for row in read(lake, sql, params)}


def history_cuts(lake: Lake, task: str, primary: str, before: float) -> tuple[float, float] | None:
    """Thirds of the units' mean reward before the release; None where they would say nothing."""
    sql = (
        f"SELECT count(*) AS n, quantile_cont(reward, [1/3, 2/3]) AS cuts FROM ({_HISTORY}) "
        "WHERE reward IS NOT NULL"
    )
    params = {"task": task, "primary": primary, "since": before, "days": HISTORY_DAYS}
    row = read(lake, sql, params)[0]
    if row["n"] < MIN_HISTORY_UNITS or row["cuts"][0] == row["cuts"][1]:
        return None
    low, high = row["cuts"]
    return (float(low), float(high))
