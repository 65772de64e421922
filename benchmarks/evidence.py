"""What the evidence of a training costs, against TRL alone: the same rows, seed and steps.

    python -m benchmarks.evidence --method sft --pairs 5

Each pair is one run of the bare TRL trainer and one with all that a run leaves while it trains:
metrics of every step (and the answers of RFT) in a real MLflow server, checkpoints, the lock's
heartbeat, lines of progress. Which of them goes first alternates. Early stop, looks for reward
hacking and the exam are no evidence: they decide, and are not in it. Counted is the CPU time of
this process, the sender's thread included; beside it the clock's, which others on the machine
disturb. One JSON line per figure, and one that says whether the adapters are the same bytes.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click

from benchmarks.figures import figure
from benchmarks.training import EXAMPLE, service_in
from everlearn.config import Service
from everlearn.graders import Multi
from everlearn.task import Task, load_task
from trainer import adapter as adapters
from trainer.checkpoint import Checkpoints, keeping
from trainer.lock import holding
from trainer.methods import Method, Reward, TrainingData, rft, sft
from trainer.reward import Grading, trl_reward
from trainer.rows import Row
from trainer.stream import Stream
from trainer.tracking import TrainingRun
from trainer.workbench import Workbench, fit, import_trainers, quiet, seeded

METHODS = {"sft": sft.METHOD, "rft": rft.METHOD}
ROWS = 200
"""Right answers to questions in jargon, and as many ordinary ones."""
MOST = 1.02


class Cost(NamedTuple):
    """Of one run."""

    cpu_seconds: float
    wall_seconds: float
    digest: str
    """sha256 of the adapter's weights."""


def data() -> TrainingData:
    """What an analyst corrected, and what the model does already."""
    from examples.text2sql.language import Kind, questions

    def row(asked: Kind, number: int, question: Any) -> Row:
        ordinary = Row(
            completion_id=f"{asked}-{number}",
            unit=f"user-{number}",
            kind="replay",
            messages=[{"role": "user", "content": question.text}],
            completion=question.sql,
        )
        if asked == "formal":
            return ordinary
        wrong = {"completion": question.decoy, "target": question.sql, "author": "expert"}
        return replace(ordinary, kind="correction", **wrong)

    kinds: tuple[Kind, ...] = ("jargon", "formal")
    return TrainingData(
        tuple(
            row(asked, number, question)
            for asked in kinds
            for number, question in enumerate(islice(questions(asked, "asked", 0), ROWS))
        )
    )


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What comes of it, with the seconds of this process and of the clock."""
    cpu, wall = time.process_time(), time.monotonic()
    found = work()
    return found, time.process_time() - cpu, time.monotonic() - wall


class Bench:
    """One method on the example, plain or with the evidence."""

    def __init__(self, service: Service, task: Task, method: Method, model: Path) -> None:
        self._service, self._task, self._method, self._model = service, task, method, str(model)
        self._data = data()
        formula = Multi(type="multi", name="reward", calculate_output="0.2*executes + 0.8*matches")
        self._reward = Grading(task, service, formula)

    def close(self) -> None:
        self._reward.close()

    def _built(self, folder: Path, **seen: Any) -> tuple[Any, Workbench]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        bench = Workbench(self._task, self._model, folder)
        reward: Reward = lambda rows: trl_reward(self._reward, rows, **seen)  # noqa: E731
        seeded(self._task.train.seed)
        return self._method.build(self._data, bench, reward), bench

    def plain(self, folder: Path) -> Cost:
        """TRL's trainer, and nothing else."""
        trainer, bench = self._built(folder)
        _, *spent = timed(trainer.train)
        return self._cost(trainer.accelerator.unwrap_model(trainer.model), bench, *spent)

    def told(self, folder: Path) -> Cost:
        """The same with what `train` records of it."""
        name = self._method.name
        with holding(self._service, self._task.task) as held:
            run = TrainingRun(self._service, self._task)
            stream = Stream(run, print)
            trainer, bench = self._built(folder, seen=stream.completions)
            checkpoints = Checkpoints(folder / name, self._task.train.checkpoint_seconds, print)
            trainer.add_callback(keeping(checkpoints, trainer, held.check))

            def work() -> Any:
                trained = fit(name, trainer, lambda _: None, send=stream.metrics)
                stream.close()
                return trained.model

            model, *spent = timed(work)
            run.end("registered", "measured")
        return self._cost(model, bench, *spent)

    def _cost(self, model: Any, bench: Workbench, cpu: float, wall: float) -> Cost:
        saved = adapters.save(model.eval(), bench, bench.folder / "adapter")
        return Cost(cpu, wall, hashlib.sha256((saved / adapters.WEIGHTS).read_bytes()).hexdigest())


@click.command()
@click.option("--method", type=click.Choice(sorted(METHODS)), default="sft", show_default=True)
@click.option("--pairs", default=5, show_default=True)
@click.option("--steps", default=60, show_default=True)
def command(method: str, pairs: int, steps: int) -> None:
    """Print ratios of CPU and clock time, with against without evidence."""
    quiet()
    import_trainers()
    with (
        tempfile.TemporaryDirectory(prefix="evidence-") as scratch,
        service_in(Path(scratch), (EXAMPLE / "model").resolve(), 0) as service,
    ):
        task = load_task(service, "text2sql")
        task = task.model_copy(
            update={"train": task.train.model_copy(update={"max_steps": steps, "device": "cpu"})}
        )
        bench = Bench(service, task, METHODS[method], EXAMPLE / "model")
        costs: dict[str, list[Cost]] = {"plain": [], "told": []}
        try:
            bench.told(Path(scratch) / "warm")  # imports, and the server's first run
            for number in range(pairs):
                for name in ("plain", "told") if number % 2 else ("told", "plain"):
                    costs[name].append(getattr(bench, name)(Path(scratch) / "run"))
        finally:
            bench.close()
    said(method, steps, costs)


def said(method: str, steps: int, costs: dict[str, list[Cost]]) -> None:
    """The figures."""
    pairs = list(zip(costs["told"], costs["plain"], strict=True))
    for name in ("cpu_seconds", "wall_seconds"):
        ratios = [getattr(told, name) / getattr(plain, name) for told, plain in pairs]
        figure(
            f"evidence_{method}_{name}",
            median(ratios),
            "with / without",
            goal=f"<= {MOST}",
            pairs=[round(each, 3) for each in ratios],
            plain=round(median(getattr(each, name) for each in costs["plain"]), 2),
            steps=steps,
        )
    digests = {each.digest for each in (*costs["told"], *costs["plain"])}
    print(json.dumps({"figure": f"evidence_{method}_adapters", "different": len(digests)}))


if __name__ == "__main__":
    command()
