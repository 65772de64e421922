"""People who use the product: they know what they mean, and only HTTP lies between.

Imports nothing of everlearn. A user has an intent of which the true SQL is known, asks for it
through the official `openai` package, reads the answer, runs it on a copy of the database and
compares. About a third say what they think, and some of them err. An analyst reviews a sample of
all answers and corrects the wrong ones. The client never retries, so a failed request is seen.

    python -m examples.text2sql.traffic --help
"""

import asyncio
import json
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import openai
from openai import AsyncOpenAI

from examples.text2sql.database import Orders
from examples.text2sql.language import Kind, Question, questions, redefined
from examples.text2sql.people import MAX_TOKENS, PEOPLE, People

FAILURES = (openai.OpenAIError, httpx.HTTPError, json.JSONDecodeError)
"""What a client may see of a request that failed; of a stream also httpx's own errors."""


@dataclass
class Record:
    """One request as its user saw it; times are Unix seconds."""

    user: str
    kind: Kind
    question: str
    stream: bool
    started_at: float
    finished_at: float = 0.0
    completion_id: str | None = None
    arm: str | None = None
    version: str | None = None
    answer: str = ""
    correct: bool = False
    """Whether the answer gives the rows that the user meant."""
    runs: bool = False
    error: str | None = None
    """Why the request failed; None if it did not."""
    feedback_at: float | None = None
    """When the user's or else the analyst's verdict was accepted."""

    @property
    def latency_seconds(self) -> float:
        return self.finished_at - self.started_at


class Traffic:
    """Users who arrive at random, `rate_per_second` requests on average; it may be changed.

    At most `max_users` are active at once: later ones wait at the door.
    """

    def __init__(
        self,
        base_url: str,
        *,
        rate_per_second: float = 10.0,
        seed: int = 0,
        people: People = PEOPLE,
        model: str = "text2sql",
        max_users: int = 200,
    ) -> None:
        self.base_url = base_url
        self.rate_per_second = rate_per_second
        self.records: list[Record] = []
        self.thumbs = 0
        """Given by users."""
        self.accepted = 0
        """Answers the analyst found right."""
        self.corrections = 0
        """Answers the analyst corrected."""
        self.failed_feedback: list[str] = []
        """Why each feedback that was not taken was not."""
        self.redefined: frozenset[str] = frozenset()
        """Words that mean their decoys by now; it may be changed."""
        self.reviewing = True
        """Whether the analyst is there; it may be changed."""
        self._people = people
        self._model = model
        self._seed = seed
        self._rng = random.Random(seed)
        self._orders = Orders()
        self._asked = {kind: questions(kind, "asked", seed) for kind in ("formal", "jargon")}
        self._active = asyncio.Semaphore(max_users)
        self._stopped = False
        self._asking = 0
        self._corrected = 0

    def stop(self) -> None:
        """Nobody new arrives; `run` returns when those who are here have finished."""
        self._stopped = True

    async def run(self, seconds: float | None = None, requests: int | None = None) -> None:
        """Let people come until the time is over, so many requests were made, or `stop`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        client = AsyncOpenAI(base_url=self.base_url, api_key="unused", max_retries=0, timeout=60.0)
        async with client, asyncio.TaskGroup() as people:
            while not self._over(deadline, requests):
                await asyncio.sleep(self._gap_seconds())
                await self._active.acquire()
                if self._over(deadline, requests):
                    break
                count = self._rng.randint(1, self._people.max_questions)
                if requests is not None:
                    count = min(count, requests - self._asking)
                self._asking += count
                people.create_task(self._visit(client, people, self._asking, count))

    def _over(self, deadline: float | None, requests: int | None) -> bool:
        late = deadline is not None and time.monotonic() >= deadline
        return self._stopped or late or (requests is not None and self._asking >= requests)

    def _gap_seconds(self) -> float:
        """To the next user, who brings several requests; a second at most, to notice a stop."""
        per_user = (1 + self._people.max_questions) / 2
        return min(1.0, self._rng.expovariate(max(self.rate_per_second, 1e-3) / per_user))

    async def _visit(
        self, client: AsyncOpenAI, people: asyncio.TaskGroup, number: int, count: int
    ) -> None:
        """One user's questions, one after the other."""
        try:
            for _ in range(count):
                kind: Kind = (
                    "jargon" if self._rng.random() < self._people.jargon_share else "formal"
                )
                question = redefined(next(self._asked[kind]), self.redefined)
                record = await self._ask(client, f"user-{self._seed}-{number}", question)
                self.records.append(record)
                if record.error is None:
                    await self._think()
                    if self._rng.random() < self._people.thumbs_share:
                        await self._give_thumbs(client, record)
                    reviewed = self._rng.random() < self._people.review_share
                    if reviewed and self.reviewing:
                        people.create_task(self._review(client, record, question))
        finally:
            self._active.release()

    async def _think(self) -> None:
        await asyncio.sleep(self._rng.expovariate(1 / self._people.think_seconds))

    async def _ask(self, client: AsyncOpenAI, user: str, question: Question) -> Record:
        stream = self._rng.random() < self._people.stream_share
        record = Record(user, question.kind, question.text, stream, time.time())
        try:
            record.answer = await self._answer(client, record)
        except FAILURES as error:
            record.error = f"{type(error).__name__}: {error}"[:300]
        record.finished_at = time.time()
        if record.error is None:
            record.runs = self._orders.rows(record.answer) is not None
            record.correct = self._orders.same(record.answer, question.sql)
        return record

    async def _answer(self, client: AsyncOpenAI, record: Record) -> str:
        """The text; the record learns from the headers which version gave it."""
        create: Any = client.chat.completions.with_raw_response.create
        raw = await create(
            model=self._model,
            messages=[{"role": "user", "content": record.question}],
            user=record.user,
            temperature=self._people.temperature,
            max_tokens=MAX_TOKENS,
            stream=record.stream,
        )
        _read_headers(record, raw.headers)
        if record.stream:
            return await _read_stream(raw.parse())
        return raw.parse().choices[0].message.content or ""

    async def _give_thumbs(self, client: AsyncOpenAI, record: Record) -> None:
        mistaken = self._rng.random() < self._people.wrong_thumbs
        value = "up" if record.correct != mistaken else "down"
        if await self._feedback(client, record, {"value": value, "author_id": record.user}):
            self.thumbs += 1

    async def _review(self, client: AsyncOpenAI, record: Record, question: Question) -> None:
        """The analyst knows what was meant."""
        await self._think()
        if self._corrected >= self._people.max_corrections:
            return
        said: dict[str, Any] = {"author": "expert", "author_id": "analyst"}
        if record.correct:
            if await self._feedback(client, record, {**said, "value": "up"}):
                self.accepted += 1
        else:
            self._corrected += 1
            said |= {"kind": "correction", "value": question.sql}
            if await self._feedback(client, record, said):
                self.corrections += 1

    async def _feedback(self, client: AsyncOpenAI, record: Record, said: Mapping[str, Any]) -> bool:
        """Whether it was accepted."""
        body = {"completion_id": record.completion_id, **said}
        try:
            await client.post("/feedback", cast_to=object, body=body)
        except FAILURES as error:
            self.failed_feedback.append(f"{type(error).__name__}: {error}"[:300])
            return False
        record.feedback_at = record.feedback_at or time.time()
        return True


