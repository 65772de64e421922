"""Keys and limits, and masking."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.keys import Bucket
from tests.builders import sha256
from tests.gateway.backend import Call, answer, backend, chat_body
from tests.gateway.door import door, write_task

KEY = {"authorization": "Bearer secret-1"}


def key(**fields: Any) -> list[dict[str, Any]]:
    return [{"id": "team-a", "sha256": sha256("secret-1"), **fields}]


def test_a_bucket_fills_again_over_a_minute() -> None:
    bucket = Bucket(60, [0.0, 0.0])
    for _ in range(60):
        assert bucket.wait_seconds(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait_seconds(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait_seconds(1, 0.5) == pytest.approx(0.5)
    assert bucket.wait_seconds(1, 1.0) == 0
    assert bucket.wait_seconds(61, 1000.0) > 0


def test_an_overdrawn_bucket_is_paid_back_first() -> None:
    bucket = Bucket(60, [0.0, 0.0])
    bucket.take(180, 0.0)
    assert bucket.wait_seconds(1, 0.0) == pytest.approx(121.0)


def test_what_is_spent_late_is_not_paid_back_by_the_time_before() -> None:
    bucket = Bucket(60, [0.0, 0.0])
    bucket.take(180, 60.0)
    assert bucket.wait_seconds(1, 60.0) == pytest.approx(121.0)


def test_a_clock_that_is_behind_pays_nothing_back() -> None:
    bucket = Bucket(60, [0.0, 0.0])
    bucket.take(60, 10.0)
    assert bucket.wait_seconds(1, 9.5) == pytest.approx(1.0)
    assert bucket.wait_seconds(1, 11.0) == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic secret-1"}, 401),
        (KEY, 200),
        ({"api-key": "secret-1"}, 200),
    ],
)
async def test_a_key_is_asked_for(
    tmp_path: Path, headers: dict[str, str], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with backend() as upstream, door(tmp_path, upstream.url, keys=key()) as gate:
        got = await gate.chat(headers)
        assert got.status_code == status
        for path in ("/v1/models", "/v1/models/text2sql"):
            assert (await gate.client.get(path, headers=headers)).status_code == status
        told = await gate.client.post(
            "/v1/feedback", json={"completion_id": "a", "value": True}, headers=headers
        )
        assert told.status_code == (202 if status == 200 else 401)
        for path in ("/health", "/ready", "/metrics"):
            assert (await gate.client.get(path)).status_code == 200
        [event] = gate.completions()
        assert event.key_id == ("team-a" if status == 200 else None)
        assert event.status == ("ok" if status == 200 else "rejected")
        assert b"secret-1" not in repr(gate.events()).encode()
        assert "secret-1" not in caplog.text + got.text
        if status == 200:
            assert "authorization" not in upstream.calls[0].headers
            assert "api-key" not in upstream.calls[0].headers


@pytest.mark.anyio
async def test_a_key_is_held_to_its_tasks(tmp_path: Path) -> None:
    write_task(tmp_path, "other")
    keys = key(tasks=["other"])
    async with backend() as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        assert (await gate.chat(KEY, model="other")).status_code == 200
        for model in ("text2sql", "llama"):
            got = await gate.chat(KEY, model=model)
            assert (got.status_code, got.json()["error"]["code"]) == (403, "model_not_allowed")
        assert [event.http_status for event in gate.completions()] == [200, 403, 403]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("limit", "allowed"), [({"requests_per_minute": 3}, 3), ({"tokens_per_minute": 20}, 3)]
)
async def test_a_key_is_held_to_its_rate(
    tmp_path: Path, limit: dict[str, int], allowed: int
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url, keys=key(**limit)) as gate:
        answers = [await gate.chat(KEY) for _ in range(allowed + 1)]
        assert [got.status_code for got in answers] == [200] * allowed + [429]
        refused = answers[-1]
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.anyio
async def test_a_key_is_held_to_its_requests_at_a_time(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def waits(call: Call, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(answer(chat_body()))

    keys = key(max_concurrent=2)
    async with backend(waits) as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        running = [asyncio.create_task(gate.chat(KEY)) for _ in range(2)]
        while len(upstream.calls) < 2:
            await asyncio.sleep(0.01)
        assert (await gate.chat(KEY)).status_code == 429
        release.set()
        assert [got.status_code for got in await asyncio.gather(*running)] == [200, 200]
        assert (await gate.chat(KEY)).status_code == 200


@pytest.mark.anyio
async def test_what_is_masked_never_reaches_the_log(tmp_path: Path) -> None:
    capture = {"mask": [r"\b\d{3}-\d{2}-\d{4}\b", "SELECT 1"]}
    async with backend() as upstream, door(tmp_path, upstream.url, capture=capture) as gate:
        messages = [{"role": "user", "content": "my number is 123-45-6789"}]
        got = await gate.chat(messages=messages)
        assert upstream.calls[0].body["messages"] == messages
        assert "SELECT 1" in got.text
        sent = {"completion_id": "a", "value": "123-45-6789 is mine", "kind": "correction"}
        assert (await gate.client.post("/v1/feedback", json=sent)).status_code == 202
        first = gate.completions()[0]
        assert b"[masked]" in first.request
        assert b"[masked]" in first.response
        assert gate.feedback()[0].value_text == "[masked] is mine"
