"""Limits of a gateway with several workers: they hold for the gateway, exactly."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from everlearn.config import Key
from gateway.counters import IN_FLIGHT, SharedCounters
from gateway.http.wire import Refusal
from gateway.keys import Holder
from tests.builders import sha256
from tests.gateway.backend import Call, answer, backend, chat_body, plain
from tests.gateway.door import CHAT
from tests.gateway.processes import process

anyio = pytest.mark.anyio
HEADERS = {"authorization": "Bearer secret-1"}


def key(**limits: int) -> Key:
    return Key(id="a", sha256=sha256("secret-1"), **limits)


def admitted(holder: Holder, tries: int) -> int:
    """How many of so many requests may begin."""
    count = 0
    for _ in range(tries):
        try:
            holder.enter(None)
        except Refusal:
            continue
        count += 1
    return count


def test_workers_share_what_is_left(tmp_path: Path) -> None:
    now = 0.0
    first, second = (
        Holder(
            key(requests_per_minute=3, tokens_per_minute=60), lambda: now, counters
        )
        for counters in (SharedCounters(tmp_path / "limits", 2, worker) for worker in (0, 1))
    )  # fmt: skip
    assert [admitted(first, 2), admitted(second, 5), admitted(first, 5)] == [2, 1, 0]
    second.leave(120)
    now = 20.0
    with pytest.raises(Refusal, match="tokens per minute") as refused:
        first.enter(None)
    assert refused.value.retry_after_seconds == 41
    now = 61.0
    assert admitted(second, 5) == 3


def test_a_killed_workers_requests_are_forgotten(tmp_path: Path) -> None:
    counters = [SharedCounters(tmp_path / "limits", 2, worker) for worker in (0, 1)]
    first, second = (Holder(key(max_concurrent=4), lambda: 0.0, one) for one in counters)
    assert (admitted(first, 3), admitted(second, 3)) == (3, 1)
    counters[1].forget(0)
    assert admitted(second, 9) == 3
    second.leave(0)
    assert admitted(first, 9) == 1


def test_keys_that_fall_on_one_slot_are_kept_apart(tmp_path: Path) -> None:
    counters = SharedCounters(tmp_path / "limits", 2, slots=2)
    digests = [f"00000000{number}{'0' * 55}" for number in (1, 2, 3)]
    for number, digest in enumerate(digests, 1):
        counters.cells(digest)[0] = float(number)
    other = SharedCounters(tmp_path / "limits", 2, worker=1, slots=2)
    # The third found no slot, and is counted by its worker alone.
    assert [other.cells(digest)[0] for digest in digests] == [1.0, 2.0, 0.0]


def _spend(path: Path, worker: int, tries: int, told: Any) -> None:
    holder = Holder(
        key(requests_per_minute=5000), lambda: 0.0, SharedCounters(path, 4, worker)
    )  # fmt: skip
    told.put(admitted(holder, tries))


def test_no_request_too_many_when_processes_race(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    path = tmp_path / "limits"
    racing = [context.Process(target=_spend, args=(path, w, 3000, told)) for w in range(4)]
    for one in racing:
        one.start()
    counts = [told.get(timeout=60) for _ in racing]
    for one in racing:
        one.join(30)
    assert sum(counts) == 5000


def _die_holding(path: Path, holding: Any) -> None:
    counters = SharedCounters(path, 2, worker=1)
    counters.cells(sha256("secret-1"))[IN_FLIGHT + 1] = 2.0
    with counters.lock:
        holding.set()
        signal.pause()


def test_a_worker_killed_in_the_middle_of_a_count_blocks_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    holding = context.Event()
    child = context.Process(target=_die_holding, args=(tmp_path / "limits", holding))
    child.start()
    assert holding.wait(60)
    child.kill()
    child.join(30)
    counters = SharedCounters(tmp_path / "limits", 2)
    holder = Holder(key(max_concurrent=2), lambda: 0.0, counters)
    assert admitted(holder, 1) == 0
    counters.forget(1)
    assert admitted(holder, 3) == 2


def test_a_key_without_limits_is_not_counted(tmp_path: Path) -> None:
    holder = Holder(key(), lambda: 0.0, SharedCounters(tmp_path / "limits", 2))
    assert admitted(holder, 10) == 10
    holder.leave(5)
    assert not any((tmp_path / "limits").read_bytes())


async def _ask(base: httpx.URL) -> int:
    """Over a connection of its own, which the kernel gives to any of the workers."""
    async with httpx.AsyncClient(base_url=base, timeout=30) as fresh:
        return (await fresh.post("/v1/chat/completions", json=CHAT, headers=HEADERS)).status_code


async def _until_both(base: httpx.URL) -> dict[int, int]:
    """Process ids by worker, once both have answered."""
    seen: dict[int, int] = {}
    async with asyncio.timeout(60):
        while len(seen) < 2:
            async with httpx.AsyncClient(base_url=base) as fresh:
                health = (await fresh.get("/health")).json()
            seen[health["worker"]] = health["pid"]
    return seen


@anyio
async def test_the_rate_is_that_of_the_gateway(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    keys = [{"id": "a", "sha256": sha256("secret-1"), "requests_per_minute": 6}]
    async with (
        backend() as upstream,
        process(tmp_path, upstream, free_port(), workers=2, keys=keys) as (_, client, _),
    ):
        await _until_both(client.base_url)
        # In 9 seconds at most one request comes back.
        statuses = [await _ask(client.base_url) for _ in range(24)]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) in (6, 7)


@anyio
async def test_requests_at_a_time_are_those_of_the_gateway_and_end_with_their_worker(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    release = asyncio.Event()

    async def waits(call: Call, writer: asyncio.StreamWriter) -> None:
        if release.is_set():
            await plain(call, writer)
            return
        await release.wait()
        writer.write(answer(chat_body()))

    keys = [{"id": "a", "sha256": sha256("secret-1"), "max_concurrent": 4}]
    async with (
        backend(waits) as upstream,
        process(tmp_path, upstream, free_port(), workers=2, keys=keys) as (_, client, _),
    ):
        workers = await _until_both(client.base_url)
        asked = [asyncio.create_task(_ask(client.base_url)) for _ in range(12)]
        async with asyncio.timeout(20):
            while sum(one.done() for one in asked) < 8:
                await asyncio.sleep(0.02)
        assert [one.result() for one in asked if one.done()] == [429] * 8
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)
        release.set()
        await asyncio.gather(*asked, return_exceptions=True)
        async with asyncio.timeout(60):
            while await _answered(client.base_url) != 200:
                await asyncio.sleep(0.2)
        # All four places are free again, though nobody gave them back.
        await _until_both(client.base_url)
        release.clear()
        again = [asyncio.create_task(_ask(client.base_url)) for _ in range(4)]
        calls = len(upstream.calls)
        async with asyncio.timeout(20):
            while len(upstream.calls) < calls + 4:
                await asyncio.sleep(0.02)
        release.set()
        assert await asyncio.gather(*again) == [200] * 4


async def _answered(base: httpx.URL) -> int:
    try:
        return await _ask(base)
    except httpx.TransportError:
        return 0
