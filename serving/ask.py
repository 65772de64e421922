"""Asks one model over HTTP, as users do: bounded in number and time, with the upstream's own key.

- An upstream that is down, overloaded or refuses us is ServingAway: it says nothing of a model.
- A request that the server finds wrong (too long, unsupported) is an answer too: `refused`.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Any

import httpx

from collector.answer import Answer, read_answer
from everlearn import tls
from everlearn.config import Upstream
from everlearn.errors import ServingAway
from everlearn.events import Completion
from serving.fleet import answer_message, authorization

REFUSED = frozenset({400, 413, 422})
PAUSE_SECONDS = 0.5
"""Before the first try again; doubled each time."""


@dataclass(frozen=True)
class Question:
    """One row of an exam as a request carries it."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] | None = None
    """Variables of the chat template, for servers of our own."""


@dataclass(frozen=True)
class Reply:
    """One answer, read as production's answers are, or why there is none."""

    answer: Answer
    seconds: float
    refused: str | None = None
    """The server's reason why it does not answer this request."""

    @property
    def complete(self) -> bool:
        """Whether it may count as right: a cut, filtered or refusing answer never does."""
        return self.refused is None and self.answer.status == "ok"

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompt and answer, as far as the server counts them."""
        return self.answer.prompt_tokens or 0, self.answer.completion_tokens or 0


class Asker:
    """One model at its upstream; use as an async context manager."""

    def __init__(
        self, upstream: Upstream, model: str, *, max_tokens: int, concurrency: int
    ) -> None:
        self._upstream, self._model, self._max_tokens = upstream, model, max_tokens
        self._turns = cycle(upstream.addresses)
        self._room = asyncio.Semaphore(concurrency)
        self._client = httpx.AsyncClient(
            headers=authorization(upstream),
            timeout=httpx.Timeout(
                upstream.first_byte_timeout_seconds, connect=upstream.connect_timeout_seconds
            ),
            verify=tls.verify(upstream),
        )

    async def __aenter__(self) -> "Asker":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def ask(self, question: Question) -> Reply:
        """The greedy answer; ServingAway after the upstream's retries."""
        body = self._body(question)
        async with self._room:
            for attempt in range(self._upstream.max_retries + 1):
                address = next(self._turns)
                try:
                    return await self._once(address, body)
                except ServingAway:
                    if attempt == self._upstream.max_retries:
                        raise
                    await asyncio.sleep(PAUSE_SECONDS * 2**attempt)
        raise AssertionError("no attempt")

    def _body(self, question: Question) -> dict[str, Any]:
        own = self._upstream.kind == "vllm"
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(question.messages),
            # The newer name is what hosted models ask for; servers of our own know the older one.
            ("max_tokens" if own else "max_completion_tokens"): self._max_tokens,
            "temperature": 0,
        }
        if question.tools:
            body["tools"] = list(question.tools)
        if own and question.options:
            body["chat_template_kwargs"] = dict(question.options)
        return body

    async def _once(self, address: str, body: Mapping[str, Any]) -> Reply:
        who = f"{self._model} at {address}"
        started = time.perf_counter()
        try:
            answer = await self._client.post(f"{address}/chat/completions", json=body)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ServingAway(f"{who} does not answer: {reason}") from error
        seconds = time.perf_counter() - started
        if answer.status_code in REFUSED:
            return Reply(Answer("rejected"), seconds, answer_message(answer))
        if answer.is_error:
            raise ServingAway(f"{who}: {answer.status_code}: {answer_message(answer)}")
        found = read_answer(_event(answer.content, seconds))
        if found.answer is None or found.status == "upstream_error":
            raise ServingAway(f"{who}: no answer: {found.error or answer.text[:200]}")
        return Reply(found, seconds)


def _event(body: bytes, seconds: float) -> Completion:
    """The answer as the gateway would have captured it."""
    return Completion(
        completion_id="exam",
        received_at=0.0,
        endpoint="chat/completions",
        status="ok",
        http_status=200,
        latency_ms=1000 * seconds,
        response=body,
    )
