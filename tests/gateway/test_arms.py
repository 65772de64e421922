"""Arms: fallback to the champion, shadow traffic, holdback, reload of the routes."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.assignment import assign, fraction
from gateway.routes import ArmRoute, TaskRoute
from tests.gateway.backend import (
    STREAM_HEAD,
    Backend,
    Call,
    answer,
    backend,
    chat_chunk,
    chunk,
    plain,
)
from tests.gateway.door import BASE, Door, door, route

CHALLENGER = ArmRoute(version="7", model="text2sql-abc")
HOLDBACK = ArmRoute(version="3", model="text2sql-old")
ALL = {"challenger": CHALLENGER, "challenger_share": 1.0, "release": "r1"}


def test_shares_are_met_and_a_growing_share_keeps_its_units() -> None:
    units = [f"user-{number}" for number in range(4000)]

    def chosen(share: float, release: str = "r1") -> set[str]:
        table = TaskRoute(
            champion=BASE, challenger=CHALLENGER, challenger_share=share, release=release
        )
        return {unit for unit in units if assign(table, "t", unit).arm == "challenger"}

    assert 0.04 < len(chosen(0.05)) / len(units) < 0.06
    assert chosen(0.05) < chosen(0.25) < chosen(0.5)
    assert chosen(0.0) == set()
    assert chosen(1.0) == set(units)
    both = chosen(0.25) & chosen(0.25, "r2")
    assert 0.04 < len(both) / len(units) < 0.085


def test_the_holdback_is_the_same_whatever_is_released() -> None:
    def held(release: str, share: float) -> set[int]:
        table = TaskRoute(
            champion=BASE, challenger=CHALLENGER, holdback=HOLDBACK, holdback_share=0.1,
            challenger_share=share, release=release,
        )  # fmt: skip
        return {n for n in range(2000) if assign(table, "t", f"u{n}").arm == "holdback"}

    assert held("r1", 0.1) == held("r2", 1.0)
    assert 140 < len(held("r1", 0.1)) < 260


def test_probabilities_are_those_of_the_arm() -> None:
    table = TaskRoute(
        champion=BASE, challenger=CHALLENGER, challenger_share=0.2, holdback=HOLDBACK,
        holdback_share=0.05,
    )  # fmt: skip
    seen = {assign(table, "t", f"u{number}")[:2] for number in range(500)}
    assert seen == {("champion", 0.8), ("challenger", 0.2), ("holdback", 0.05)}


def test_a_hash_takes_any_unit() -> None:
    assert 0 <= fraction("a", "\ud800", "漢字", "") < 1


@pytest.mark.anyio
@pytest.mark.parametrize("how", [500, 404, 429, "cut", "garbage"])
async def test_a_failing_challenger_is_replaced_by_the_champion(
    tmp_path: Path, how: int | str
) -> None:
    async def fails(call: Call, writer: asyncio.StreamWriter) -> None:
        if call.body["model"] != "text2sql-abc":
            await plain(call, writer)
        elif isinstance(how, int):
            writer.write(answer(b'{"error": "no"}', how, retry_after="9"))
        else:
            writer.write(b"" if how == "cut" else b"\0\0\0")
            await writer.drain()
            writer.transport.abort()

    settings = {"max_retries": 0}
    async with (
        backend(fails) as upstream,
        door(tmp_path, upstream.url, routes=ALL, settings=settings) as gate,
    ):
        got = await gate.chat()
        assert (got.status_code, got.json()["model"]) == (200, "base")
        assert got.headers["x-everlearn-arm"] == "champion"
        failed, answered = gate.completions()
    assert (failed.arm, failed.version, failed.status) == ("challenger", "7", "upstream_error")
    assert failed.http_status == (how if isinstance(how, int) else 502)
    assert (answered.arm, answered.status) == ("champion", "ok")
    assert answered.fallback_from == "challenger"
    assert answered.completion_id == got.headers["x-everlearn-id"] != failed.completion_id


@pytest.mark.anyio
async def test_each_of_several_challengers_answers_its_part_and_the_champion_that_of_a_dropped_one(
    tmp_path: Path,
) -> None:
    second = ArmRoute(version="8", model="text2sql-def")
    several = {"challenger_share": 0.9, "release": "r1", "unit": "user", "stage": 0}
    routes = {**several, "challengers": (CHALLENGER, None, second)}
    async with backend(plain) as upstream, door(tmp_path, upstream.url, routes=routes) as gate:
        for number in range(40):
            got = await gate.chat(user=f"u{number}")
            assert got.status_code == 200
        answered = gate.completions()
    seen = {(each.version, each.model_served, each.probability) for each in answered}
    pi = 0.9 / (0.9 + 3 * 0.1)
    assert {(version, model) for version, model, _ in seen} == {
        ("base", "base"), ("7", "text2sql-abc"), ("8", "text2sql-def"),
    }  # fmt: skip
    for each in answered:
        assert each.draw is not None
        which = int(int(each.draw, 16) / 2**64 * 3)
        if each.arm == "challenger":
            assert each.version == ("7" if which == 0 else "8")
            assert each.probability == pytest.approx(pi)
        elif which == 1:
            assert each.probability in (1.0, pytest.approx(1 - pi))
    assert any(each.probability == 1.0 for each in answered)


@pytest.mark.anyio
async def test_a_challenger_that_fails_in_its_stream_is_not_replaced(tmp_path: Path) -> None:
    async def cut(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(chat_chunk("SEL")))
        await writer.drain()
        writer.transport.abort()

    async with backend(cut) as upstream, door(tmp_path, upstream.url, routes=ALL) as gate:
        got = await gate.chat(stream=True)
        assert got.headers["x-everlearn-arm"] == "challenger"
        assert "upstream_error" in got.text
        assert [event.arm for event in gate.completions()] == ["challenger"]


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_shadow_is_captured_and_never_waited_for(tmp_path: Path, stream: bool) -> None:
    release = asyncio.Event()

    async def slow_challenger(call: Call, writer: asyncio.StreamWriter) -> None:
        if call.body["model"] == "text2sql-abc":
            await release.wait()
        await plain(call, writer)

    routes = {"challenger": CHALLENGER, "shadow_share": 1.0}
    async with (
        backend(slow_challenger) as upstream,
        door(tmp_path, upstream.url, routes=routes) as gate,
    ):
        got = await gate.chat(stream=stream)
        assert got.headers["x-everlearn-arm"] == "champion"
        assert [event.status for event in gate.completions()] == ["ok"]
        release.set()
        await _until(lambda: len(gate.completions()) == 2)
        [user, shadow] = gate.completions()
    assert (shadow.status, shadow.arm, shadow.version) == ("shadow", "challenger", "7")
    assert (shadow.http_status, shadow.model_served) == (200, "text2sql-abc")
    assert shadow.response.endswith(b"[DONE]\n\n") == stream
    assert shadow.completion_id != user.completion_id


@pytest.mark.anyio
async def test_a_failing_shadow_is_captured_as_such(tmp_path: Path) -> None:
    async def no_challenger(call: Call, writer: asyncio.StreamWriter) -> None:
        if call.body["model"] == "text2sql-abc":
            writer.transport.abort()
        else:
            await plain(call, writer)

    routes = {"challenger": CHALLENGER, "shadow_share": 1.0}
    settings = {"max_retries": 0}
    async with (
        backend(no_challenger) as upstream,
        door(tmp_path, upstream.url, routes=routes, settings=settings) as gate,
    ):
        assert (await gate.chat()).status_code == 200
        await _until(lambda: len(gate.completions()) == 2)
        shadow = next(event for event in gate.completions() if event.status == "shadow")
    assert (shadow.http_status, shadow.response) == (502, b"")


@pytest.mark.anyio
async def test_a_challenger_that_fails_unseen_takes_nothing_from_those_who_wait(
    tmp_path: Path,
) -> None:
    """It shares the champion's upstream, which has somebody to fall back to."""

    async def broken_challenger(call: Call, writer: asyncio.StreamWriter) -> None:
        if call.body["model"] == "text2sql-abc":
            writer.write(answer(b"{}", 503))
        else:
            await plain(call, writer)

    async with (
        backend(broken_challenger) as upstream,
        backend() as other,
        door(
            tmp_path, upstream.url, routes={"challenger": CHALLENGER, "shadow_share": 1.0},
            settings={"fallback": "other"},
            more_upstreams={"other": {"base_url": other.url, "kind": "openai"}},
        ) as gate,
    ):  # fmt: skip
        for count in range(1, 9):
            assert (await gate.chat()).status_code == 200
            await _until(lambda: len(gate.completions()) == 2 * count)  # noqa: B023
        users = [event for event in gate.completions() if event.status == "ok"]
        asked = [call.body["model"] for call in upstream.calls]
    assert other.calls == []
    assert [event.fallback_from for event in users] == [None] * 8
    assert asked.count("text2sql-abc") == 8, "nobody waits: it is asked once"


