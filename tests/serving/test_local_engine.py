"""The batch: its bound, who leaves it, and what a failing step takes with it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from torch import Tensor

from tests.serving.conftest import Server, wait_until

Start = Callable[..., Server]
LONG = 240


def body(tokens: int = LONG, **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }


async def send(client: httpx.AsyncClient, server: Server, **options: Any) -> httpx.Response:
    return await client.post(f"{server.address}/chat/completions", json=body(**options))


@pytest.mark.anyio
async def test_no_more_than_max_batch_answers_run_at_once(start: Start) -> None:
    server = start(max_batch=3)
    seen: list[int] = []
    decode = server.engine.model.decode

    def watched(tokens: Tensor, lengths: Tensor) -> Tensor:
        seen.append(len(tokens))
        return decode(tokens, lengths)

    server.engine.model.decode = watched  # type: ignore[method-assign]
    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(
            *(send(client, server, tokens=20 + number, n=2) for number in range(5))
        )
    assert max(seen) == 3
    for number, answer in enumerate(answers):
        assert answer.json()["usage"]["completion_tokens"] == 2 * (20 + number)


@pytest.mark.anyio
async def test_a_short_request_overtakes_a_long_one_that_came_first(start: Start) -> None:
    server = start(max_batch=2)
    slow_down(server, 0.01)
    async with httpx.AsyncClient(timeout=60) as client:
        long = asyncio.create_task(send(client, server))
        await asyncio.to_thread(wait_until, lambda: server.engine.load.running == 1)
        await send(client, server, tokens=3)
        assert not long.done()
        assert (await long).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_its_row(start: Start, stream: bool) -> None:
    server = start(max_batch=1)
    slow_down(server, 0.02)
    async with httpx.AsyncClient(timeout=60) as client:
        asked = client.post(f"{server.address}/chat/completions", json=body(stream=stream))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked, 0.4)
        gone = time.monotonic()
        await send(client, server, tokens=2)
    assert time.monotonic() - gone < 4.0, "the abandoned answer would have taken 5 s"
    await asyncio.to_thread(wait_until, lambda: server.engine.load.running == 0)


@pytest.mark.anyio
async def test_a_waiting_request_whose_client_went_away_is_never_run(start: Start) -> None:
    server = start(max_batch=1)
    slow_down(server, 0.005)
    async with httpx.AsyncClient(timeout=60) as client:
        first = asyncio.create_task(send(client, server))
        await asyncio.to_thread(wait_until, lambda: server.engine.load.running == 1)
        with pytest.raises(httpx.ReadTimeout):
            await client.post(
                f"{server.address}/chat/completions",
                json=body(),
                timeout=httpx.Timeout(10, read=0.2),
            )
        await asyncio.to_thread(wait_until, lambda: server.engine.load.waiting == 0)
        assert not first.done()
        await first


@pytest.mark.anyio
async def test_a_failing_step_fails_its_answers_and_the_server_goes_on(start: Start) -> None:
    server = start(max_batch=2)
    model = server.engine.model
    decode, steps = model.decode, 0

    def failing(tokens: Tensor, lengths: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise MemoryError("no memory for the step")
        return decode(tokens, lengths)

    model.decode = failing  # type: ignore[method-assign]
    async with httpx.AsyncClient(timeout=60) as client:
        lost = await send(client, server)
        streamed = await send(client, server, stream=True, tokens=3)
        after = await send(client, server, tokens=10)
    assert lost.status_code == 500
    assert lost.json()["error"]["type"] == "InternalServerError"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert after.json()["usage"]["completion_tokens"] == 10
    assert httpx.get(f"{server.root}/health").status_code == 200


@pytest.mark.anyio
async def test_a_stream_that_fails_ends_with_an_error_event(start: Start) -> None:
    server = start(max_batch=2)
    model = server.engine.model

    def failing(tokens: Tensor, lengths: Tensor) -> Tensor:
        raise MemoryError("no memory for the step")

    model.decode = failing  # type: ignore[method-assign]
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await send(client, server, stream=True)
    *_, error, done, _ = answer.text.split("\n\n")
    assert '"code":500' in error
    assert done == "data: [DONE]"


def slow_down(server: Server, seconds: float) -> None:
    """Make every decode step take longer, so that a test can act in the middle of an answer."""
    decode = server.engine.model.decode

    def slow(tokens: Tensor, lengths: Tensor) -> Tensor:
        time.sleep(seconds)
        return decode(tokens, lengths)

    server.engine.model.decode = slow  # type: ignore[method-assign]
