"""Where traffic documents are kept, and their outbox emptied into the lake and the registry.

Written in this order, so that a kill at any point loses nothing and repeats at most one step that
may be repeated:
1. the document, with events and notes in its outbox (compare-and-swap), and with the route that
   follows from it: gateways on other hosts read that;
2. events, in one lake transaction that leaves out those that are there already;
3. notes to the registry one by one, each taken out of the document once it is done.
"""

import logging
from collections.abc import Callable

import msgspec

from everlearn.errors import InputError
from everlearn.lake.store import Lake, Transaction
from everlearn.state import State, StateConflict
from gateway.routes import KIND
from registry.states import VersionState
from registry.versions import BASE, Registry
from serving.release.routing import render
from serving.release.states import Event, Note, Traffic

log = logging.getLogger(__name__)


class Book:
    """Traffic documents by task."""

    def __init__(self, state: State) -> None:
        self._state = state

    def read(self, task: str) -> tuple[Traffic, int] | None:
        """The document and its revision."""
        found = self._state.get(KIND, task)
        if found is None:
            return None
        return msgspec.convert(found[0], Traffic), found[1]

    def traffic(self, task: str) -> Traffic | None:
        """The document alone."""
        found = self.read(task)
        return None if found is None else found[0]

    def write(self, task: str, traffic: Traffic, revision: int = 0) -> int:
        """Save over `revision` (0 = new), return the next; StateConflict if it moved on."""
        body = {**msgspec.to_builtins(traffic), "route": msgspec.to_builtins(render(traffic))}
        return self._state.put(KIND, task, body, revision)

    def tell_lake(self, task: str, lake: Lake) -> None:
        """Empty the outbox of events."""
        found = self.read(task)
        if found is None or not found[0].events:
            return
        told = found[0].events
        lake.commit(lambda transaction: _append(transaction, task, told))

        def without(traffic: Traffic) -> Traffic:
            left = tuple(event for event in traffic.events if event not in told)
            return msgspec.structs.replace(traffic, events=left)

        self._amend(task, without)

    def tell_registry(self, task: str, registry: Callable[[], Registry]) -> set[str]:
        """Empty the outbox of notes, in their order; RegistryError leaves the rest for later. The
        versions that were told about."""
        told = set()
        while (found := self.read(task)) is not None and found[0].notes:
            first = found[0].notes[0]
            if _apply(registry(), task, first) and first.version is not None:
                told.add(first.version)

            def without(traffic: Traffic, note: Note = first) -> Traffic:
                # Somebody else may have told it meanwhile.
                left = traffic.notes[traffic.notes[:1] == (note,) :]
                return msgspec.structs.replace(traffic, notes=left)

            self._amend(task, without)
        return told

    def _amend(self, task: str, make: Callable[[Traffic], Traffic]) -> None:
        """Change the outbox of whatever document there is by now: nothing else is touched."""
        while (found := self.read(task)) is not None:
            changed = make(found[0])
            if changed == found[0]:
                return
            try:
                self.write(task, changed, found[1])
            except StateConflict:
                continue
            return


def _append(transaction: Transaction, task: str, events: tuple[Event, ...]) -> None:
    sql = "SELECT epoch(created_at) AS at, event, version FROM releases WHERE task = ?"
    there = {
        (round(row["at"], 3), row["event"], row["version"])
        for row in transaction.query(sql, [task])
    }
    rows = [
        {
            **{key: getattr(event, key) for key in ("event", "release_id", "version", "phase")},
            **{key: getattr(event, key) for key in ("stage", "percent", "reason", "evidence")},
            "task": task,
            "created_at": event.at,
        }
        for event in events
        if (round(event.at, 3), event.event, event.version) not in there
    ]
    if rows:
        transaction.append("releases", rows)


def _apply(registry: Registry, task: str, note: Note) -> bool:
    """Whether there is a version to tell of."""
    if note.version not in (None, BASE):
        there = {each.version for each in registry.versions(task)}
        if note.version not in there:
            # Deleted by hand: held back, this note would keep every later one waiting for ever.
            log.warning(
                "%s: version %s is gone from the registry: not told that %s is %s (%s)",
                *(task, note.version, note.kind, note.name, note.reason or "no reason given"),
            )
            return False
    if note.kind == "alias":
        registry.set_alias(task, note.name, note.version)
    elif note.version is not None:
        try:
            registry.transition(task, note.version, VersionState(note.name), note.reason)
        except InputError as error:
            # Told before a kill and moved on since, or changed by hand: traffic does not depend
            # on it, the reason says what was meant.
            registry.tag(task, note.version, unapplied=f"{note.name}: {note.reason} ({error})")
    return True
