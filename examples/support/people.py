"""The shop's people: agents who send tickets and give thumbs, and an expert who corrects.

They know what each ticket should become, and only HTTP lies between them and the product.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from openai import AsyncOpenAI

from examples.support.tickets import SYSTEM, Part, Ticket, parsed, right, tickets

FAILURES = (openai.OpenAIError, httpx.HTTPError)
MAX_TOKENS = 48


@dataclass(frozen=True)
class Habits:
    """How people behave."""

    thumbs_share: float = 0.4
    wrong_thumbs: float = 0.05
    """Of the thumbs given."""
    max_corrections: int = 100
    """The expert corrects what is wrong until then."""
    confirm_share: float = 0.15
    """Of the answers that are right, the expert says so, until `max_confirmations`."""
    max_confirmations: int = 100
    tickets_each: int = 3
    """Of one agent, one after the other."""


@dataclass
class Record:
    """One ticket as its agent saw it."""

    ticket: Ticket
    at: float
    answer: str = ""
    arm: str | None = None
    version: str | None = None
    seconds: float = 0.0
    error: str | None = None

    @property
    def right(self) -> bool:
        return self.error is None and right(self.answer, self.ticket)


class Desk:
    """Agents at work, `at_once` of them."""

    def __init__(
        self, base_url: str, known: Callable[[list[Ticket]], None], *, seed: int = 1,
        habits: Habits | None = None, model: str = "support",
    ) -> None:  # fmt: skip
        self.records: list[Record] = []
        self.thumbs = self.corrections = self.confirmations = 0
        self.failed_feedback: list[str] = []
        self._base_url, self._known, self._model = base_url, known, model
        self._habits = habits or Habits()
        self._rng = random.Random(seed)
        self._asked = tickets("asked", seed)
        self._agents = self._corrected = self._confirmed = 0

    async def work(self, enough: Callable[[], bool], *, at_once: int = 8) -> None:
        """Send tickets until it is enough; who has begun finishes his."""
        client = AsyncOpenAI(
            base_url=self._base_url, api_key="unused", max_retries=0, timeout=120.0
        )
        async with client, asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(self._agents_in_turn(client, enough))

    async def _agents_in_turn(self, client: AsyncOpenAI, enough: Callable[[], bool]) -> None:
        while not enough():
            self._agents += 1
            agent = f"agent-{self._agents}"
            for _ in range(self._habits.tickets_each):
                await self._one(client, agent)

    async def _one(self, client: AsyncOpenAI, agent: str) -> None:
        ticket = next(self._asked)
        self._known([ticket])
        record, completion_id = await ask(client, self._model, ticket, user=agent)
        self.records.append(record)
        if record.error is not None:
            return
        if self._rng.random() < self._habits.thumbs_share:
            mistaken = self._rng.random() < self._habits.wrong_thumbs
            value = "up" if record.right != mistaken else "down"
            said = {"value": value, "author_id": agent}
            if await self._say(client, completion_id, said):
                self.thumbs += 1
        await self._review(client, record, completion_id)

    async def _review(self, client: AsyncOpenAI, record: Record, completion_id: str | None) -> None:
        """The expert corrects what is wrong, and confirms some of what is right."""
        said: dict[str, Any] = {"author": "expert", "author_id": "expert"}
        if not record.right:
            if self._corrected < self._habits.max_corrections:
                self._corrected += 1
                said |= {"kind": "correction", "value": record.ticket.answer}
                if await self._say(client, completion_id, said):
                    self.corrections += 1
            return
        if self._confirmed >= self._habits.max_confirmations:
            return
        if self._rng.random() < self._habits.confirm_share:
            self._confirmed += 1
            if await self._say(client, completion_id, {**said, "value": "up"}):
                self.confirmations += 1

    async def _say(
        self, client: AsyncOpenAI, completion_id: str | None, said: dict[str, Any]
    ) -> bool:
        try:
            body = {"completion_id": completion_id, **said}
            await client.post("/feedback", cast_to=object, body=body)
        except FAILURES as error:
            self.failed_feedback.append(f"{type(error).__name__}: {error}"[:300])
            return False
        return True


async def ask(
    client: AsyncOpenAI, model: str, ticket: Ticket, **more: Any
) -> tuple[Record, str | None]:
    """One ticket; what came of it and the completion's id."""
    record = Record(ticket, time.time())
    create: Any = client.chat.completions.with_raw_response.create
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ticket.text}]
    try:
        raw = await create(
            model=model, messages=messages, temperature=0, max_tokens=MAX_TOKENS, **more
        )
        record.answer = raw.parse().choices[0].message.content or ""
    except FAILURES as error:
        record.error = f"{type(error).__name__}: {error}"[:300]
        return record, None
    finally:
        record.seconds = time.time() - record.at
    record.arm = raw.headers.get("x-everlearn-arm")
    record.version = raw.headers.get("x-everlearn-version")
    return record, raw.headers.get("x-everlearn-id")


@dataclass(frozen=True)
class Score:
    """Shares of tickets that nobody ever asked."""

    right: float
    """All fields as they should be."""
    valid: float
    """JSON at all."""
    new_wording: float
    """Right, of complaints worded as in no asked ticket."""


def score(base_url: str, model: str, count: int, *, seed: int = 0, part: Part = "kept") -> Score:
    """Ask `count` kept tickets with `store: false`, so that nobody learns from them."""
    asked = [ticket for ticket, _ in zip(tickets(part, seed), range(count), strict=False)]
    return asyncio.run(_score(base_url, model, asked))


async def _score(base_url: str, model: str, asked: list[Ticket]) -> Score:
    places = asyncio.Semaphore(16)

    async def one(client: AsyncOpenAI, ticket: Ticket) -> Record:
        async with places:
            record, _ = await ask(client, model, ticket, store=False)
        if record.error is not None:
            raise openai.OpenAIError(record.error)
        return record

    async with AsyncOpenAI(base_url=base_url, api_key="unused", timeout=300.0) as client:
        found = await asyncio.gather(*(one(client, ticket) for ticket in asked))
    new = [record.right for record in found if record.ticket.new_wording]
    return Score(
        sum(record.right for record in found) / len(found),
        sum(parsed(record.answer) is not None for record in found) / len(found),
        sum(new) / len(new) if new else float("nan"),
    )
