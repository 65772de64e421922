"""`GET /live`: server-sent events that say when something changed, so that an open page asks again.

One look at the lake's newest snapshot serves everybody who listens.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from console.source import LOOK_SECONDS, Read, Source

router = APIRouter()

STREAM_SECONDS = 600.0
"""Then the browser comes again, and is asked again who it is."""


@router.get("/live")
async def live(request: Request, source: Read) -> StreamingResponse:
    """`changed`, with the snapshot, whenever there is a newer one."""
    return StreamingResponse(_changes(request, source), media_type="text/event-stream")


async def _changes(request: Request, source: Source) -> AsyncIterator[str]:
    seen = await run_in_threadpool(source.pulse)
    yield f"retry: {int(LOOK_SECONDS * 1000)}\n: snapshot {seen}\n\n"
    until = time.monotonic() + STREAM_SECONDS
    while time.monotonic() < until and not request.app.state.ending.is_set():
        with_news = await run_in_threadpool(source.pulse)
        if with_news not in (seen, -1):
            seen = with_news
            yield f"event: changed\ndata: {seen}\n\n"
        else:
            yield ":\n\n"  # a browser that has left is noticed by this
        await asyncio.sleep(LOOK_SECONDS)
