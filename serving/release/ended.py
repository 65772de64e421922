"""For Airflow: waits until a release has ended, and holds no worker while it does.

The waiting is one coroutine of Airflow's triggerer that reads one small document of the state store
every `poll_seconds`; the worker comes back for the ending. *Promoted* is green, every other
ending skips what would follow, with the reason. A state store that is away is asked again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from everlearn.config import load
from everlearn.errors import StateError
from everlearn.state import open_state
from gateway.routes import KIND

POLL_SECONDS = 30.0
UNDER_WAY = ("loading", "pairing", "ramping")


class Ended(BaseTrigger):  # type: ignore[misc]
    """Fires once the release of `version` is no longer under way."""

    def __init__(self, task: str, version: str, poll_seconds: float = POLL_SECONDS) -> None:
        super().__init__()
        self._task, self._version, self._poll_seconds = task, version, poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where it is found, and what it is made of."""
        fields = {"task": self._task, "version": self._version}
        return f"{__name__}.{Ended.__name__}", {**fields, "poll_seconds": self._poll_seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: the phase and its reason."""
        while (found := await asyncio.to_thread(ending, self._task, self._version)) is None:
            await asyncio.sleep(self._poll_seconds)
        yield TriggerEvent(found)


class AwaitRelease(BaseOperator):  # type: ignore[misc]
    """Green when `version` of `everlearn_task` was promoted."""

    template_fields = ("version",)

    def __init__(self, *, everlearn_task: str, version: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.everlearn_task, self.version = everlearn_task, version

    def execute(self, context: Any) -> None:
        """Hand the waiting over."""
        self.defer(trigger=Ended(self.everlearn_task, self.version), method_name="decided")

    def decided(self, context: Any, event: dict[str, str]) -> str:
        """The ending; raises AirflowSkipException with the reason unless it was promoted."""
        told = f"version {self.version}: {event['phase']}: {event['reason']}"
        if event["phase"] != "promoted":
            raise AirflowSkipException(told)
        return told


def ending(task: str, version: str) -> dict[str, str] | None:
    """The last release's phase and reason; None while it is under way or cannot be read."""
    try:
        with closing(open_state(load())) as state:
            found = state.get(KIND, task)
    except StateError:
        return None
    traffic = found[0] if found else {}
    several = [traffic.get("release"), *traffic.get("beside", ())]
    release = next((r for r in several if r and r["candidate"]["version"] == version), None)
    if release is None:
        return {"phase": "replaced", "reason": "another version has been released since"}
    if release["phase"] in UNDER_WAY:
        return None
    return {"phase": release["phase"], "reason": release["reason"]}
