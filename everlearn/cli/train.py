"""`everlearn train`: a candidate version, or a recorded reason why not."""

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from everlearn.config import Service
    from everlearn.lake.store import Lake
    from registry.versions import Registry
    from trainer.outcome import Outcome
    from trainer.plan import Plan
    from trainer.workbench import Workbench


class Train(click.Command):
    """`train TASK`, and `train reward edit TASK FORMULA` for one that runs."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of whichever it is."""
        if args[:2] == ["reward", "edit"]:
            from everlearn.cli.train_reward import command as edit

            return edit.make_context(f"{info_name} reward edit", args[2:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("train", cls=Train)
@click.argument("task_name", metavar="TASK")
@click.option(
    "--method",
    type=click.Choice(["auto", "sft", "dpo", "kto", "rft", "hindsight"]),
    help="Default: the task's train.method.",
)
@click.option("--snapshot", "snapshot_id", help="Train on this one instead of a new one.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Seconds to wait for a training of TASK that is under way; exit 3 after them.",
)
@click.option("--dry-run", is_flag=True, help="Print method, reason and row counts only.")
@json_option
@config_option
def command(
    task_name: str,
    method: str | None,
    snapshot_id: str | None,
    wait_seconds: float,
    dry_run: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Train a candidate of TASK and register it; exit 3 when there is too little evidence.

    `everlearn train reward edit TASK FORMULA` changes the reward of an RFT that runs.
    """
    from everlearn.config import load
    from everlearn.installation import heldout_salt
    from everlearn.lake.ducklake import open_lake
    from everlearn.process_log import set_up
    from everlearn.task import load_task

    service = load(config_path)
    set_up(service.logging, "train")
    task = load_task(service, task_name)

    from evaluators.quarantine import released
    from registry.page import describe
    from registry.versions import Registry
    from trainer.lock import holding
    from trainer.plan import plan
    from trainer.record import left_over
    from trainer.run import train
    from trainer.sampling import ask_served
    from trainer.workbench import Workbench, quiet

    quiet()
    salt = heldout_salt(service)
    bench = Workbench.of(service, task)
    registry = Registry(service)

    def planned(lake: "Lake", snapshot: str | None) -> "Plan":
        return plan(
            lake,
            task,
            registry,
            salt=salt,
            released=released(service, task.task),
            method=method,
            snapshot_id=snapshot,
            write=not dry_run,
            # Without rows the base model's tokenizer is not asked for.
            refuses=lambda row: bench.encoder.refuses(row),
        )

    if dry_run:
        with closing(open_lake(service, read_only=True)) as lake:
            made = planned(lake, snapshot_id)
        _print_plan(_found(made, bench, service), as_json)
        made.check()
        return
    with (
        holding(service, task.task, wait_seconds=wait_seconds) as held,
        closing(open_lake(service)) as lake,
    ):
        _forget(registry, lake, task.task)
        left = left_over(service, task, held, lambda snapshot: planned(lake, snapshot))
        goes_on = left is not None and snapshot_id in (None, left.snapshot.snapshot_id)
        if not goes_on and snapshot_id is None:
            ask_served(
                service,
                task,
                lake,
                registry.champion(task.task),
                salt=salt,
                released=released(service, task.task),
                refuses=lambda row: bench.encoder.refuses(row),
                report=_say,
            )
        made = left if left is not None and goes_on else planned(lake, snapshot_id)
        outcome = train(service, task, made, registry, _say, held)
        describe(service, registry, lake, task.task, outcome.version)
    _print_outcome(outcome, as_json)


def _forget(registry: "Registry", lake: "Lake", task: str) -> None:
    """Nothing that was erased outlives the next training in what an earlier one kept."""
    from registry.erasure import redact

    for each in redact(registry, lake, [task]):
        _say(f"run {each.run_id}: {each.texts} erased texts taken out of {each.file}")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _found(made: "Plan", bench: "Workbench", service: "Service") -> dict[str, Any]:
    """The plan, what each method computes in, and what an RFT run would be."""
    methods = [] if made.refusal else [method.name for method in made.methods]
    rft = _rft(made, bench, service)
    return {
        **made.summary(),
        "precision": {name: bench.precision(name) for name in methods},
        **({"rft": rft} if rft else {}),
    }


def _rft(made: "Plan", bench: "Workbench", service: "Service") -> dict[str, Any] | None:
    from trainer.forecast import forecast
    from trainer.plan import training_data

    if "rft" not in [method.name for method in made.methods]:
        return None
    data = training_data(made.snapshot, bench.task)
    return forecast(data, made.snapshot.side("select"), bench, service)


def _print_plan(summary: dict[str, Any], as_json: bool) -> None:
    from trainer.forecast import lines

    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    click.echo(f"{summary['task']}: {summary['method']}: {summary['reason']}")
    for name, reason in summary["left_out"].items():
        click.echo(f"  {name} left out: {reason}")
    for line in lines(summary["rft"]) if "rft" in summary else ():
        click.echo(f"  {line}")
    for side, counts in summary["counts"].items():
        rows = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        click.echo(f"  {side}: {rows or 'no rows'}")
    for precision, methods in _by_precision(summary["precision"]).items():
        click.echo(f"  {precision}: {', '.join(methods)}")
    click.echo(f"  early stop: {summary['early_stop']}")


def _by_precision(found: dict[str, str]) -> dict[str, list[str]]:
    return {each: [name for name in found if found[name] == each] for each in found.values()}


def _print_outcome(outcome: "Outcome", as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        click.echo(json.dumps(asdict(outcome), indent=2))
        return
    click.echo(
        f"{outcome.task}: snapshot {outcome.snapshot_id}, champion {outcome.champion['name']}"
    )
    for row in (outcome.champion, *outcome.tried):
        shown = "none" if row["heldout"] is None else f"{row['heldout']:.1%}"
        click.echo(f"  {row['name']:<6} select {shown} of {row['rows']}, {row['seconds']:.1f} s")
    for name, reason in outcome.left_out.items():
        click.echo(f"  {name:<6} left out: {reason}")
    click.echo(f"  chosen {outcome.reason}")
    if outcome.finding is not None:
        click.echo(f"  the gate will refuse it: {outcome.finding}")
    click.echo(
        f"  version {outcome.version} ({outcome.model_name}) registered in {outcome.seconds:.0f} s"
    )
