"""Texts that trainings kept, of rows that the lake has lost since: they are taken out.

- A run's table `completions.json` keeps its numbers; prompt, answer and reason become null.
- Probes of an adapter that ask such a prompt go, in MLflow and in this machine's folder; the probe
  that nobody asked stays, so that a server can still be checked. The digest is of the weights
  alone.
- A row is lost when `snapshot_rows` has it no more; a run whose snapshot is whole is not touched,
  and what cannot say whose it is counts as lost.
- What the weights know of it stays: `everlearn lineage` names those versions.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from everlearn.lake.store import Lake
from registry.units import thinned
from registry.versions import ARTIFACT, Registry, ask

TABLE = "completions.json"
TEXTS = ("prompt", "completion", "reason")
"""Columns of the table that hold words of people, or made of them."""
PROBES = ("probes.json", "base_probes.json")
NOBODY = ""
"""`completion_id` of a probe whose prompt is no user's."""


class Redacted(NamedTuple):
    """One file that lost texts."""

    task: str
    run_id: str
    file: str
    texts: int


def redact(registry: Registry, lake: Lake, tasks: Iterable[str]) -> list[Redacted]:
    """Take out of these tasks' runs and adapters what the lake has lost; what was taken out."""
    return [
        each
        for task in tasks
        for run_id, snapshot in _thinned_runs(registry, lake, task)
        for each in _run(registry, lake, task, (run_id, snapshot))
    ]


def without_texts(table: dict[str, Any], there: Collection[str]) -> tuple[dict[str, Any], int]:
    """The table, with no words of rows that are not `there`; how many rows lost them."""
    columns = list(table["columns"])
    hidden = [columns.index(name) for name in TEXTS if name in columns]
    named = columns.index("completion_id") if "completion_id" in columns else None
    rows, lost = [], 0
    for row in table["data"]:
        gone = named is None or row[named] not in there
        if gone and any(row[place] is not None for place in hidden):
            lost += 1
            row = [None if place in hidden else value for place, value in enumerate(row)]
        rows.append(row)
    return {**table, "data": rows}, lost


def without_probes(probes: list[dict[str, Any]], there: Collection[str]) -> list[dict[str, Any]]:
    """Those whose prompt is `there`, or nobody's."""
    return [each for each in probes if each.get("completion_id") in {NOBODY, *there}]


def _thinned_runs(registry: Registry, lake: Lake, task: str) -> list[tuple[str, str]]:
    """(run, snapshot) of the task's trainings whose snapshot is not whole."""
    found = ask(registry.client.get_experiment_by_name, task)
    made: dict[str, str] = {}
    token: str | None = "" if found else None
    while token is not None:
        page = ask(registry.client.search_runs, [found.experiment_id], page_token=token or None)
        for run in page:
            inputs = run.inputs.dataset_inputs if run.inputs else []
            for entry in inputs:
                made[run.info.run_id] = entry.dataset.name
        token = page.token or None
    lost = thinned(lake, set(made.values()))
    return [(run, snapshot) for run, snapshot in made.items() if snapshot in lost]


def _run(registry: Registry, lake: Lake, task: str, made: tuple[str, str]) -> list[Redacted]:
    run_id, snapshot = made
    sql = "SELECT DISTINCT completion_id FROM snapshot_rows WHERE snapshot_id = ?"
    there = set(lake.read(sql, [snapshot]).column("completion_id").to_pylist())
    done = []
    table = _document(registry, run_id, TABLE)
    if table is not None:
        left, lost = without_texts(table, there)
        if lost:
            ask(registry.client.log_dict, run_id, left, TABLE)
            done.append(Redacted(task, run_id, TABLE, lost))
    homes = [each.path for each in registry.versions(task) if each.run_id == run_id]
    for name in PROBES:
        lost = 0
        probes = _document(registry, run_id, f"{ARTIFACT}/{name}")
        if probes is not None:
            kept = without_probes(probes, there)
            lost = len(probes) - len(kept)
            if lost:
                ask(registry.client.log_text, run_id, _text(kept), f"{ARTIFACT}/{name}")
        for home in homes:
            lost = max(lost, _at_home(home, name, there))
        if lost:
            done.append(Redacted(task, run_id, f"{ARTIFACT}/{name}", lost))
    return done


def _at_home(home: Path | None, name: str, there: Collection[str]) -> int:
    """Take probes out of the adapter folder on this machine, by rename; how many."""
    if home is None or not (home / name).exists():
        return 0
    probes = json.loads((home / name).read_text())
    kept = without_probes(probes, there)
    if len(kept) < len(probes):
        part = home / f".{name}"
        part.write_text(_text(kept))
        part.rename(home / name)
    return len(probes) - len(kept)


def _text(probes: list[dict[str, Any]]) -> str:
    return json.dumps(probes, indent=2, sort_keys=True) + "\n"


def _document(registry: Registry, run_id: str, name: str) -> Any:
    """A JSON artifact; None where the run kept none of that name."""
    folder = name.rpartition("/")[0] or None
    listed = ask(registry.client.list_artifacts, run_id, folder)
    if name not in {entry.path for entry in listed}:
        return None
    with TemporaryDirectory() as scratch:
        path = ask(registry.client.download_artifacts, run_id, name, scratch)
        return json.loads(Path(path).read_text())
