"""A version that a replica has not got is somebody else's to answer: another replica, the
champion, the base model. And arms that live on upstreams of their own."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.routes import ArmRoute
from tests.gateway.backend import Call, answer, backend, plain
from tests.gateway.door import door, write_task

pytestmark = pytest.mark.anyio

ONE = ArmRoute(version="1", model="sql-1", adapter_digest="1" * 64)
TWO = ArmRoute(version="2", model="sql-2")
OLD = ArmRoute(version="3", model="sql-old")


def having(*models: str) -> Any:
    """A server that has these models, as vLLM answers for others."""

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        model = None if call.path.endswith("/models") else call.body["model"]
        if model is None or model in models:
            await plain(call, writer)
            return
        message = f"The model `{model}` does not exist."
        error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
        writer.write(answer(json.dumps({"error": error}).encode(), 404))

    return reply


@pytest.mark.parametrize("stream", [False, True])
async def test_a_replica_that_lacks_it_is_passed_over_every_time(
    tmp_path: Path, stream: bool
) -> None:
    async with backend(having("base")) as fresh, backend(having("base", "sql-1")) as other:
        settings = {"replicas": [other.url], "max_retries": 0, "health_check_seconds": 0}
        routes = {"champion": ONE}
        async with door(tmp_path, fresh.url, settings=settings, routes=routes) as gate:
            for _ in range(40):
                got = await gate.chat(stream=stream)
                assert (got.status_code, got.headers["x-everlearn-version"]) == (200, "1")
            events = gate.completions()
    assert {(one.version, one.fallback_from, one.status) for one in events} == {("1", None, "ok")}
    assert len(fresh.calls) > 10


@pytest.mark.parametrize(
    ("routes", "has", "answers", "asked_first"),
    [
        ({"champion": ONE}, ("base",), (None, "base", "base"), "champion"),
        (
            {"champion": ONE, "holdback": OLD, "holdback_share": 1.0}, ("base", "sql-1"),
            ("champion", "1", "sql-1"), "holdback",
        ),
        (
            {"champion": ONE, "holdback": OLD, "holdback_share": 1.0}, ("base",),
            (None, "base", "base"), "holdback",
        ),
        (
            {"champion": ONE, "challenger": TWO, "challenger_share": 1.0}, ("base",),
            (None, "base", "base"), "challenger",
        ),
    ],
)  # fmt: skip
async def test_the_next_in_line_answers_for_every_arm(
    tmp_path: Path, routes: dict[str, Any], has: tuple[str, ...], answers: Any, asked_first: str
) -> None:
    async with (
        backend(having(*has)) as upstream,
        door(tmp_path, upstream.url, routes=routes) as gate,
    ):
        got = await gate.chat()
        event = gate.completions()[-1]
    assert (got.status_code, got.json()["model"]) == (200, answers[2])
    assert (event.arm, event.version, event.model_served) == answers
    assert event.fallback_from == asked_first
    assert got.headers.get("x-everlearn-arm") == answers[0]
    assert got.headers["x-everlearn-version"] == answers[1]


async def test_a_champion_that_fails_is_not_hidden_behind_the_base_model(tmp_path: Path) -> None:
    async def sick(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b'{"error": {"message": "oom"}}', 500))

    async with (
        backend(sick) as upstream,
        door(tmp_path, upstream.url, routes={"champion": ONE}) as gate,
    ):
        assert (await gate.chat()).status_code == 500
        assert len(upstream.calls) == 1


async def test_a_404_of_the_base_model_is_the_clients(tmp_path: Path) -> None:
    async with backend(having()) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat()
        assert (got.status_code, got.json()["error"]["code"]) == (404, 404)


async def test_a_task_begins_with_a_champion_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAR_KEY", "sk-dear")
    async with backend(having("base", "sql-1")) as own, backend(having("gpt-x")) as dear:
        more = {"dear": {"base_url": dear.url, "api_key_env": "DEAR_KEY"}}
        write_task(tmp_path, champion={"upstream": "dear", "model": "gpt-x"})
        async with door(tmp_path, own.url, more_upstreams=more, task=False) as gate:
            got = await gate.chat()
            assert (got.json()["model"], got.headers["x-everlearn-arm"]) == ("gpt-x", "champion")
            [event] = gate.completions()
            assert (event.upstream, event.model_served, event.arm) == ("dear", "gpt-x", "champion")
            assert dear.calls[0].headers["authorization"] == "Bearer sk-dear"
            assert "return_token_ids" not in dear.calls[0].body
            assert own.calls == []


async def test_arms_may_live_on_different_upstreams(tmp_path: Path) -> None:
    dear_champion = ArmRoute(version="base", model="gpt-x", upstream="dear")
    routes = {"champion": dear_champion, "challenger": ONE, "challenger_share": 0.5, "release": "r"}
    async with backend(having("base", "sql-1")) as own, backend(having("gpt-x")) as dear:
        more = {"dear": {"base_url": dear.url}}
        async with door(tmp_path, own.url, more_upstreams=more, routes=routes) as gate:
            for user in range(30):
                assert (await gate.chat(user=f"u{user}")).status_code == 200
            own.reply = having("base")
            for user in range(30):
                assert (await gate.chat(user=f"u{user}")).json()["model"] == "gpt-x"
            events = gate.completions()
    seen = {(one.arm, one.upstream, one.model_served) for one in events[:30]}
    assert seen == {("champion", "dear", "gpt-x"), ("challenger", "local", "sql-1")}
    assert {one.fallback_from for one in events[30:] if one.status == "ok"} == {None, "challenger"}


async def test_the_shadow_goes_to_the_challengers_upstream(tmp_path: Path) -> None:
    routes = {
        "champion": ArmRoute(version="base", model="gpt-x", upstream="dear"),
        "challenger": ONE, "shadow_share": 1.0,
    }  # fmt: skip
    async with backend(having("sql-1")) as own, backend(having("gpt-x")) as dear:
        more = {"dear": {"base_url": dear.url}}
        async with door(tmp_path, own.url, more_upstreams=more, routes=routes) as gate:
            assert (await gate.chat()).json()["model"] == "gpt-x"
            async with asyncio.timeout(5):
                while len(gate.completions()) < 2:
                    await asyncio.sleep(0.02)
            shadow = next(one for one in gate.completions() if one.status == "shadow")
    assert (shadow.http_status, len(own.calls), len(dear.calls)) == (200, 1, 1)
