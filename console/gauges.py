"""The loop's numbers for Prometheus: what lake and state store know and no lasting process counts.

- Read at the scrape, and then kept as pages keep them (`Source.kept`). Counts are the tally and the
  marks that collector and evaluator keep up by what is new; the first look for experts' words, and
  for the backlog of a task that was never evaluated, goes through what is there.
- One part that cannot be read takes no other along: its numbers are left out, and
  `everlearn_loop_readable` says 0 for it.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from threading import Lock
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from console.pages.judges import votes
from console.source import Source
from evaluators.backlog import backlog
from evaluators.judge.budget import spending
from everlearn.errors import LakeError
from registry.training import read_training

log = logging.getLogger(__name__)

KEPT_SECONDS = 10.0
"""Two Prometheus servers ask no more of the lake than one."""
_EXPERTS = """
    SELECT task, max(epoch(received_at)) AS at FROM {said}
    WHERE author = 'expert' AND kind <> 'retraction' AND task IS NOT NULL GROUP BY task"""
_RELEASES = """
    SELECT task, max(epoch(created_at)) AS at, arg_max(event, created_at) AS event,
        arg_max(percent, created_at) AS percent
    FROM releases GROUP BY task"""
_UNDER_WAY = ("started", "pairing", "step")

Families = list[Metric]
Part = Callable[[Source], Families]


class Loop(Collector):
    """All parts, for one registry."""

    def __init__(self, source: Source) -> None:
        self._source, self._lock = source, Lock()
        self._parts: dict[str, Part] = {
            "capture": _capture, "scores": _scores, "backlog": _backlog, "judges": _judges,
            "labels": Labels(), "trainings": _trainings, "releases": _releases,
        }  # fmt: skip

    def collect(self) -> Iterator[Metric]:
        """Every part that can be read, then which could."""
        readable = _gauge("loop_readable", "1: these numbers could be read; 0: left out.", "part")
        with self._lock:
            for name, part in self._parts.items():
                try:
                    yield from self._source.kept(
                        ("gauges", name), partial(part, self._source), seconds=KEPT_SECONDS
                    ).value
                    readable.add_metric([name], 1)
                except Exception as error:
                    # A scrape must neither end the process nor lose what can be read.
                    log.warning("numbers of %s: %s: %s", name, type(error).__name__, error)
                    readable.add_metric([name], 0)
        yield readable

    def describe(self) -> Iterator[Metric]:
        """So that registering reads nothing."""
        return iter(())


class Labels:
    """The queues, and when an expert last said something: read once, then from what is new."""

    def __init__(self) -> None:
        self._seen: int | None = None
        self._newest: dict[str, float] = {}

    def __call__(self, source: Source) -> Families:
        """Both families."""
        queue = _gauge("label_queue", "Items of the label queue by state.", "task", "state")
        newest = _gauge(
            "expert_label_timestamp_seconds", "When an expert last said something.", "task"
        )
        for name, task in source.tasks().items():
            progress = source.queue(task).progress()
            for state in ("open", "labelled", "skipped"):
                queue.add_metric([name, state], getattr(progress, state))
        self._look(source)
        for name in source.tasks().keys() & self._newest.keys():
            newest.add_metric([name], self._newest[name])
        return [queue, newest]

    def _look(self, source: Source) -> None:
        snapshot = source.lake.snapshot_id()
        if snapshot == self._seen:
            return
        for row in self._said(source, snapshot):
            self._newest[row["task"]] = max(row["at"], self._newest.get(row["task"], 0.0))
        self._seen = snapshot

    def _said(self, source: Source, snapshot: int) -> list[dict[str, Any]]:
        everything = f"feedback AT (VERSION => {snapshot:d})"
        if self._seen is None:
            return source.rows(_EXPERTS.format(said=everything))
        new = f"lake.table_changes('feedback', {self._seen + 1:d}, {snapshot:d})"
        try:
            return source.rows(_EXPERTS.format(said=new))
        except LakeError:  # a snapshot in between has expired
            return source.rows(_EXPERTS.format(said=everything))


def _capture(source: Source) -> Families:
    found = source.capture().value
    told = {
        "missing": ("events_missing", "Acknowledged, neither stored nor on the way."),
        "pending": ("events_pending", "Acknowledged and on the way to the lake."),
        "lag_seconds": ("events_lag_seconds", "Age of the oldest one on the way."),
    }
    return [_gauge(name, text, value=found[key]) for key, (name, text) in told.items()]


def _scores(source: Source) -> Families:
    scores = _gauge(
        "scores", "Scores in the lake; unscored: the grader cannot tell, or has not yet.",
        "task", "evaluator", "state",
    )  # fmt: skip
    for (task, evaluator), (scored, unscored, _) in source.counts().scores.items():
        for state, count in (("scored", scored), ("unscored", unscored)):
            scores.add_metric([task or "", evaluator, state], count)
    return [scores]


def _backlog(source: Source) -> Families:
    waiting = _gauge("unscored_backlog", "Answers that a grader has not looked at.", "task")
    oldest = _gauge(
        "unscored_oldest_timestamp_seconds", "When the one that waits longest came.", "task"
    )
    for name, task in source.tasks().items():
        found = source.kept(
            ("backlog", name), partial(backlog, source.service, task, source.lake)
        ).value
        waiting.add_metric([name], found.answers)
        if found.oldest is not None:
            oldest.add_metric([name], found.oldest.timestamp())
    return [waiting, oldest]


def _judges(source: Source) -> Families:
    vote = _gauge("judge_vote", "1: the judge may decide; 0: it only advises.", "task", "judge")
    spent = _gauge("judges_spent", "Spent on judges today (UTC).", "task")
    limit = _gauge("judges_limit", "What may be spent on judges in a day.", "task")
    asked = _gauge("judges_questions", "Questions to judges today that a limit counts.", "task")
    for name, task in source.tasks().items():
        for standing in votes(source, task).values():
            if standing.kind == "judge":
                vote.add_metric([name, standing.grader], standing.may_gate)
        today = spending(source.state, task)
        if today is not None:
            spent.add_metric([name], today.spent)
            limit.add_metric([name], today.limit)
            asked.add_metric([name], today.questions)
    return [vote, spent, limit, asked]


def _trainings(source: Source) -> Families:
    running = _gauge("training_running", "1: a training is under way.", "task")
    ended = _gauge("training_last_end_timestamp_seconds", "When one last came to an end.", "task")
    seconds = _gauge("training_last_seconds", "How long that one took.", "task")
    outcome = _gauge("training_last_outcome", "1, with what became of it.", "task", "outcome")
    for name in source.tasks():
        found = read_training(source.state, name, time.time())
        running.add_metric([name], found.running)
        if found.last is not None:
            ended.add_metric([name], found.last.ended_at)
            seconds.add_metric([name], found.last.seconds)
            outcome.add_metric([name, found.last.outcome], 1)
    return [running, ended, seconds, outcome]


def _releases(source: Source) -> Families:
    running = _gauge("release_running", "1: a release is under way.", "task")
    percent = _gauge("release_percent", "The candidate's share, of the last event.", "task")
    last = _gauge("release_last_event_timestamp_seconds", "When it last moved.", "task")
    for row in source.rows(_RELEASES):
        running.add_metric([row["task"]], row["event"] in _UNDER_WAY)
        percent.add_metric([row["task"]], row["percent"] or 0.0)
        last.add_metric([row["task"]], row["at"])
    return [running, percent, last]


def _gauge(name: str, text: str, *labels: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"everlearn_{name}", text, value=value, labels=labels or None)
