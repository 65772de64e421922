"""The full stack for half an hour, and nobody types a verb: `everlearn demo --day`.

Two tasks, users and an analyst who talk HTTP, and a day of trouble: the words of the house change
their meaning twice, somebody releases a spoiled version, a process is killed every few minutes,
the broker is away for a while. Airflow's scheduler judges, trains, gates and releases; this program
only makes the traffic and the trouble, and writes down what happened. Exits 0 only if it held.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from everlearn.config import Service
from everlearn.stack import processes
from everlearn.supervise import Supervisor
from examples.text2sql import measure, spoil
from examples.text2sql.day import outcome
from examples.text2sql.day.outcome import Day, Kind, Look
from examples.text2sql.language import TERMS
from examples.text2sql.live import LiveTraffic
from examples.text2sql.loop import move_aside
from examples.text2sql.people import People
from examples.text2sql.traffic import FAILURES, Traffic, accuracy
from serving.release.states import ENDINGS

TASKS = {"text2sql": 6.0, "reports": 3.0}
"""Requests per second."""
PEOPLE = People(review_share=0.4, max_corrections=100_000)
ASKED = 60
"""Questions per task and look."""
LOOK_SECONDS = 60.0
KILLED = ("collector", "shipper", "releases", "mlflow", "airflow-scheduler", "console")
"""In turn. One gateway and one model server stand on this machine: killing them fails requests."""
WORDS = [term.word for term in TERMS]
FIRST, SECOND = frozenset(WORDS[0::3]), frozenset(WORDS[0::3] + WORDS[1::3])
"""What has been redefined after the first drift, and after the second."""
_HEARTBEAT = "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"
"""How long Airflow believes in a run whose scheduler was killed: five minutes are long here."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """Seconds since the first user."""

    analyst: float = 60
    first_drift: float = 840
    spoiled: float = 1200
    second_drift: float = 1500
    broker_away: float = 1680
    broker_back: float = 1740
    first_kill: float = 240
    kill_every: float = 180
    end: float = 2220


PLAN = Plan()


class Program:
    """One run: what is due is done, what happens is written down."""

    def __init__(self, service: Service, supervisor: Supervisor, plan: Plan, say: Say) -> None:
        self.service, self.supervisor, self.plan = service, supervisor, plan
        self.gateway = f"http://{service.gateway.host}:{service.gateway.port}/v1"
        self.traffic = {
            task: Traffic(self.gateway, rate_per_second=rate, seed=seed, people=PEOPLE, model=task)
            for seed, (task, rate) in enumerate(TASKS.items(), 1)
        }
        assert {*KILLED, "kafka"} <= {row.name for row in supervisor.rows}
        self.started = time.time()
        self.day = Day(self.started, tuple(TASKS))
        self._say = say
        self._told: dict[str, int] = dict.fromkeys(TASKS, 0)
        self._kills = 0
        self._due: list[tuple[float, Callable[[], None]]] = [
            (plan.analyst, self._analyst_comes),
            (plan.first_drift, lambda: self._redefine(FIRST)),
            (plan.spoiled, self._release_a_spoiled_version),
            (plan.second_drift, lambda: self._redefine(SECOND)),
            (plan.broker_away, self._broker_away),
            (plan.broker_back, self._broker_back),
        ]
        kill = plan.first_kill
        while kill < plan.end - plan.kill_every:
            self._due.append((kill, self._kill_one))
            kill += plan.kill_every

    @property
    def second(self) -> float:
        return time.time() - self.started

    def say(self, kind: Kind, text: str) -> None:
        self.day.happened.append((self.second, kind, text))
        self._say(f"[{self.second:4.0f} s] {text}")

    def run(self) -> None:
        """Until the end of the plan."""
        looked = -LOOK_SECONDS
        while self.second < self.plan.end:
            for due in [each for each in self._due if each[0] <= self.second]:
                self._due.remove(due)
                due[1]()
            if self.second - looked >= LOOK_SECONDS:
                looked = self.second
                self._look()
            self._follow_releases()
            self.supervisor.states()
            time.sleep(2)

    def _look(self) -> None:
        """How many unseen questions are answered right now, and what it all weighs."""
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        self.day.memory_bytes = max(self.day.memory_bytes, sum(map(_resident, family)))
        for task, traffic in self.traffic.items():
            second = self.second
            try:
                right = accuracy(self.gateway, task, "jargon", ASKED, words=traffic.redefined)
            except FAILURES as error:
                self.say("trouble", f"{task}: could not be measured: {error}")
                continue
            self.day.looks.append(Look(second, task, right))
            self._say(f"[{second:4.0f} s] {task}: {right:.0%} of jargon right")

    def _follow_releases(self) -> None:
        for task in TASKS:
            events = measure.release_events(self.service, task, self.started)
            for event in events[self._told[task] :]:
                self.say(
                    "release",
                    f"{task} {event['version']}: {event['event']} {event['percent']:g} %: "
                    f"{event['reason']}",
                )
            self._told[task] = len(events)
            self.day.events[task] = events

    def _analyst_comes(self) -> None:
        self.say("people", "an analyst comes and looks at two answers in five")
        for traffic in self.traffic.values():
            traffic.reviewing = True

    def _redefine(self, words: frozenset[str]) -> None:
        self.say("drift", f"{len(words)} of {len(WORDS)} words mean something else now")
        for traffic in self.traffic.values():
            traffic.redefined = words

    def _kill_one(self) -> None:
        name = KILLED[self._kills % len(KILLED)]
        self._kills += 1
        pid = self.supervisor.states()[name]["pid"]
        if pid:
            os.kill(pid, signal.SIGKILL)
            self.say("kill", f"{name} is killed (-9)")

    def _broker_away(self) -> None:
        self.say("broker", "the broker goes away")
        self.supervisor.halt("kafka")

    def _broker_back(self) -> None:
        self.supervisor.resume("kafka")
        self.say("broker", "the broker comes back")

    def _release_a_spoiled_version(self) -> None:
        """As somebody would who trusts himself; later, where a release runs or none ever did."""
        task = next(iter(TASKS))
        events = self.day.events.get(task, [])
        champions = [each["version"] for each in events if each["event"] == "promoted"]
        if not champions or events[-1]["event"] not in ENDINGS:
            self._due.append((self.second + 20, self._release_a_spoiled_version))
            return
        version = spoil.register(self.service, task, champions[-1])
        self.day.spoiled = (task, version)
        self.say("people", f"somebody releases {task} {version}, which is spoiled")
        reason = "spoiled on purpose, to see it rolled back"
        words = ["release", "start", task, version, "--ungated", reason]
        outcome.verb(words)


def run(service: Service, config: Path, *, report_path: Path, say: Say, plan: Plan = PLAN) -> bool:
    """Live through the day and write the report; True if the loop held."""
    move_aside(service.data_path, say)
    os.environ |= {"EVERLEARN_CONFIG": str(config), _HEARTBEAT: "60"}
    with Supervisor(processes(service, config, "full"), service.data_path) as supervisor:
        begun = time.time()
        supervisor.start(
            lambda process: say(f"  {process.name} answers   {process.address or ''}"),
            waiting=lambda one, seconds: say(f"  {one.name}: not yet, {seconds:.0f} s"),
        )
        say(f"the stack is up after {time.time() - begun:.0f} s")
        program = Program(service, supervisor, plan, say)
        with _users(program):
            program.run()
        program.day.records = {task: each.records for task, each in program.traffic.items()}
        program.day.capture = outcome.settled()
    rows = outcome.table(program.day, program.plan)
    outcome.write(program.day, program.plan, rows, report_path)
    say("\n" + outcome.text(rows) + f"\n\nreport: {report_path}")
    return all(row.ok for row in rows if row.closes)


@contextmanager
def _users(program: Program) -> Iterator[None]:
    for traffic in program.traffic.values():
        traffic.reviewing = False
    running = [LiveTraffic(traffic) for traffic in program.traffic.values()]
    for each in running:
        each.__enter__()
    try:
        yield
    finally:
        for each in running:
            each.__exit__(None, None, None)


def _resident(process: psutil.Process) -> Any:
    """Bytes; what processes share, as torch's code, is counted once."""
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
