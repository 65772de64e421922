"""What a worker does again and again."""

import asyncio

import pytest

from gateway.every import Every


@pytest.mark.anyio
async def test_an_error_does_not_end_the_calls_and_a_stop_does() -> None:
    calls = 0
    said: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: said.append(str(context["exception"])))

    def fails() -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("boom")

    every = Every(0.01, fails)
    async with asyncio.timeout(5):
        while calls < 3:
            await asyncio.sleep(0.01)
    every.stop()
    assert said == ["boom"] * calls
    stopped_at = calls
    await asyncio.sleep(0.1)
    assert calls == stopped_at
