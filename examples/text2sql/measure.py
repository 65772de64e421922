"""What the loop reached, from the users' own notes and from what anybody can query."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from everlearn.config import Service
from examples.text2sql.report import Measure
from examples.text2sql.traffic import Record

if TYPE_CHECKING:
    from examples.text2sql.loop import Loop


def release_events(service: Service, task: str, started: float) -> list[dict[str, Any]]:
    """Every release event of the task, with `second` since `started`."""
    from everlearn.lake.ducklake import open_lake

    lake = open_lake(service, read_only=True)
    query = (
        "SELECT epoch(created_at) - ? AS second, version, event, percent, reason FROM releases "
        "WHERE task = ? ORDER BY created_at"
    )
    try:
        rows: list[dict[str, Any]] = lake.read(query, (started, task)).to_pylist()
        return rows
    finally:
        lake.close()


def judged_answers(records: Sequence[Record], started: float) -> list[tuple[float, str, bool]]:
    """(second, version, right) of every answer that came."""
    return [
        (record.finished_at - started, record.version or "base", record.correct)
        for record in records
        if record.error is None
    ]


def reward_curve(service: Service, task: str) -> list[tuple[float, float]]:
    """(step, mean reward) of the newest reinforcement run, empty if none was tried."""
    import mlflow

    client = mlflow.MlflowClient(service.mlflow.tracking_uri)
    experiment = client.get_experiment_by_name(task)
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    for run in runs:
        if "reward" in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, "reward")
            return [(point.step, point.value) for point in history]
    return []


def table(
    loop: "Loop",
    records: Sequence[Record],
    first_seen: Mapping[str, float],
    before: Mapping[str, float],
    after: Mapping[str, float],
    status: Mapping[str, Any],
    *,
    version: str,
    bad: str,
) -> list[Measure]:
    """The rows that say whether the loop closed; times in seconds."""
    failed = sum(record.error is not None for record in records)
    capture = status["capture"]
    to_traffic = _at(loop, version, "started") - _first_feedback(records, loop.started)
    back = _seconds_to_rollback(records, loop, bad)
    wall = max(end for _, _, end in loop.story.phases)
    queryable = _percentile(_delays(records, first_seen), 0.99)
    return [
        Measure(
            "questions in jargon answered right, before -> after",
            f"{before['jargon']:.1%} -> {after['jargon']:.1%}",
            f">= {loop.scale.jargon_target:.0%}",
            after["jargon"] >= loop.scale.jargon_target,
        ),
        Measure(
            "formal questions answered right, before -> after",
            f"{before['formal']:.1%} -> {after['formal']:.1%}",
            ">= 95 %",
            after["formal"] >= 0.95,
        ),
        Measure(
            "first feedback -> new version in live traffic",
            f"{to_traffic:.0f} s",
            "< 600 s",
            to_traffic < 600,
            closes=False,
        ),
        Measure(
            "bad version: first bad answer -> 0 %", f"{back:.1f} s", "< 30 s", back < 30, False
        ),
        Measure("failed requests of users", f"{failed} of {len(records)}", "0", failed == 0),
        Measure(
            "answer -> queryable row, p99", f"{queryable:.2f} s", "<= 2 s", queryable <= 2, False
        ),
        Measure(
            "events acknowledged, stored, missing, doubled",
            f"{capture['acknowledged']}, {capture['stored']}, {capture['missing']}, "
            f"{capture['duplicates']}",
            "0 missing, 0 doubled",
            capture["stored"] > 0 and capture["missing"] == 0 and capture["duplicates"] == 0,
        ),
        Measure("wall time", f"{wall:.0f} s", "< 720 s", wall < 720, False),
    ]


def _at(loop: "Loop", version: str, event: str) -> float:
    seconds = [
        row["second"]
        for row in loop.story.events
        if row["version"] == version and row["event"] == event
    ]
    return float(seconds[0])


def _first_feedback(records: Sequence[Record], started: float) -> float:
    return min(record.feedback_at for record in records if record.feedback_at is not None) - started


def _seconds_to_rollback(records: Sequence[Record], loop: "Loop", bad: str) -> float:
    """From the first wrong answer of the bad version to the routes without it."""
    wrong = [
        record.finished_at - loop.started
        for record in records
        if record.version == bad and record.error is None and not record.correct
    ]
    return _at(loop, bad, "rolled_back") - min(wrong) if wrong else 0.0


def _delays(records: Sequence[Record], first_seen: Mapping[str, float]) -> list[float]:
    return [
        max(0.0, first_seen[record.completion_id] - record.finished_at)
        for record in records
        if record.completion_id is not None and record.completion_id in first_seen
    ]


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")
