"""What the evidence of a running training costs, against the same TRL trainer without it.

    python -m benchmarks.evidence --method sft --rounds 5

The example's data, model, seed and steps, by turns in one process: TRL's trainer alone, again (what
chance makes of the ratio), with all that `train` shows and keeps as it runs (metrics of every step
and completions in MLflow, the line on the terminal, checkpoints), and with looks at held-out
prompts beside, which answer or read them as the run goes. A turn counts from the trainer's first
step until the last of its evidence is sent. The adapters must have the same bytes.

On a machine that others use a ratio of two runs is off by several percent. So beside both clocks
stands what is accounted for: processor time of the threads beside the trainer's, of callbacks, and
after the last step.
"""

import gc
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import psutil

from benchmarks.figures import figure
from benchmarks.training import EXAMPLE, fill, production, service_in
from everlearn.config import Service
from everlearn.task import Task, base_model_path, load_task
from registry.versions import Registry
from trainer import adapter as adapters
from trainer.lock import holding
from trainer.methods import Method
from trainer.methods.auto import METHODS
from trainer.plan import Plan, plan, training_data
from trainer.record import end, opened, over
from trainer.reward import Grading, reward_grader, trl_reward
from trainer.run import Means, _Learning
from trainer.workbench import Workbench, import_trainers, quiet, seeded
from trainer.workplace import Workplace

ARMS = ("plain", "again", "evidence", "looks")
GOAL = "<= 1.02"


class Spent(NamedTuple):
    """Seconds."""

    cpu: float
    """Of this process."""
    wall: float
    beside: float
    """Of `cpu`, what the trainer's own thread did not spend on training: other threads, callbacks,
    what came after the last step."""
    others: float
    """Processor time of child processes: MLflow's server, graders."""


