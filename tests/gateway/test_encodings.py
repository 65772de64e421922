"""Bodies that are compressed, marked or cut by their makers: what other servers read is read."""

import asyncio
import gzip
import json
import zlib
from pathlib import Path

import pytest
import zstandard

from tests.collector.answers import row
from tests.gateway.backend import (
    STREAM_HEAD,
    Call,
    answer,
    backend,
    chat_body,
    chat_chunk,
    chunk,
    plain,
)
from tests.gateway.door import CHAT, Door, door

pytestmark = pytest.mark.anyio

BODY = json.dumps(CHAT).encode()
ZSTD, FAR = zstandard.ZstdCompressor(), zstandard.ZstdCompressor(level=22)
"""As clients compress, and so that whoever reads it must remember 128 MiB."""
RAW_DEFLATE = zlib.compressobj(wbits=-15)
RAW = RAW_DEFLATE.compress(BODY) + RAW_DEFLATE.flush()


async def post(gate: Door, body: bytes, encoding: str, path: str = "/v1/chat/completions") -> int:
    got = await gate.client.post(path, content=body, headers={"content-encoding": encoding})
    return got.status_code


async def test_a_compressed_request_is_the_request(tmp_path: Path) -> None:
    forms = {
        "gzip": gzip.compress(BODY), "x-gzip": gzip.compress(BODY), "deflate": zlib.compress(BODY),
        "Deflate": RAW, "identity": BODY, "deflate, gzip": gzip.compress(zlib.compress(BODY)),
        "zstd": ZSTD.compress(BODY), "ZSTD, gzip": gzip.compress(ZSTD.compress(BODY)),
    }  # fmt: skip
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for encoding, body in forms.items():
            assert await post(gate, body, encoding) == 200, encoding
        assert await post(gate, BODY, "identity") == 200
        for call in upstream.calls:
            assert call.body["messages"] == CHAT["messages"]
            assert "content-encoding" not in call.headers
        assert {event.request for event in gate.completions()} == {BODY}
        thumb = json.dumps({"completion_id": "c", "value": "up"}).encode()
        assert await post(gate, gzip.compress(thumb), "gzip", "/v1/feedback") == 202


async def test_frames_and_streams_of_unknown_size_are_one_body(tmp_path: Path) -> None:
    stream = zstandard.ZstdCompressor().compressobj()
    told_nothing = stream.compress(BODY[:9]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    told_nothing += stream.compress(BODY[9:]) + stream.flush()
    long = json.dumps({**CHAT, "user": "".join(map(str, range(30_000)))}).encode()
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for body in (told_nothing, ZSTD.compress(BODY[:9]) + ZSTD.compress(BODY[9:])):
            assert await post(gate, body, "zstd") == 200
        assert await post(gate, ZSTD.compress(long), "zstd") == 200
        assert [event.request for event in gate.completions()] == [BODY, BODY, long]


async def test_a_body_that_is_not_what_its_encoding_says_is_refused_and_captured(
    tmp_path: Path,
) -> None:
    zeros = bytes(17 * 2**20)
    refused = [
        (BODY, "gzip", 400), (BODY, "deflate", 400), (gzip.compress(BODY)[:-9], "gzip", 400),
        (BODY, "zstd", 400), (ZSTD.compress(BODY)[:-2], "zstd", 400), (b"", "zstd", 400),
        (ZSTD.compress(BODY) + b"more", "zstd", 400), (FAR.compress(zeros), "zstd", 400),
        (ZSTD.compress(zeros), "zstd", 413), (BODY, "br", 415), (gzip.compress(zeros), "gzip", 413),
        (BODY, "gzip, gzip, gzip", 415),
    ]  # fmt: skip
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for body, encoding, status in refused:
            assert await post(gate, body, encoding) == status, encoding
        assert upstream.calls == []
        assert [e.http_status for e in gate.completions()] == [status for *_, status in refused]
        assert (await gate.chat()).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_compressed_all_the_same_is_passed_on_and_read(
    tmp_path: Path, stream: bool
) -> None:
    pieces = (chat_chunk("SEL"), chat_chunk("ECT 1"), chat_chunk(None, "stop"))

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        assert call.headers["accept-encoding"] == "identity"
        if not stream:
            writer.write(answer(gzip.compress(chat_body()), content_encoding="gzip"))
            return
        body = gzip.compress(b"".join(pieces) + b"data: [DONE]\n\n")
        head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
        writer.write(head + chunk(body[:40]) + chunk(body[40:]) + b"0\r\n\r\n")

    async with backend(reply) as upstream, door(tmp_path, upstream.url) as gate:
        got = await gate.chat(stream=stream)
        assert ("SELECT 1" in got.text) is not stream
        assert "error" not in got.text
        [event] = gate.completions()
        found = row(stream=event.stream, response=event.response, status=event.status)
        assert (found["status"], found["response_text"]) == ("ok", "SELECT 1")


async def test_what_other_json_readers_take_is_taken(tmp_path: Path) -> None:
    half = rb'{"model": "text2sql", "user": "Ann \ud83d", "messages": [{"role": "user", "content": '
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for body in (b"\xef\xbb\xbf" + BODY, half + rb'"see you \ud83d"}]}'):
            got = await gate.client.post("/v1/chat/completions", content=body)
            assert got.status_code == 200
        assert [call.body["model"] for call in upstream.calls] == ["base", "base"]
        assert gate.completions()[1].unit == "Ann \ufffd"
        broken = await gate.client.post("/v1/chat/completions", content=half)
        assert broken.json()["error"]["code"] == "invalid_json"


async def test_a_number_is_a_user(tmp_path: Path) -> None:
    async with backend(plain) as upstream, door(tmp_path, upstream.url) as gate:
        for user in (7, 7, "7", 10**40, True, 1.5, {"id": 7}):
            assert (await gate.chat(user=user)).status_code == 200
        units = [event.unit or "" for event in gate.completions()]
        assert units[:4] == ["7", "7", "7", str(10**40)]
        assert all(unit.startswith("cmpl_") for unit in units[4:])
