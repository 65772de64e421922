"""`endpoint`: the product's own API gives the score; what only the product knows decides.

- Asked is the address that the task file names and no other: no redirect is followed, nothing of
  an answer or an item is part of the address.
- The answer is `{"score": 0.7, "reason": "..."}` or a bare number, 0 to 1; a null score is unscored
  with that reason. A page of HTML, another status, too long an answer: unscored with what came.
- Values of headers come from the environment and are in no message.
"""

import asyncio
import json
import math
import os
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from evaluators.graders.base import Base
from evaluators.types import Item, Sample, Score
from everlearn.errors import ConfigError, GraderError
from everlearn.graders import Endpoint

ATTEMPTS = 3
BACKOFF_SECONDS = 0.2
MAX_ANSWER_BYTES = 1 << 18
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_FEEDBACK = frozenset({"feedback", "thumbs", "correction"})


class EndpointGrader(Base[Endpoint]):
    """Belongs to the event loop it is first asked in."""

    slow = True

    def __init__(self, spec: Endpoint) -> None:
        super().__init__(spec)
        _check_url(spec)
        self.needs_reference = "reference" in spec.send
        self.needs_feedback = bool(_FEEDBACK & set(spec.send))
        self._client: httpx.AsyncClient | None = None
        self._turn = 0.0
        """When the next request may leave."""

    async def __call__(self, sample: Sample, item: Item) -> Score:
        body = {
            "item": {name: item.get(name) for name in self.spec.send},
            "sample": {
                "output_text": sample.output_text,
                "output_tools": sample.output_tools,
                "output_json": sample.output_json,
            },
        }
        content = json.dumps(body, default=str).encode()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.spec.timeout_seconds):
                value, reason = _verdict(await self._answer(content))
        except TimeoutError as error:
            seconds = self.spec.timeout_seconds
            raise GraderError(f"the endpoint gave no score in {seconds:g} s") from error
        cost = {"seconds": round(time.monotonic() - started, 4)}
        if value is None:
            return Score(reason=reason or "the endpoint gives this answer no score", cost=cost)
        return self.passed(value, reason=reason, cost=cost)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _answer(self, content: bytes) -> Any:
        problem, wait = "", 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(max(wait, BACKOFF_SECONDS * 2 ** (attempt - 1)))
            await self._wait_for_turn()
            try:
                async with self._connected().stream(
                    "POST", self.spec.url, content=content
                ) as reply:
                    text = await _text(reply)
            except httpx.HTTPError as error:
                problem = f"the endpoint could not be reached: {type(error).__name__}"
                continue
            if reply.status_code not in _RETRIED:
                return _json(reply, text)
            problem, wait = f"the endpoint answered {reply.status_code}", _asked_to_wait(reply)
        raise GraderError(f"{problem}, {ATTEMPTS} times")

    async def _wait_for_turn(self) -> None:
        """At most `requests_per_second`, evenly spaced."""
        if self.spec.requests_per_second is None:
            return
        now = time.monotonic()
        turn = max(now, self._turn)
        self._turn = turn + 1 / self.spec.requests_per_second
        await asyncio.sleep(turn - now)

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            headers = {"content-type": "application/json", "accept": "application/json"}
            for header, variable in self.spec.headers_env.items():
                value = os.environ.get(variable)
                if not value:
                    raise GraderError(f"${variable} is not set: header {header} of the endpoint")
                headers[header] = value
            self._client = httpx.AsyncClient(
                headers=headers, timeout=self.spec.timeout_seconds, follow_redirects=False
            )
        return self._client


def _check_url(spec: Endpoint) -> None:
    try:
        parts = urlsplit(spec.url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None or "{{" in spec.url:
        raise ConfigError(
            f"grader {spec.name}: url = {spec.url!r}: one fixed http:// or https:// address, "
            "without user and password (those come by headers_env)"
        )


async def _text(reply: httpx.Response) -> bytes:
    text = b""
    async for part in reply.aiter_bytes():
        text += part
        if len(text) > MAX_ANSWER_BYTES:
            raise GraderError(f"the endpoint answered more than {MAX_ANSWER_BYTES} bytes")
    return text


def _json(reply: httpx.Response, text: bytes) -> Any:
    status = reply.status_code
    if reply.is_redirect:
        raise GraderError(
            f"the endpoint answered {status} to another address, which is not followed: give the "
            "url that answers"
        )
    shown = repr(text[:80].decode(errors="replace"))
    if status != 200:
        raise GraderError(f"the endpoint answered {status}: {shown}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = reply.headers.get("content-type", "no type").partition(";")[0]
        raise GraderError(f"the endpoint answered {kind}, which is no JSON: {shown}") from error


def _verdict(answer: Any) -> tuple[float | None, str | None]:
    """The score, None where the endpoint gives none, and the reason."""
    told = answer if isinstance(answer, dict) else {"score": answer}
    if "score" not in told:
        raise GraderError(f"the endpoint's answer has no score: {json.dumps(answer)[:80]}")
    value, reason = told["score"], told.get("reason")
    reason = reason[:500] if isinstance(reason, str) else None
    if value is None:
        return None, reason
    if isinstance(value, bool):
        return float(value), reason
    if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise GraderError(f"the endpoint's score {str(value)[:40]!r} is no number from 0 to 1")
    return float(value), reason


def _asked_to_wait(reply: httpx.Response) -> float:
    """Retry-After in seconds; 0 where it says none that we read."""
    try:
        return min(60.0, max(0.0, float(reply.headers.get("retry-after", ""))))
    except ValueError:
        return 0.0
