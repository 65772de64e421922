"""Every request becomes one event in the write-ahead log, before its answer's last byte leaves.

The events of one turn of the event loop are written together; then their answers go out.
Masking a large body takes a thread of its own, so that only its own answer waits for it.
A failure to capture is counted and logged, never shown to the user (`on_full: reject` excepted).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from everlearn.config import Capture
from everlearn.events import Completion, Event, Feedback, Status, encode
from everlearn.log.wal import WalStats, WalWriter
from everlearn.process_log import about, about_event
from everlearn.telemetry import OPERATIONS, Telemetry
from gateway.http.heads import Request
from gateway.masking import Masker

log = logging.getLogger(__name__)

Then = Callable[[], None]

FAILED = ("upstream_error", "timeout")
"""Told in the process log, whatever it is told else."""
REJECTED_BODY_BYTES = 16 * 2**10
"""Kept of a rejected request's body."""
LOOKED_AT_BYTES = 2 * REJECTED_BODY_BYTES + 1
"""Of such a body, for what must be masked: as much as tells `Masker.head` that there is more."""
MASKED_AT_ONCE_BYTES = 8 * 2**10
"""Of an event: ten patterns take 2 ms for so much of ordinary text, and 11 of one that matches
everywhere, for which everybody waits."""


class Recorder:
    """Masks, encodes and appends events."""

    def __init__(
        self,
        root: Path,
        worker: int,
        settings: Capture,
        telemetry: Telemetry | None = None,
        *,
        tell_all: bool = False,
    ) -> None:
        """Used from the running event loop only. The process log tells of requests that failed
        upstream, or of all."""
        self._loop = asyncio.get_running_loop()
        self._telemetry, self._tell_all = telemetry, tell_all
        self._wal = WalWriter(root, worker, settings)
        self._masker = Masker(settings.mask) if settings.mask else None
        self._rejects = settings.on_full == "reject"
        self._passed_max_bytes = settings.passed_max_bytes
        self._gathered: list[tuple[bytes, Then | None]] = []
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="masking")
        self._masking: dict[Future[Event], tuple[Then | None, bytes | None]] = {}
        self.errors = 0
        """Events lost to an unexpected error; those lost to a full WAL are in `stats`."""

    @property
    def accepting(self) -> bool:
        """False when the policy is to refuse requests that could not be captured."""
        return not self._rejects or self._wal.accepting

    def complete(
        self,
        draft: Completion,
        request: Request,
        status: Status,
        http_status: int,
        response: bytes,
        then: Then | None = None,
    ) -> None:
        """Append the event of a request; `then` is called when it is as safe as the config
        promises, or lost (and counted): the answer goes out either way."""
        body = request.body
        if status == "rejected":
            if not self.accepting:
                # The room that is left is for the answers in flight.
                if then is not None:
                    self._loop.call_soon(then)
                return
            body = body[: REJECTED_BODY_BYTES if self._masker is None else LOOKED_AT_BYTES]
        elif status == "passed":
            body = body if len(body) <= self._passed_max_bytes else b""
            response = response if len(response) <= self._passed_max_bytes else b""
        draft.status, draft.http_status = status, http_status
        draft.latency_ms = request.elapsed_ms()
        draft.request, draft.response = body, response
        self._append(draft, then, request.head.known.get(b"traceparent"))

    async def feedback(self, events: Sequence[Feedback]) -> bool:
        """Append feedback whole or not at all; whether it is as safe now as the config promises."""
        if not events:
            return True
        payloads = [self._encoded(masked) for masked in await self._all_masked(events)]
        last = self._wal.append_whole(payloads) if all(payloads) else 0
        if last:
            await self._wal.durable(last)
        return last > 0

    def stats(self) -> WalStats:
        """State of the log."""
        return self._wal.stats()

    def sweep(self) -> None:
        """To be called now and then: lets go what has waited too long."""
        self._wal.release_overdue()

    def close(self) -> None:
        """Write what is gathered or still being masked and close the log."""
        self._beside.shutdown()
        for work in list(self._masking):
            self._arrived(work)
        self._write()
        self._wal.close()
        if self._telemetry is not None:
            self._telemetry.close()

    def _append(self, event: Event, then: Then | None, traceparent: bytes | None) -> None:
        if self._masker is not None and _size(event) > MASKED_AT_ONCE_BYTES:
            work = self._beside.submit(self._mask, event)
            self._masking[work] = then, traceparent
            work.add_done_callback(self._announce)
            return
        self._gather(self._encoded(self._masked(event), traceparent), then)

    def _announce(self, work: "Future[Event]") -> None:
        """In the thread that masks."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: `close` takes what is left
            self._loop.call_soon_threadsafe(self._arrived, work)

    def _arrived(self, work: "Future[Event]") -> None:
        if work not in self._masking:
            return
        then, traceparent = self._masking.pop(work)
        error = work.exception()
        if error is not None:
            self._failed(error)
        self._gather(b"" if error else self._encoded(work.result(), traceparent), then)

    def _gather(self, payload: bytes, then: Then | None) -> None:
        if not self._gathered:
            self._loop.call_soon(self._write)
        self._gathered.append((payload, then))

    async def _all_masked(self, events: Sequence[Feedback]) -> list[Event | None]:
        if self._masker is not None and sum(map(_size, events)) > MASKED_AT_ONCE_BYTES:
            work = partial(list[Event | None], map(self._masked, events))
            return await self._loop.run_in_executor(self._beside, work)
        return [self._masked(event) for event in events]

    def _masked(self, event: Event) -> Event | None:
        """None if something went wrong: a user's answer never depends on capture."""
        try:
            return event if self._masker is None else self._mask(event)
        except Exception as error:
            self._failed(error, event)
            return None

    def _mask(self, event: Event) -> Event:
        """Of what was rejected the beginning. From the loop, or from the thread beside it."""
        assert self._masker is not None
        if type(event) is Completion and event.status == "rejected":
            event.request = self._masker.head(event.request, REJECTED_BODY_BYTES)
        return self._masker.event(event)

    def _encoded(self, event: Event | None, traceparent: bytes | None = None) -> bytes:
        """The masked event's bytes, none if something went wrong."""
        if event is None:
            return b""
        try:
            payload = encode(event)
            if self._telemetry is not None:
                self._telemetry.event(event, traceparent)
            if type(event) is Completion and (self._tell_all or event.status in FAILED):
                _tell(event)
        except Exception as error:
            self._failed(error, event)
            return b""
        return payload

    def _write(self) -> None:
        """Write what this turn of the event loop has gathered."""
        gathered, self._gathered = self._gathered, []
        waiting = [then for _, then in gathered if then is not None]
        last = 0
        try:
            last = self._wal.append_all([payload for payload, _ in gathered if payload])
            if last and waiting:
                self._wal.when_durable(last, partial(_call_all, waiting))
                return
        except Exception as error:
            self._failed(error)
        _call_all(waiting)

    def _failed(self, error: BaseException, event: Event | None = None) -> None:
        """`event`: the one that is lost; one that could not be masked is told by our name of it."""
        self.errors += 1
        name = event.completion_id if isinstance(event, Completion) else None
        log.error("capture failed", exc_info=error, extra=about(name))


def _tell(event: Completion) -> None:
    """A line of the process log, of what is masked by now."""
    known = event.endpoint in OPERATIONS
    extra = {
        **about_event(event),
        **{"task": event.task, "status": event.status, "http_status": event.http_status},
        "route": f"/v1/{event.endpoint}" if known else "other",
        "ms": round(event.latency_ms, 1),
    }
    log.log(logging.WARNING if event.status in FAILED else logging.INFO, "answered", extra=extra)


def _size(event: Event) -> int:
    """Bytes or characters of what may be long."""
    if isinstance(event, Completion):
        return len(event.request) + len(event.response)
    return len(event.value_text or "") + len(event.comment or "")


def _call_all(waiting: Sequence[Then]) -> None:
    for then in waiting:
        try:
            then()
        except Exception:  # one request's error is not the others'
            log.exception("after capture")