def _read_headers(record: Record, headers: Mapping[str, str]) -> None:
    record.completion_id = headers.get("x-everlearn-id")
    record.arm = headers.get("x-everlearn-arm")
    record.version = headers.get("x-everlearn-version")


async def _read_stream(stream: Any) -> str:
    """The whole text; a stream that ends without a finish reason has failed."""
    text, finished = "", False
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finished = finished or choice.finish_reason is not None
    if not finished:
        raise openai.OpenAIError("the stream ended before the answer was complete")
    return text


def accuracy(
    base_url: str,
    model: str,
    kind: Kind,
    count: int,
    *,
    seed: int = 0,
    words: Collection[str] = (),
    at_once: int = 16,
) -> float:
    """Share of right greedy answers to `count` questions that no user asks; `words` are redefined.

    Asked with `store: false`, so that nobody learns from them.
    """
    kept = questions(kind, "kept", seed)
    asked = [redefined(next(kept), words) for _ in range(count)]
    return asyncio.run(_accuracy(base_url, model, asked, at_once))


async def _accuracy(base_url: str, model: str, asked: Sequence[Question], at_once: int) -> float:
    orders, gate = Orders(), asyncio.Semaphore(at_once)

    async def right(client: AsyncOpenAI, question: Question) -> bool:
        async with gate:
            answer = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question.text}],
                temperature=0,
                max_tokens=MAX_TOKENS,
                store=False,
            )
        return orders.same(answer.choices[0].message.content or "", question.sql)

    async with AsyncOpenAI(
        base_url=base_url, api_key="unused", max_retries=0, timeout=60.0
    ) as client:
        found = await asyncio.gather(*(right(client, question) for question in asked))
        return sum(found) / len(asked)


def summary(traffic: Traffic) -> dict[str, Any]:
    """What the users saw, in a few numbers; accuracy by kind."""
    answered = [record for record in traffic.records if record.error is None]
    latencies = sorted(record.latency_seconds for record in answered)
    by_kind = {
        kind: [record.correct for record in answered if record.kind == kind]
        for kind in ("jargon", "formal")
    }
    return {
        "requests": len(traffic.records),
        "failed": len(traffic.records) - len(answered),
        "accuracy": {kind: sum(own) / len(own) for kind, own in by_kind.items() if own},
        "runs": sum(record.runs for record in answered) / max(len(answered), 1),
        "latency_median_seconds": latencies[len(latencies) // 2] if latencies else None,
        "thumbs": traffic.thumbs,
        "corrections": traffic.corrections,
        "accepted": traffic.accepted,
        "failed_feedback": len(traffic.failed_feedback),
    }


@click.command()
@click.option("--base-url", default="http://127.0.0.1:8000/v1", show_default=True)
@click.option("--rate", default=10.0, show_default=True, help="Requests per second.")
@click.option("--seconds", type=float, help="How long; default: until Ctrl-C.")
@click.option("--requests", type=int, help="How many requests at most.")
@click.option("--seed", default=0, show_default=True, help="Other seeds, other users.")
@click.option("--jargon", default=People.jargon_share, show_default=True, help="Share of jargon.")
@click.option("--thumbs", default=People.thumbs_share, show_default=True, help="Share with thumbs.")
@click.option("--truth", type=click.Path(path_type=Path), help="Write one JSON line a request.")
def command(
    base_url: str,
    rate: float,
    seconds: float | None,
    requests: int | None,
    seed: int,
    jargon: float,
    thumbs: float,
    truth: Path | None,
) -> None:
    """Simulated users and an analyst in front of a gateway; prints what they saw as JSON."""
    people = People(jargon_share=jargon, thumbs_share=thumbs)
    traffic = Traffic(base_url, rate_per_second=rate, seed=seed, people=people)
    try:
        asyncio.run(traffic.run(seconds, requests))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
    if truth:
        truth.write_text("".join(json.dumps(asdict(each)) + "\n" for each in traffic.records))
    click.echo(json.dumps(summary(traffic)))


if __name__ == "__main__":
    command()
