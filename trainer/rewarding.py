"""The reward of an RFT run under way: its formula may be edited, from the next step on.

- `everlearn train reward edit` leaves a formula in the state store, on whatever machine; the run
  takes it up when its next step begins, writes down at which step that was, and grades by it from
  there.
- A formula that cannot be taken is refused, and the old one goes on.
- A run that is taken up grades each step by the formula that it was graded by.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from evaluators.formula import Formula
from everlearn.config import Service
from everlearn.errors import ConfigError, InputError, StateError
from everlearn.graders import Judging, Multi
from everlearn.state import State, StateConflict, open_state
from everlearn.task import Task, heldout_grader
from trainer.reward import Grading, Verdict, needs_reference, read_by, reward_grader
from trainer.rows import Row

KIND = "reward_edit"
"""Of the state store's document, one a task: the run, and the formula that it is to take; null: it
has."""
TAKEN = "rft-reward.json"


class Edit(NamedTuple):
    """A formula, and the first step that was graded by it."""

    step: int
    formula: str


def edited(task: Task, formula: str) -> Multi:
    """The task's reward with that formula; InputError or ConfigError where it cannot be taken."""
    reward = reward_grader(task)
    if reward is None:
        raise InputError(f"task {task.task}: has no reward to edit: name graders, or a reward")
    names = Formula(formula, "reward").names
    parts = reward.graders or {part.name: part for part in task.graders}
    strange = [name for name in names if name not in parts]
    if strange or not names:
        raise InputError(
            f"reward: {formula!r} reads {', '.join(strange) or 'no grader'}; there are "
            f"{', '.join(parts)}"
        )
    made = reward.model_copy(update={"calculate_output": formula})
    before = read_by(task, reward)
    for name in read_by(task, made) - before:
        if name == heldout_grader(task):
            raise InputError(f"reward: {name} watches this run for reward hacking: leave it out")
        if isinstance(parts.get(name), Judging):
            raise InputError(f"reward: {name} asks a model: it is no part of a reward that runs")
    if needs_reference(task, made) and not needs_reference(task, reward):
        raise InputError(f"reward: {formula!r} needs right answers, which this run's prompts lack")
    return made


def ask(state: State, task: str, run_id: str, formula: str) -> None:
    """Leave it for that run of the task; the last word before its next step counts."""
    while True:
        _, revision = state.get(KIND, task) or ({}, 0)
        with suppress(StateConflict):  # somebody else was faster: over his
            state.put(KIND, task, {"run_id": run_id, "formula": formula}, revision)
            return


def shown(edits: Sequence[Edit]) -> str:
    """For the run's record."""
    return "; ".join(f"from step {each.step}: {each.formula}" for each in edits)


class Edits:
    """Of one run: what was asked for, and what was taken, which its folder keeps."""

    def __init__(self, service: Service, task: str, run_id: str, folder: Path) -> None:
        self._state, self._task, self._run_id = open_state(service), task, run_id
        self._kept = folder / TAKEN

    def asked(self) -> tuple[str, int] | None:
        """The formula, and which asking it is. A store that is away for a moment has none: the next
        step asks again."""
        try:
            document, revision = self._state.get(KIND, self._task) or ({}, 0)
        except StateError:
            return None
        if document.get("run_id") != self._run_id or document["formula"] is None:
            return None
        return str(document["formula"]), revision

    def settle(self, revision: int) -> None:
        """It is taken, or refused; what was asked for meanwhile stays."""
        with suppress(StateConflict, StateError):
            answered = {"run_id": self._run_id, "formula": None}
            self._state.put(KIND, self._task, answered, revision)

    @property
    def taken(self) -> list[Edit]:
        """In order."""
        try:
            return [Edit(*each) for each in json.loads(self._kept.read_text())]
        except (OSError, ValueError):
            return []

    def keep(self, new: Edit) -> None:
        part = self._kept.with_name(f".{TAKEN}")
        part.write_text(json.dumps([*self.taken, new]))
        part.rename(self._kept)

    def close(self) -> None:
        self._state.close()


class Rewarding:
    """The reward while a run lasts; grades as `Grading` does, by the formula of its step."""

    def __init__(
        self,
        service: Service,
        task: Task,
        reward: Multi,
        edits: Edits,
        report: Callable[[str], None],
    ) -> None:
        self._service, self._task, self._first = service, task, reward
        self._edits, self._report = edits, report
        self._formula = reward.calculate_output
        self._grading = Grading(task, service, reward)
        self.since = 0
        """The first step of the formula in force; 0: the task's own."""

    @property
    def edits(self) -> list[Edit]:
        """Those taken so far, in order."""
        return self._edits.taken

    def begin(self, step: int) -> Edit | None:
        """Grade by the formula of this step from now on; the edit, where one was taken just now."""
        new = self._taken(step)
        known = [each for each in self.edits if each.step <= step]
        now = known[-1] if known else Edit(0, self._first.calculate_output)
        self.since = now.step
        if now.formula != self._formula:
            self._grading.close()
            made = self._first.model_copy(update={"calculate_output": now.formula})
            self._grading = Grading(self._task, self._service, made)
            self._formula = now.formula
        return new

    def __call__(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float | None]:
        return self._grading(rows, answers)

    def detailed(self, rows: Sequence[Row], answers: Sequence[str]) -> list[Verdict]:
        return self._grading.detailed(rows, answers)

    def close(self) -> None:
        self._grading.close()
        self._edits.close()

    def _taken(self, step: int) -> Edit | None:
        asked = self._edits.asked()
        if asked is None:
            return None
        formula, revision = asked
        try:
            edited(self._task, formula)
        except (InputError, ConfigError) as error:
            self._report(f"rft: the reward stays {self._formula!r}: {error}")
            self._edits.settle(revision)
            return None
        new = Edit(step, formula)
        self._edits.keep(new)
        self._edits.settle(revision)
        self._report(f"rft: from step {step} on the reward is {formula!r}")
        return new
