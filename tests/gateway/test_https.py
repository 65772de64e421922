"""Upstreams behind TLS: a real server, a real authority."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from everlearn.config import Service, Upstream
from everlearn.errors import ConfigError
from everlearn.task import load_tasks
from everlearn.tls import tls_context
from gateway.main import run
from serving.fleet import Fleet
from tests.builders import make_service
from tests.gateway.backend import Backend, Call, answer, backend
from tests.gateway.certificates import Authority
from tests.gateway.door import door

pytestmark = pytest.mark.anyio


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def refused(folder: Path, upstream: Backend, **settings: Any) -> str:
    """What a client is told when the gateway does not trust its upstream."""
    settings = {"max_retries": 0, **settings}
    async with door(folder, upstream.url, settings=settings) as gate:
        got = await gate.chat()
        assert got.status_code == 502
        [event] = gate.completions()
        assert (event.status, event.http_status) == ("upstream_error", 502)
        assert upstream.calls == []
        message: str = got.json()["error"]["message"]
        assert event.error is not None
        assert event.error in message
        return message


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The address of a server that says it speaks TLS."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


async def test_answers_and_streams_come_through(tmp_path: Path, authority: Authority) -> None:
    settings = {"tls_ca_file": authority.file.name}  # relative to the config file
    async with (
        backend(tls=authority.server("127.0.0.1")) as upstream,
        door(tmp_path, upstream.url, settings=settings) as gate,
    ):
        got = await gate.chat()
        assert got.json()["choices"][0]["message"]["content"] == "SELECT 1"
        streamed = await gate.chat(stream=True)
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert [event.status for event in gate.completions()] == ["ok", "ok"]
        assert upstream.connections == 1


async def test_a_large_answer_comes_whole(tmp_path: Path, authority: Authority) -> None:
    large = b'{"data": "' + b"x" * 3_000_000 + b'"}'

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(large))

    settings = {"tls_ca_file": str(authority.file)}
    async with (
        backend(reply, tls=authority.server("127.0.0.1")) as upstream,
        door(tmp_path, upstream.url, settings=settings) as gate,
    ):
        messages = [{"role": "user", "content": "y" * 1_000_000}]
        assert (await gate.chat(messages=messages)).content == large


async def test_the_systems_authorities_are_replaced_by_the_environment(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with (
        backend(tls=authority.server("127.0.0.1")) as upstream,
        door(tmp_path, upstream.url) as gate,
    ):
        assert (await gate.chat()).status_code == 200


async def test_an_authority_nobody_trusts_is_named_as_the_reason(
    tmp_path: Path, authority: Authority
) -> None:
    async with backend(tls=authority.server("127.0.0.1")) as upstream:
        message = await refused(tmp_path, upstream)
        assert "its certificate is not trusted: unable to get local issuer certificate" in message


async def test_the_authority_of_somebody_else_is_not_enough(
    tmp_path: Path, authority: Authority
) -> None:
    other = Authority(tmp_path, "another CA")
    async with backend(tls=authority.server("127.0.0.1")) as upstream:
        message = await refused(tmp_path, upstream, tls_ca_file=str(other.file))
        assert "its certificate is not trusted" in message


async def test_a_certificate_for_another_host_is_refused(
    tmp_path: Path, authority: Authority
) -> None:
    settings = {"tls_ca_file": str(authority.file)}
    async with backend(tls=authority.server("models.internal")) as upstream:
        message = await refused(tmp_path, upstream, **settings)
        assert "certificate is not valid for '127.0.0.1'" in message


async def test_an_expired_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    settings = {"tls_ca_file": str(authority.file)}
    async with backend(tls=authority.server("127.0.0.1", days=-1)) as upstream:
        message = await refused(tmp_path, upstream, **settings)
        assert "its certificate is not trusted: certificate has expired" in message


async def test_a_server_that_speaks_no_tls_is_said_to(tmp_path: Path) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with listening(plain) as url, door(tmp_path, url, settings={"max_retries": 0}) as gate:
        message = (await gate.chat()).json()["error"]["message"]
        assert "no TLS: WRONG_VERSION_NUMBER" in message


async def test_a_server_that_never_finishes_its_handshake_is_given_up(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    settings = {"max_retries": 0, "connect_timeout_seconds": 0.3}
    async with listening(silent) as url, door(tmp_path, url, settings=settings) as gate:
        began = time.monotonic()
        got = await gate.chat()
        assert "no connection within 0.3 s" in got.json()["error"]["message"]
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), ("not PEM", "no certificate in it")]
)
def test_a_file_without_authorities_is_said_at_the_start(
    tmp_path: Path, content: str | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    local = {"base_url": "https://127.0.0.1:1/v1", "tls_ca_file": "ca.pem"}
    service: Service = make_service(tmp_path, upstreams={"local": local})
    with pytest.raises(ConfigError, match=f"tls_ca_file {tmp_path}/ca.pem: {why}"):
        run(service, load_tasks(service))


async def test_the_fleet_trusts_whom_the_gateway_trusts(
    tmp_path: Path, authority: Authority
) -> None:
    async with backend(tls=authority.server("127.0.0.1")) as upstream:
        settings = Upstream(base_url=upstream.url, tls_ca_file=authority.file)
        with Fleet(settings) as fleet:
            loaded = await asyncio.to_thread(fleet.loaded)
        assert list(loaded) == [upstream.url]
        context = tls_context(settings)
        assert context.verify_mode == ssl.CERT_REQUIRED
        async with httpx.AsyncClient(verify=context) as client:
            assert (await client.get(f"{upstream.url}/models")).status_code == 200