class Stopwatch:
    """Runs from the moment when the method's trainer is built."""

    def __init__(self, method: Method) -> None:
        def build(*given: Any) -> Any:
            trainer = method.build(*given)
            handler = trainer.callback_handler
            handler.call_event = self._counted(handler.call_event)
            trainer.train = self._until(trainer.train)
            self._begun = _now()
            return trainer

        self.method = replace(method, build=build)
        self._called = self._trained = 0.0
        self._begun = _now()

    def _counted(self, call: Any) -> Any:
        def counted(*given: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return call(*given, **named)
            finally:
                self._called += time.thread_time() - begun

        return counted

    def _until(self, train: Any) -> Any:
        def until(*given: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return train(*given, **named)
            finally:
                self._trained = time.thread_time() - begun

        return until

    def spent(self) -> Spent:
        cpu, wall, others = (now - then for now, then in zip(_now(), self._begun, strict=True))
        return Spent(cpu, wall, cpu - self._trained + self._called, others)


def _now() -> tuple[float, float, float]:
    times = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    others = sum(each.user + each.system for each in times)
    return time.process_time(), time.monotonic(), others


class _Unwatched(_Learning):
    """Without looks at held-out prompts."""

    def _looks(self, method: Method, bench: Workbench) -> None:
        return None

    def _early(self, method: Method, bench: Workbench) -> None:
        return None


class Setting(NamedTuple):
    """What every turn has in common."""

    service: Service
    task: Task
    plan: Plan
    method: Method

    def bench(self, folder: Path) -> Workbench:
        return Workbench(self.task, base_model_path(self.service, self.task), folder)


def plainly(setting: Setting) -> tuple[Spent, str]:
    """TRL's trainer as the method builds it, and nothing beside."""
    from transformers import PrinterCallback

    task, rewarding = setting.task, reward_grader(setting.task)
    assert rewarding is not None
    grading, watch = Grading(task, setting.service, rewarding), Stopwatch(setting.method)
    with tempfile.TemporaryDirectory() as scratch:
        bench = setting.bench(Path(scratch))
        seeded(task.train.seed)
        data = training_data(setting.plan.snapshot, task)
        trainer = watch.method.build(data, bench, lambda rows: trl_reward(grading, rows))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        spent = watch.spent()
        grading.close()
        model = trainer.accelerator.unwrap_model(trainer.model)
        return spent, _digest(model, bench)


def shown(setting: Setting, kind: type[_Learning]) -> tuple[Spent, str]:
    """As `train` trains it."""
    service, task, watch = setting.service, setting.task, Stopwatch(setting.method)
    place = Workplace(service, task)
    with holding(service, task.task) as held:
        run, _ = opened(service, task, setting.plan, held, _told)
        place.open(fresh=True)
        bench = setting.bench(place.folder)
        means = Means(Registry(service), _told, place, held)
        learning = kind(service, bench, setting.plan, run, means)
        trained = learning._fitted(watch.method, bench)
        learning.close()
        spent, digest = watch.spent(), _digest(trained.model, bench)
        end(run, held, "registered", "measured")
        over(place, held)
        return spent, digest


def _told(line: str) -> None:
    click.echo(line, err=True)


def _digest(model: Any, bench: Workbench) -> str:
    return adapters.content_digest(adapters.save(model, bench, bench.folder / "measured"))


def turn(setting: Setting, arm: str) -> tuple[Spent, str]:
    """One run."""
    gc.collect()  # what the run before left is not this one's
    if arm in ("plain", "again"):
        return plainly(setting)
    return shown(setting, _Learning if arm == "looks" else _Unwatched)


def measure(setting: Setting, rounds: int) -> None:
    """Prints the ratio of each arm to the first one of its round, in the median."""
    turns: dict[str, list[Spent]] = {arm: [] for arm in ARMS}
    digests = {arm: set[str]() for arm in ARMS}
    turn(setting, "plain")  # what is imported and compiled once is nobody's
    for number in range(rounds):
        shift = number % len(ARMS)
        for arm in (*ARMS[shift:], *ARMS[:shift]):
            spent, digest = turn(setting, arm)
            turns[arm].append(spent)
            digests[arm].add(digest)
            click.echo(f"{arm}: {spent} {digest[:12]}", err=True)
    for arm in ARMS[1:]:
        report(setting.method.name, arm, turns, same=digests[arm] == digests["plain"])


def report(method: str, arm: str, turns: Mapping[str, Sequence[Spent]], *, same: bool) -> None:
    """Against the plain trainer of the same round: what is accounted for, and both clocks."""
    rounds = list(zip(turns["plain"], turns[arm], strict=True))
    accounted = [1 + (mine.beside - theirs.beside) / theirs.cpu for theirs, mine in rounds]
    for field, ratios in {
        "accounted": accounted,
        "cpu": [mine.cpu / theirs.cpu for theirs, mine in rounds],
        "wall": [mine.wall / theirs.wall for theirs, mine in rounds],
    }.items():
        figure(
            f"evidence: {method}, {arm}: {field} against plain TRL",
            median(ratios),
            "x",
            goal=GOAL if arm == "evidence" else None,
            spread=[round(min(ratios), 3), round(max(ratios), 3)],
            plain_seconds=round(median(each.cpu for each in turns["plain"]), 2),
            others_seconds=round(median(each.others for each in turns[arm]), 2),
            same_bytes=same,
        )


@click.command()
@click.option("--method", "names", multiple=True, default=("sft", "rft"))
@click.option("--base", type=click.Path(path_type=Path), default=EXAMPLE / "model")
@click.option("--steps", type=int, help="Default: the task's.")
@click.option("--rounds", default=5, show_default=True)
def command(names: tuple[str, ...], base: Path, steps: int | None, rounds: int) -> None:
    """Print a line for each arm and clock."""
    from evaluators.run import evaluate
    from everlearn.lake.ducklake import open_lake

    quiet()
    with (
        tempfile.TemporaryDirectory() as folder,
        service_in(Path(folder), base.resolve(), 0) as service,
    ):
        task, lake = load_task(service, "text2sql"), open_lake(service)
        changed = {"early_stop": True, **({"max_steps": steps} if steps else {})}
        task = task.model_copy(update={"train": task.train.model_copy(update=changed)})
        fill(lake, production(EXAMPLE / "model", thumbs=600, corrections=100, seed=0))
        evaluate(service, task, lake)
        import_trainers()
        for method in (each for each in METHODS if each.name in names):
            made = plan(lake, task, Registry(service), salt="", method=method.name)
            measure(Setting(service, task, made, method), rounds)
        lake.close()


if __name__ == "__main__":
    command()
