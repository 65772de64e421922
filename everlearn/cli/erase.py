"""`everlearn erase`: one user, or one answer, out of everything that is kept, with a receipt."""

from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from everlearn.config import Service
    from everlearn.lake.ducklake import DuckLake
    from everlearn.lake.erase import Subject


@click.command("erase")
@click.option("--unit", help="Everything of this user (or conversation, or request).")
@click.option("--completion", "completion_id", help="One answer, by its completion id.")
@click.option(
    "--now",
    "at_once",
    is_flag=True,
    help="Delete the lake's old files at once: nothing else may be reading it.",
)
@json_option
@config_option
def command(
    unit: str | None,
    completion_id: str | None,
    at_once: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Take the rows of --unit (or of one --completion) out of the lake and its files, the label
    queue, frozen datasets and what trainings kept; say which versions learned from them, and keep a
    receipt that names nobody. Again is never wrong: it finishes what was left.
    """
    import json

    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.lake.erase import Subject

    subject = Subject(unit, completion_id)
    service = load(config_path)
    lake = open_lake(service)
    try:
        receipt = _erased(service, lake, subject, at_once=at_once)
    finally:
        lake.close()
    click.echo(json.dumps(receipt) if as_json else "\n".join(_lines(subject, receipt)))


def _erased(
    service: "Service", lake: "DuckLake", subject: "Subject", *, at_once: bool
) -> dict[str, Any]:
    """The receipt. What cannot be redone comes last: each step finds what the one before left.

    1. The label queue and known raters, by the ids that the lake still has.
    2. The lake, in one transaction; then its files and its history.
    3. What trainings kept, and what a dead one left on this machine.
    4. Which versions were taught rows of it; the receipt.
    """
    from collector.compact import expunge
    from everlearn.errors import EverlearnError
    from everlearn.lake.erase import TOUCHED, answers, erase, must_be_known
    from registry.versions import Registry

    must_be_known(lake, subject)
    removed: dict[str, int] = _outside(service, subject, answers(lake, subject))
    removed |= erase(lake, subject)
    versions: list[dict[str, Any]] = []
    files: dict[str, Any] = {}
    left: list[str] = []
    try:
        files = expunge(lake, TOUCHED, at_once=at_once)
        trained, versions, left = _trained(service, Registry(service), lake, subject)
        removed |= trained
    except EverlearnError as error:
        _keep(service, lake, subject, (removed, versions, f"not finished: {error}"))
        raise
    left += _still(service, subject, files)
    outcome = "; ".join(left) or "done"
    _keep(service, lake, subject, (removed, versions, outcome))
    return {"removed": removed, "versions": versions, "lake": files, "left": left}


def _outside(service: "Service", subject: "Subject", ids: list[str]) -> dict[str, int]:
    """What the state store knows."""
    from contextlib import closing

    from evaluators.quarantine import forget as forget_rater
    from evaluators.queue import forget
    from everlearn.state import open_state
    from everlearn.task import read_tasks

    with closing(open_state(service)) as state:
        done = {"label_queue": forget(state, ids)}
    if subject.unit is not None:
        tasks = read_tasks(service).tasks
        done["raters"] = sum(forget_rater(service, task, subject.unit) for task in tasks)
    return {place: number for place, number in done.items() if number}


def _trained(
    service: "Service", registry: Any, lake: "DuckLake", subject: "Subject"
) -> tuple[dict[str, int], list[dict[str, Any]], list[str]]:
    """What was taken out of MLflow, who learned from the rows, and what is left."""
    from everlearn.errors import TrainingBusy
    from everlearn.task import read_tasks
    from registry.erasure import redact
    from registry.units import uses
    from trainer.lock import holding
    from trainer.workplace import Workplace

    tasks, left = read_tasks(service).tasks, []
    removed = {"training_texts": sum(each.texts for each in redact(registry, lake, tasks))}
    found = uses(registry, lake, subject.name, tasks, column=subject.column)
    for name in sorted({use.task for use in found}):
        try:
            with holding(service, name):
                Workplace(service, tasks[name]).close()
        except TrainingBusy:
            left.append(f"a training of {name} is under way and may know it: again when it ends")
    versions = [
        {"task": use.task, **{key: each[key] for key in ("version", "state", "served")}}
        for use in found
        for each in use.versions
        if each["learned"]
    ]
    return {key: number for key, number in removed.items() if number}, versions, left


def _still(service: "Service", subject: "Subject", files: dict[str, Any]) -> list[str]:
    """Where bytes of it stand still, and when they go."""
    import msgspec

    from collector.compact import GRACE_HOURS
    from collector.wal_source import holding

    left = []
    if files.get("files_waiting"):
        left.append(
            f"{files['files_waiting']} old files of the lake: `everlearn maintain` deletes them "
            f"after {GRACE_HOURS} hours, --now at once"
        )
    logged = holding(service.wal_path, msgspec.msgpack.encode(subject.name))
    if logged:
        left.append(
            f"{len(logged)} segments of the event log: each goes once it is collected and the next "
            "one is begun; what was not collected yet comes into the lake: again then"
        )
    if service.bus.kind == "kafka":
        left.append("Kafka keeps its messages for the retention of the topic")
    return left


def _keep(
    service: "Service",
    lake: "DuckLake",
    subject: "Subject",
    told: tuple[dict[str, int], list[dict[str, Any]], str],
) -> None:
    """Write the receipt, unless nothing was done and the last one says the same."""
    import hashlib
    from datetime import UTC, datetime

    from everlearn.ids import new_id
    from everlearn.installation import heldout_salt

    removed, versions, outcome = told
    secret = f"{heldout_salt(service)}\x1f{subject.column}\x1f{subject.name}"
    digest = hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
    sql = "SELECT outcome FROM erasures WHERE subject = ? ORDER BY created_at DESC LIMIT 1"
    before = lake.read(sql, [digest]).to_pylist()
    if not removed and before and before[0]["outcome"] == outcome:
        return
    row = {
        **{"erasure_id": new_id("erase"), "subject": digest, "kind": subject.column},
        **{"removed": removed, "versions": versions, "outcome": outcome},
        "created_at": datetime.now(UTC),
    }
    lake.commit(lambda transaction: transaction.append("erasures", [row]))


def _lines(subject: "Subject", receipt: dict[str, Any]) -> list[str]:
    """The receipt for people."""
    removed = ", ".join(f"{number} {place}" for place, number in receipt["removed"].items())
    told = [f"{subject.name}: erased {removed}" if removed else f"{subject.name}: nothing was left"]
    for each in receipt["versions"]:
        served = "is served" if each["served"] else "is not served"
        told.append(
            f"  {each['task']} version {each['version']} learned from it ({each['state']}, "
            f"{served}) and knows it still: train a new one, it will not"
        )
    return told + [f"  still there: {each}" for each in receipt["left"]]
