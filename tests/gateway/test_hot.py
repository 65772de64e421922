"""The hot routes against a real upstream: answers, headers, capture."""

import json
from pathlib import Path

import pytest

from gateway.routes import ArmRoute
from tests.gateway.backend import backend
from tests.gateway.door import CHAT, door

pytestmark = pytest.mark.anyio


async def test_a_task_is_answered_by_its_base_model_and_captured(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        answer = await gate.chat({"x-request-id": "req-1"}, user="ann", store=False)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "SELECT 1"
        asked = {"model": "base", "user": "ann", "store": False, "return_token_ids": True}
        assert upstream.calls[0].body == {**CHAT, **asked}
        [event] = gate.completions()
    assert answer.headers["x-everlearn-id"] == event.completion_id
    assert answer.headers["x-request-id"] == event.request_id == "req-1"
    assert answer.headers["x-everlearn-task"] == event.task == "text2sql"
    assert answer.headers["x-everlearn-arm"] == event.arm == "champion"
    assert answer.headers["x-everlearn-version"] == event.version == "base"
    assert (event.unit, event.trainable, event.probability) == ("ann", False, 1.0)
    assert (event.model_requested, event.model_served) == ("text2sql", "base")
    assert (event.status, event.http_status, event.upstream) == ("ok", 200, "local")
    assert json.loads(event.request)["model"] == "text2sql"
    assert event.response == answer.content


async def test_a_stream_is_handed_on_and_captured_as_sent(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        answer = await gate.chat(stream=True)
        [event] = gate.completions()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.text.count("data: ") == 4
    assert event.response == answer.content
    assert event.stream
    assert event.first_token_ms is not None
    assert event.first_token_ms <= event.latency_ms


async def test_the_event_is_on_disk_before_the_client_can_know_the_end(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        request = gate.client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True})
        async with request as answer:
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    assert len(gate.completions()) == 1
                    return
    raise AssertionError("no [DONE]")


@pytest.mark.parametrize("durability", ["write", "fsync", "off"])
@pytest.mark.parametrize("stream", [False, True])
async def test_every_durability_answers(tmp_path: Path, durability: str, stream: bool) -> None:
    capture = {"durability": durability}
    async with backend() as upstream, door(tmp_path, upstream.url, capture=capture) as gate:
        for _ in range(3):
            answer = await gate.chat(stream=stream)
            assert answer.status_code == 200
            assert answer.content
        assert [event.status for event in gate.completions()] == ["ok"] * 3


async def test_a_model_that_is_no_task_is_passed_through(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        answer = await gate.chat(model="llama")
        [event] = gate.completions()
    assert answer.json()["model"] == "llama"
    assert "x-everlearn-task" not in answer.headers
    assert "x-everlearn-id" in answer.headers
    assert (event.task, event.arm, event.model_served) == (None, None, "llama")


async def test_the_unit_keeps_its_arm_and_the_arms_get_their_share(tmp_path: Path) -> None:
    challenger = ArmRoute(version="7", model="text2sql-abc", adapter_digest="d" * 64)
    routes = {"challenger": challenger, "challenger_share": 0.5, "release": "r1", "stage": 2}
    async with backend() as upstream, door(tmp_path, upstream.url, routes=routes) as gate:
        arms: dict[int, str] = {}
        for _ in range(2):
            for user in range(40):
                answer = await gate.chat(user=f"user-{user}")
                arm = answer.headers["x-everlearn-arm"]
                assert arms.setdefault(user, arm) == arm
                served = answer.json()["model"]
                assert served == ("text2sql-abc" if arm == "challenger" else "base")
        events = gate.completions()
    assert 10 <= sum(arm == "challenger" for arm in arms.values()) <= 30
    chosen = [event for event in events if event.arm == "challenger"]
    assert {event.version for event in chosen} == {"7"}
    assert {event.adapter_digest for event in chosen} == {"d" * 64}
    assert {(event.probability, event.release, event.stage) for event in events} == {(0.5, "r1", 2)}
