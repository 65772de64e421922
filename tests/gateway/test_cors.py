"""Browsers: preflights, readable answers, beacons."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders import sha256
from tests.gateway.backend import Call, answer, backend, chat_body
from tests.gateway.door import Door, door

pytestmark = pytest.mark.anyio

SHOP = {"origin": "https://shop.example"}
ASKS = {**SHOP, "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,authorization"}  # fmt: skip
ORIGIN = "access-control-allow-origin"
PATHS = ["/v1/feedback", "/v1/chat/completions", "/v1/models", "/v1/files", "/health", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_browser_may_ask_for_every_route(tmp_path: Path, path: str) -> None:
    keys = [{"id": "a", "sha256": sha256("k")}]
    async with backend() as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        got = await gate.client.options(path, headers=ASKS)
        assert (got.status_code, got.headers[ORIGIN]) == (200, "*")
        assert "POST" in got.headers["access-control-allow-methods"]
        assert got.headers["access-control-allow-headers"] == "content-type,authorization"
        assert gate.events() == []


async def kinds(gate: Door) -> list[httpx.Response]:
    """An answer of every kind: whole, streamed, refused, passed on, of the other routes."""
    client = gate.client
    return [
        await gate.chat(SHOP),
        await gate.chat(SHOP, stream=True),
        await client.post("/v1/chat/completions", content=b"{", headers=SHOP),
        await client.post("/tokenize", json={"model": "m"}, headers=SHOP),
        await client.post("/v1/feedback", json={"value": True}, headers=SHOP),
        await client.get("/v1/models", headers=SHOP),
    ]


async def test_every_answer_can_be_read(tmp_path: Path) -> None:
    async def own_cors(call: Call, writer: Any) -> None:
        writer.write(answer(chat_body(), access_control_allow_origin="https://else.example"))

    async with backend(own_cors) as upstream, door(tmp_path, upstream.url) as gate:
        for got in await kinds(gate):
            assert got.headers.get_list(ORIGIN) == ["*"]
            exposed = got.headers["access-control-expose-headers"]
            assert "x-everlearn-id" in exposed
        silent = await gate.chat()
        assert not any(name.startswith("access-control") for name in silent.headers)


async def test_only_named_origins_may_read(tmp_path: Path) -> None:
    cors = {"allowed_origins": ["https://shop.example"]}
    async with backend() as upstream, door(tmp_path, upstream.url, cors=cors) as gate:
        for got in await kinds(gate):
            assert (got.headers[ORIGIN], got.headers["vary"]) == (SHOP["origin"], "origin")
        other = {**ASKS, "origin": "https://evil.example"}
        refused = await gate.client.options("/v1/feedback", headers=other)
        assert (refused.status_code, ORIGIN in refused.headers) == (403, False)
        # Without keys nobody else's page is answered at all.
        answered = await gate.chat({"origin": "https://evil.example"})
        assert (answered.status_code, ORIGIN in answered.headers) == (403, False)


async def test_no_origin_no_header(tmp_path: Path) -> None:
    cors: dict[str, Any] = {"allowed_origins": []}
    async with backend() as upstream, door(tmp_path, upstream.url, cors=cors) as gate:
        assert all(ORIGIN not in got.headers for got in await kinds(gate))
        assert (await gate.client.options("/v1/feedback", headers=ASKS)).status_code == 403


async def test_a_header_that_is_no_list_of_names_is_not_given_back(tmp_path: Path) -> None:
    headers = {**ASKS, "access-control-request-headers": "a: b; <script>"}
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.client.options("/v1/feedback", headers=headers)
        assert "access-control-allow-headers" not in got.headers


@pytest.mark.parametrize("kind", ["text/plain;charset=UTF-8", "text/plain", "application/json"])
async def test_a_beacon_is_feedback(tmp_path: Path, kind: str) -> None:
    cors = {"allowed_origins": [SHOP["origin"]]}
    async with backend() as upstream, door(tmp_path, upstream.url, cors=cors) as gate:
        content = json.dumps({"completion_id": "a", "value": "down"})
        got = await gate.client.post(
            "/v1/feedback", content=content, headers={**SHOP, "content-type": kind}
        )
        assert got.status_code == 202
        assert [one.value_bool for one in gate.feedback()] == [False]
        bad = await gate.client.post(
            "/v1/feedback", content="thumbs up", headers={"content-type": kind}
        )
        assert bad.status_code == 422
