"""A large body is masked beside the loop: only its own answer waits, and it is never lost."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlearn.config import Capture
from everlearn.events import Completion, Event, Feedback, decode
from everlearn.log.segments import Entry, entries, segments
from gateway.capture import MASKED_AT_ONCE_BYTES, REJECTED_BODY_BYTES, Recorder
from gateway.http.heads import Request
from gateway.masking import Masker
from tests.builders import make_completion, make_feedback
from tests.gateway.backend import backend
from tests.gateway.door import door

pytestmark = pytest.mark.anyio
SECRET = "123-45-6789"
NUMBER = r"\b\d{3}-\d{2}-\d{4}\b"
LARGE = f"{SECRET} ".encode() + b"word " * (MASKED_AT_ONCE_BYTES // 5)


class Held(Masker):
    """Masks a large event when it is let."""

    def __init__(self, after: Callable[[Event], Event] | None = None) -> None:
        super().__init__([NUMBER])
        self.let, self.begun, self.threads = threading.Event(), threading.Event(), set[int]()
        self._after = after or super().event

    def head(self, body: bytes, limit_bytes: int) -> bytes:
        self.threads.add(threading.get_ident())
        return super().head(body, limit_bytes)

    def event(self, event: Event) -> Event:
        if isinstance(event, Completion) and len(event.request) < len(LARGE):
            return super().event(event)
        self.threads.add(threading.get_ident())
        self.begun.set()
        assert self.let.wait(60)
        return self._after(event)


def recorder_with(folder: Path, masker: Held) -> Recorder:
    recorder = Recorder(folder, 0, Capture(mask=(NUMBER,)))
    recorder._masker = masker
    return recorder


def asked(body: bytes) -> Any:
    """The request as `complete` reads it."""

    class Head:
        known: dict[bytes, bytes] = {}
        keep_alive = True

    request = Request(Head())  # type: ignore[arg-type]
    request.body = body
    return request


def written(folder: Path) -> list[Event]:
    return [
        decode(entry.payload)
        for log in sorted(folder.iterdir())
        if log.is_dir()
        for first, path in segments(log)
        for entry in entries(path.read_bytes(), 0, first - 1)
        if isinstance(entry, Entry)
    ]


def requests(folder: Path) -> list[bytes]:
    return [event.request for event in written(folder) if isinstance(event, Completion)]


async def test_others_are_answered_while_a_large_body_is_masked(tmp_path: Path) -> None:
    masker = Held()
    recorder = recorder_with(tmp_path, masker)
    large, small = asyncio.Event(), asyncio.Event()
    recorder.complete(make_completion(), asked(LARGE), "ok", 200, b"{}", large.set)
    recorder.complete(make_completion(), asked(b"hello"), "ok", 200, b"{}", small.set)
    await small.wait()
    assert not large.is_set()
    assert requests(tmp_path) == [b"hello"]
    masker.let.set()
    await large.wait()
    assert SECRET.encode() not in requests(tmp_path)[1]
    assert requests(tmp_path)[1].startswith(b"[masked] word")
    assert threading.get_ident() not in masker.threads
    recorder.close()


async def test_a_large_body_that_is_refused_holds_up_nobody_and_its_beginning_is_kept(
    tmp_path: Path,
) -> None:
    masker = Held()
    recorder = recorder_with(tmp_path, masker)
    hostile = f"{SECRET} ".encode() * (8 * 2**20 // (len(SECRET) + 1))
    refused, small = asyncio.Event(), asyncio.Event()
    recorder.complete(make_completion(), asked(hostile), "rejected", 400, b"{}", refused.set)
    recorder.complete(make_completion(), asked(b"hello"), "ok", 200, b"{}", small.set)
    await small.wait()
    assert not refused.is_set()
    masker.let.set()
    await refused.wait()
    assert threading.get_ident() not in masker.threads
    [kept] = [body for body in requests(tmp_path) if body != b"hello"]
    assert kept == (b"[masked] " * len(kept))[: len(kept)]
    assert 0 < len(kept) <= REJECTED_BODY_BYTES
    recorder.close()


async def test_what_is_being_masked_when_the_gateway_closes_is_written(tmp_path: Path) -> None:
    masker, answered = Held(), list[int]()
    recorder = recorder_with(tmp_path, masker)
    for number in range(3):
        done = lambda number=number: answered.append(number)  # noqa: E731
        recorder.complete(make_completion(), asked(LARGE), "ok", 200, b"{}", done)
    assert masker.begun.wait(60)
    masker.let.set()
    recorder.close()
    assert sorted(answered) == [0, 1, 2]
    assert [body[:8] for body in requests(tmp_path)] == [b"[masked]"] * 3
    await asyncio.sleep(0)  # What the thread announced meanwhile is taken once.
    assert len(answered) == 3


async def test_an_error_while_masking_costs_the_event_and_not_the_answer(tmp_path: Path) -> None:
    def fails(event: Event) -> Event:
        raise RuntimeError("broken")

    masker = Held(fails)
    masker.let.set()
    recorder = recorder_with(tmp_path, masker)
    answered = asyncio.Event()
    recorder.complete(make_completion(), asked(LARGE), "ok", 200, b"{}", answered.set)
    await answered.wait()
    assert (recorder.errors, written(tmp_path)) == (1, [])
    assert not await recorder.feedback([make_feedback(comment="x" * len(LARGE))])
    recorder.close()


async def test_long_feedback_is_masked_beside_the_loop_too(tmp_path: Path) -> None:
    masker = Held()
    recorder = recorder_with(tmp_path, masker)
    kept = asyncio.create_task(recorder.feedback([make_feedback(comment=LARGE.decode())]))
    small = asyncio.Event()
    recorder.complete(make_completion(), asked(b"hello"), "ok", 200, b"{}", small.set)
    await small.wait()
    assert not kept.done()
    masker.let.set()
    assert await kept
    [comment] = [event.comment for event in written(tmp_path) if isinstance(event, Feedback)]
    assert comment is not None
    assert comment.startswith("[masked] word")
    assert threading.get_ident() not in masker.threads
    recorder.close()


async def test_a_large_body_is_masked_at_the_door(tmp_path: Path) -> None:
    async with backend() as upstream, door(
        tmp_path, upstream.url, capture={"mask": [NUMBER]}
    ) as gate:  # fmt: skip
        answer = await gate.chat(messages=[{"role": "user", "content": LARGE.decode()}])
        assert answer.status_code == 200
        [event] = gate.completions()
    assert SECRET.encode() in answer.request.content
    assert SECRET.encode() not in event.request
    assert len(event.request) > MASKED_AT_ONCE_BYTES / 2
