"""A lake with ordinary traffic, in bulk; a test bends some of it."""

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from everlearn.lake.store import Lake

Row = dict[str, Any]
Bend = Callable[[random.Random, Row], Row]

TOPICS = (
    "how many orders did the customer place in march and what was the total amount",
    "list every invoice of the region that is not yet paid and the name of its owner",
    "which product has the highest price and how often is it returned by the buyers",
    "show the employees of the sales department with their manager and their office",
    "what is the average delivery time of parcels that leave the warehouse by night",
)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def ordinary(chance: random.Random, at: int) -> Row:
    """One answered request like all others; every user asks once."""
    words = chance.choice(TOPICS).split()
    chance.shuffle(words)
    said = " ".join(chance.choices(words, k=chance.randint(6, 30)))
    refused = chance.random() < 0.01
    return {
        "completion_id": f"cmpl_{at:08d}", "task": "text2sql", "status": "ok", "arm": "champion",
        "version": "base", "unit": f"user-{at}", "received_at": BEGIN + timedelta(seconds=at),
        "messages": json.dumps([{"role": "user", "content": said}]),
        "response_text": "I'm sorry, but I can't help with that."
        if refused
        else "SELECT " + "x" * round(chance.lognormvariate(4, 0.5)),
        "completion_tokens": chance.randint(5, 60), "prompt_tokens": chance.randint(5, 60),
        "finish_reason": "stop" if chance.random() < 0.97 else "length",
        "latency_ms": chance.lognormvariate(6, 0.4),
        "metadata": json.dumps({"tenant": chance.choice("abc")}),
    }  # fmt: skip


def rows(seed: int, start: int, count: int, bend: Bend | None = None) -> Iterator[Row]:
    """`count` rows from row number `start` on."""
    chance = random.Random(seed)
    for at in range(start, start + count):
        row = ordinary(chance, at)
        yield bend(chance, row) if bend else row


def bring(lake: Lake, start: int, count: int, bend: Bend | None = None) -> None:
    """Put them into the lake in one commit."""
    new = list(rows(start, start, count, bend))
    lake.commit(lambda transaction: transaction.append("completions", new))


def say(lake: Lake, start: int, count: int, share: float, good: float) -> None:
    """A thumb on a share of the rows, up for `good` of these, a minute after the answer."""
    chance = random.Random(start)
    new = [
        {
            "feedback_id": f"fb_{at:08d}", "completion_id": f"cmpl_{at:08d}", "kind": "binary",
            "name": "thumbs", "value_bool": chance.random() < good, "author": "end_user",
            "author_id": f"user-{at}", "weight": 1.0,
            "received_at": BEGIN + timedelta(seconds=at + 60),
        }
        for at in range(start, start + count)
        if chance.random() < share
    ]  # fmt: skip
    lake.commit(lambda transaction: transaction.append("feedback", new))
