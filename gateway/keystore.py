"""Keys of the state store on their way into the keyring, off the path of requests.

A thread of its own asks the store once a second, because a database that hangs must not hold the
event loop. While the store is away the last good set stays in force; a gateway that starts
meanwhile takes it from a file of its own in the data folder, which it believes only if nobody else
can read or write it.
"""

import asyncio
import contextlib
import logging
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import ValidationError

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
LAST = "keys-last-known.json"
MAX_BYTES = 64 * 2**20
"""Of that file; some 100,000 keys."""


class KeyStore:
    """Reads the store's keys for one worker."""

    def __init__(self, service: Service, keyring: Keyring) -> None:
        self._service = service
        self._keyring = keyring
        self._loop = asyncio.get_running_loop()
        self._state: State | None = None
        self._last = service.data_path / LAST
        self._kept = b""
        """What stands in that file by our doing."""
        self._stop = threading.Event()
        self._first = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)

    async def start(self) -> None:
        """Begin; returns once the keys are known, or after `START_SECONDS`."""
        self._thread.start()
        try:
            await asyncio.wait_for(self._first.wait(), START_SECONDS)
        except TimeoutError:
            self._take_last("state store: no answer yet", read_last(self._last))

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                keys, unreadable = self._read()
            except Exception as error:  # whatever a database driver raises
                last = None if self._kept or self._first.is_set() else read_last(self._last)
                self._tell(self._failed, error, last)
            else:
                if not unreadable:
                    self._keep(keys)
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

    def _failed(self, error: Exception, last: list[StoredKey] | None) -> None:
        # Anybody may ask for the gateway's health; where its state stands is for the log.
        reason = f"state store: {type(error).__name__}"
        if last is not None and not self._first.is_set():
            log.error("keys cannot be read: %s", error)
            self._take_last(reason, last)
        elif not (self._keyring.error or "").startswith(reason):
            log.error("keys kept as they were: %s", error)
            self._keyring.error = reason

    def _take_last(self, reason: str, last: list[StoredKey] | None) -> None:
        """Start on the keys that were in force when a gateway last read the store."""
        if last is None:
            return
        valid = [key for key in last if key.revoked_at is None]
        error = f"{reason}; in force are the {len(valid)} keys last known"
        log.error("%s", error)
        self._keyring.take(valid, ever=bool(last), error=error, all_known=not last)
        self._first.set()

    def _keep(self, keys: list[StoredKey]) -> None:
        content = msgspec.json.encode([key.model_dump(mode="json") for key in keys])
        if content == self._kept:
            return
        fresh = self._last.with_name(f"{LAST}.{os.getpid()}")
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(fresh, self._last)
        except OSError as error:  # a full disk costs the copy, not the keys
            log.error("the last known keys could not be kept: %s", error)
        self._kept = content


def read_last(path: Path) -> list[StoredKey] | None:
    """The keys in the file, None if there is none that can be believed: whoever can write it could
    let himself in."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(handle)
        ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid()
        if not ours or info.st_mode & 0o077 or info.st_size > MAX_BYTES:
            log.error("%s is not believed: it must be a file of mode 0600 of this user", path)
            return None
        try:
            rows = msgspec.json.decode(file.read(), type=list[dict[str, Any]])
            return [StoredKey(**one) for one in rows]
        except (msgspec.MsgspecError, ValidationError, TypeError) as error:
            log.error("%s cannot be read: %s", path, type(error).__name__)
            return None
