"""Whether the judges that decide a release may: looked at when it starts, and as it goes on."""

from collections.abc import Callable

from evaluators.fill import label_salt
from evaluators.judges import refusal, require, unproven
from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.graders import Grader
from everlearn.lake.store import Lake
from everlearn.rules import ReleaseRules
from everlearn.task import Task

LOOK_SECONDS = 60.0
"""Between two looks at whether people still agree."""


def deciding(task: Task, rules: ReleaseRules) -> list[Grader]:
    """The graders whose word moves traffic."""
    names = {rules.co_primary, *rules.guardrails}
    if rules.labels is None:
        # Corrected by people it decides nothing by itself, whatever it is worth.
        names.add(rules.primary)
    if rules.shadow_pairs is not None:
        names.add(rules.shadow_pairs.judge)
    return [each for each in task.every_grader if each.name in names]


def refuse_unproven(service: Service, task: Task, lake: Callable[[], Lake]) -> None:
    """A judge that people were not seen to agree with decides no release."""
    require(
        task,
        deciding(task, task.release_rules),
        "release.shadow_pairs, primary, co_primary and guardrails",
        lake=lake,
        salt=lambda: label_salt(service),
    )


class Votes:
    """Of one task's running release; remembers the last look."""

    def __init__(self, service: Service, lake: Lake) -> None:
        self._service, self._lake = service, lake
        self._looked: tuple[str, float, str | None] = ("", 0.0, None)

    def lost(self, task: Task, release_id: str, rules: ReleaseRules, now: float) -> str | None:
        """Why a judge that decides may not any more; None: each may."""
        of, at, found = self._looked
        if of == release_id and 0 <= now - at < LOOK_SECONDS:
            return found
        try:
            lost = unproven(
                task,
                deciding(task, rules),
                lambda: self._lake,
                lambda: label_salt(self._service),
            )
            found = refusal(task, lost) if lost else None
        except EverlearnError as error:
            found = f"whether the judges may decide is not known: {error}"
        self._looked = (release_id, now, found)
        return found