@pytest.mark.anyio
async def test_new_routes_are_in_force_within_a_second_and_no_request_fails(
    tmp_path: Path,
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        stop = asyncio.Event()
        load = [asyncio.create_task(_load(gate, stop)) for _ in range(4)]
        await _until(lambda: len(upstream.calls) > 4)
        for generation in range(1, 5):
            await _swap(gate, upstream, str(generation))
        stop.set()
        statuses = [status for one in await asyncio.gather(*load) for status in one]
    assert set(statuses) == {200}
    assert len(statuses) > 20


@pytest.mark.anyio
async def test_a_bad_routes_file_keeps_the_table_and_is_said(tmp_path: Path) -> None:
    async with (
        backend() as upstream,
        door(tmp_path, upstream.url, routes={"champion": CHALLENGER, "generation": 3}) as gate,
    ):
        gate.service.routes_path.write_text('{"generation": 4, "tasks": {"text2sql": 5}}')
        health: dict[str, Any] = {"status": "ok"}
        async with asyncio.timeout(2):
            while health["status"] == "ok":
                health = (await gate.client.get("/health")).json()
        assert (await gate.chat()).headers["x-everlearn-version"] == "7"
        assert "routes.json" in health["routes"]["error"]
        assert health["routes"]["generation"] == 3


async def _swap(gate: Door, upstream: Backend, version: str) -> None:
    arm = ArmRoute(version=version, model=f"m{version}")
    route(gate.service, generation=int(version), champion=arm)
    await _until(lambda: bool(upstream.calls[-1].body["model"] == arm.model), 1.5)


async def _load(gate: Door, stop: asyncio.Event) -> list[int]:
    statuses = []
    while not stop.is_set():
        statuses.append((await gate.chat()).status_code)
    return statuses


async def _until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)
