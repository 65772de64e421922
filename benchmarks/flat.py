"""What looks at the lake again and again, over 10,000 to 10,000,000 completions, every tenth with
feedback: a tick of the release controller, `evaluate` with nothing new, `status`, the next label.

`python -m benchmarks.flat 10000 1000000` takes other sizes, `--only label` the next label alone.
Every figure is of a process that has just begun (a lake opened anew, nothing in memory), except the
second tick.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import msgspec
import yaml

from benchmarks.figures import figure
from benchmarks.traffic import temporary_service
from collector.tally import keep
from evaluators.fill import fill
from evaluators.graders import build_all
from evaluators.queue import Queue, ask
from evaluators.run import evaluate
from everlearn.cli.status import status
from everlearn.config import Service, Upstream
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.lake.transaction import DuckTransaction
from everlearn.state import open_state
from everlearn.task import Task, load_task
from gateway.routes import ArmRoute
from serving.release.book import Book
from serving.release.controller import TaskLoop
from serving.release.states import Phase, Release, Traffic, begin, change

SIZES = (10_000, 1_000_000, 10_000_000)
CHUNK = 500_000
"""Completions of one file, as compaction leaves them."""
RATE = 100.0
"""Completions a second, the last of them now."""
IN_RELEASE = 2_000
"""The last completions belong to a release that ramps."""
TASK = "bench"

COMPLETIONS = """
INSERT INTO completions (completion_id, upstream_id, request_id, conversation_id, gateway_id, seq,
    task, version, arm, probability, release, stage, unit, received_at, latency_ms, status,
    http_status, messages, response_text, trainable)
SELECT 'cmpl_' || lpad(n::VARCHAR, 22, '0'), 'chatcmpl-' || md5(n::VARCHAR), uuid()::VARCHAR,
    'talk-' || n // 4, 'gw-a-w0', n + 1, '{task}', 'base',
    CASE WHEN n // 10 % 100 > 0 THEN 'champion' ELSE 'challenger' END,
    CASE WHEN n // 10 % 100 > 0 THEN 0.99 ELSE 0.01 END,
    CASE WHEN n >= {size} - {in_release} THEN 'rel' END,
    CASE WHEN n >= {size} - {in_release} THEN 0 END,
    'user-' || n // 10, to_timestamp({now} - ({size} - n) / {rate}), random() * 1000, 'ok', 200,
    '[{{"role": "user", "content": "question ' || n || '"}}]', 'answer ' || n, true
FROM range({first}, {last}) AS numbers(n)"""
FEEDBACK = """
INSERT INTO feedback (feedback_id, completion_id, kind, name, value_bool, author, author_id,
    weight, received_at, gateway_id, seq, target, task, ambiguous)
SELECT 'fb_' || lpad(n::VARCHAR, 22, '0'), 'cmpl_' || lpad(n::VARCHAR, 22, '0'), 'binary',
    'thumbs', n % 3 > 0, 'end_user', 'user-' || n // 10,
    1.0, to_timestamp({now} - ({size} - n) / {rate} + 1), 'gw-b-w0', n // 10 + 1,
    'cmpl_' || lpad(n::VARCHAR, 22, '0'), '{task}', false
FROM range({first}, {last}, 10) AS numbers(n)"""
SCORES = """
INSERT INTO scores (completion_id, task, evaluator, evaluator_version, value, context, created_at)
SELECT 'cmpl_' || lpad(n::VARCHAR, 22, '0'), '{task}', '{grader}', '{version}',
    CASE WHEN n % 10 = 0 OR NOT {by_feedback} THEN (n % 3 > 0)::DOUBLE END,
    CASE WHEN n % 10 = 0 AND {by_feedback}
        THEN md5('fb_' || lpad(n::VARCHAR, 22, '0')) ELSE '' END || '||',
    to_timestamp({now} - ({size} - n) / {rate} + 2)
