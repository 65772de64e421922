"""Keys of the state store on their way into the keyring, off the path of requests.

A thread of its own asks the store once a second, because a database that hangs must not hold the
event loop. While the store is away the last good set stays in force.
"""

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from everlearn.config import Service
from everlearn.keys import StoredKey, stored_keys
from gateway.keys import Keyring

if TYPE_CHECKING:
    from everlearn.state import State

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
START_SECONDS = 5.0
"""How long a start waits for the first answer; then the keys of the config must do."""
STOP_SECONDS = 2.0


class KeyStore:
    """Reads the store's keys for one worker."""

    def __init__(self, service: Service, keyring: Keyring) -> None:
        self._service = service
        self._keyring = keyring
        self._loop = asyncio.get_running_loop()
        self._state: State | None = None
        self._stop = threading.Event()
        self._first = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)

    async def start(self) -> None:
        """Begin; returns once the keys are known, or after `START_SECONDS`."""
        self._thread.start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first.wait(), START_SECONDS)

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                keys, unreadable = self._read()
            except Exception as error:  # whatever a database driver raises
                self._tell(self._failed, error)
            else:
                self._tell(self._took, keys, unreadable)
            if self._stop.wait(POLL_SECONDS):
                break
        if self._state is not None:
            self._state.close()

    def _read(self) -> tuple[list[StoredKey], list[str]]:
        if self._state is None:
            # No file, no key; and no need to make one, or to load what reads it.
            settings = self._service.state
            if not settings.url and not (self._service.data_path / "state.db").exists():
                return [], []
            from everlearn.state import open_state

            self._state = open_state(self._service)
        return stored_keys(self._state)

    def _tell(self, what: object, *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *arguments)  # type: ignore[arg-type]

    def _took(self, keys: list[StoredKey], unreadable: list[str]) -> None:
        valid = [key for key in keys if key.revoked_at is None]
        error = "; ".join(unreadable) or None
        self._keyring.take(valid, ever=bool(keys or unreadable), error=error)
        self._first.set()

    def _failed(self, error: Exception) -> None:
        # Anybody may ask for the gateway's health; where its state stands is for the log.
        reason = f"state store: {type(error).__name__}"
        if self._keyring.error != reason:
            log.error("keys kept as they were: %s", error)
        self._keyring.error = reason