FROM range({first}, {last}) AS numbers(n)"""


@click.command()
@click.argument("sizes", nargs=-1, type=int)
@click.option("--only", type=click.Choice(["label"]), help="One row of the table alone.")
def main(sizes: tuple[int, ...], only: str | None) -> None:
    """Measure every size and print."""
    for size in sizes or SIZES:
        with temporary_service() as service:
            service.upstreams["none"] = Upstream(base_url="http://127.0.0.1:9/v1")
            declared = declare(service)
            now = time.time()
            populate(service, declared, size, now)
            if only == "label":
                lake = open_lake(service)
                fill(service, declared, lake)
                lake.close()
                _label(service, declared, size)
            else:
                _measure(service, declared, size, now)


def declare(service: Service) -> Task:
    """The task of these benchmarks."""
    content = {
        "task": TASK,
        "base_model": "none",
        "upstream": "none",
        "graders": [
            {"name": "thumbs", "type": "feedback", "feedback": "thumbs"},
            {
                **{"name": "short", "type": "string_check", "operation": "eq"},
                **{"input": "{{ sample.output_text }}", "reference": "{{ item.prompt }}"},
            },
        ],
        "reward": {"type": "multi", "calculate_output": "thumbs"},
        "release": {"primary": "thumbs", "guardrails": ["error_rate", "short"]},
    }
    folder = Path(service.root) / service.tasks_dir
    folder.mkdir(exist_ok=True)
    (folder / f"{TASK}.yaml").write_text(yaml.safe_dump(content))
    return load_task(service, TASK)


def populate(service: Service, declared: Task, size: int, now: float) -> None:
    """A lake of so many completions, with feedback and scores, the last of them now."""
    lake = open_lake(service)
    graders = build_all(declared, service)
    for first in range(0, size, CHUNK):
        fields = {
            **{"task": TASK, "size": size, "now": now, "rate": RATE, "in_release": IN_RELEASE},
            **{"first": first, "last": min(first + CHUNK, size)},
        }
        parts = [sql.format(**fields) for sql in (COMPLETIONS, FEEDBACK)]
        parts += [
            SCORES.format(
                **fields, grader=each.name, version=each.version, by_feedback=each.needs_feedback
            )
            for each in graders
        ]
        for sql in parts:
            lake.commit(partial(DuckTransaction.run, sql=sql))
    lake.close()


def _measure(service: Service, declared: Task, size: int, now: float) -> None:
    def timed(name: str, work: Callable[[DuckLake], object]) -> None:
        lake = open_lake(service)
        _timed(name, size, partial(work, lake))
        lake.close()

    def score(lake: DuckLake) -> None:
        assert evaluate(service, declared, lake).completions == 0

    timed("evaluate_first_look_at_all", score)
    timed("evaluate_with_nothing_new", score)
    timed("labels_first_fill", lambda lake: fill(service, declared, lake))
    timed("labels_fill_with_nothing_new", lambda lake: fill(service, declared, lake))
    _label(service, declared, size)
    timed("status_first_look_at_all", keep)
    timed("status", lambda lake: status(service, lake))
    _begin(service, declared, now - IN_RELEASE / RATE)
    for name in ("controller_first_tick", "controller_first_tick_of_a_new_process"):
        loop = TaskLoop(service, declared)
        # No fleet here.
        loop._warm_after = math.inf
        _timed(name, size, loop.tick)
        _timed("controller_tick", size, loop.tick)
        loop.close()


def _label(service: Service, declared: Task, size: int) -> None:
    """The first, and the median and the best of twenty next labels, each judged at once."""
    lake, state = open_lake(service, read_only=True), open_state(service)
    queue, spent = Queue(state, declared), list[tuple[float, float]]()
    for _ in range(21):
        started, cpu = time.perf_counter(), time.process_time()
        found = ask(queue, lake, TASK, "bench")
        spent.append((time.perf_counter() - started, time.process_time() - cpu))
        assert found is not None
        queue.label(found.completion_id, "bench", "right")
    first, *rest = spent
    rest.sort()
    for name, (seconds, cpu) in (("first", first), ("median", rest[10]), ("best", rest[0])):
        figure(f"label_next_{name}", seconds, "s", cpu_seconds=round(cpu, 3), completions=size)
    state.close()
    lake.close()


def _timed(name: str, size: int, work: Callable[[], object]) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    figure(name, seconds, "s", cpu_seconds=round(cpu, 3), completions=size)


def _begin(service: Service, declared: Task, at: float) -> None:
    """A release that ramps since `at`."""
    arm = ArmRoute(version="7", model="candidate-7", adapter_digest="7" * 64)
    release = Release(
        release_id="rel", candidate=arm, rules=declared.release.model_dump(mode="json"),
        alpha=0.05, created_at=at, phase=Phase.LOADING, stage_since=at, ramp_since=at,
    )  # fmt: skip
    begun = begin(Traffic(champion=ArmRoute(version="base", model="base-model")), release)
    ramping = change(begun, Phase.RAMPING, "loaded", at)
    state = open_state(service)
    Book(state).write(TASK, msgspec.structs.replace(ramping, notes=()))
    state.close()


if __name__ == "__main__":
    main()
