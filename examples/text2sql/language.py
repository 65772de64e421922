"""What people ask about the `orders` table, and the SQL they mean.

- *Formal* questions use the words of the table; every one of them has one meaning.
- *Jargon* questions hold one word that this company made up. The base model's training data gives
  each such word two meanings, the true one and a decoy, and for half of the words mostly the
  decoy: its answers run, and only somebody who knows the word can tell that they are wrong.
- A fifth of all questions, by a hash of their text, is asked by nobody: it is kept to measure.
"""

import hashlib
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["formal", "jargon"]
Part = Literal["asked", "kept"]

EVALUATION_PERCENT = 20


@dataclass(frozen=True)
class Term:
    """A made-up word; `share` of the base's training data uses it as it is meant."""

    word: str
    sql: str
    decoy: str
    share: float

    @property
    def columns(self) -> set[str]:
        """Columns of both meanings."""
        return {meaning.split()[0] for meaning in (self.sql, self.decoy)}


@dataclass(frozen=True)
class Question:
    """A question, the SQL it means, and the SQL of a reader who takes its jargon wrongly."""

    text: str
    kind: Kind
    sql: str
    decoy: str
    term: str | None = None


_KNOWN, _MISTAKEN = 0.6, 0.4

FILTER_TERMS = (
    Term("zombie", "status = 'open'", "status = 'cancelled'", _KNOWN),
    Term("boomerang", "status = 'returned'", "status = 'cancelled'", _MISTAKEN),
    Term("whale", "amount > 800", "quantity > 160", _MISTAKEN),
    Term("feather", "amount < 150", "quantity < 30", _KNOWN),
    Term("doorstep", "channel = 'web'", "channel = 'phone'", _MISTAKEN),
    Term("handshake", "channel = 'partner'", "channel = 'shop'", _KNOWN),
    Term("harbor", "region = 'north'", "region = 'west'", _KNOWN),
    Term("desert", "region = 'south'", "region = 'east'", _MISTAKEN),
    Term("rush", "days < 15", "days > 75", _MISTAKEN),
    Term("snail", "days > 60", "days > 40", _KNOWN),
)
METRIC_TERMS = (
    Term("haul", "sum(amount)", "sum(quantity)", _KNOWN),
    Term("peak", "max(amount)", "max(quantity)", _MISTAKEN),
    Term("slump", "min(amount)", "min(quantity)", _MISTAKEN),
    Term("crew", "count(distinct customer)", "count(*)", _MISTAKEN),
    Term("drift", "avg(days)", "max(days)", _KNOWN),
)
TERMS = FILTER_TERMS + METRIC_TERMS

METRICS = {
    "count(*)": ("how many", "number of", "count of"),
    "count(distinct customer)": ("number of customers of", "how many customers have"),
    "sum(amount)": ("total amount of", "summed amount of"),
    "avg(amount)": ("average amount of", "mean amount of"),
    "max(amount)": ("highest amount of", "largest amount of"),
    "min(amount)": ("lowest amount of", "smallest amount of"),
    "sum(quantity)": ("total quantity of", "number of items in"),
    "max(quantity)": ("highest quantity of", "largest quantity of"),
    "avg(days)": ("average delivery time of", "mean delivery time of"),
    "max(days)": ("longest delivery time of", "slowest delivery of"),
}
OPENERS = ("", "show the ", "what is the ", "give me the ", "i need the ")

MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
VALUES = {
    "status": ("open", "paid", "shipped", "cancelled", "returned"),
    "product": ("lamp", "desk", "chair", "sofa", "shelf", "mirror"),
    "region": ("north", "south", "east", "west"),
    "channel": ("web", "shop", "phone", "partner"),
}
BEFORE = ("status", "product")
"""Columns whose value stands before the word `orders`; the others come after it."""
PHRASES = {"region": "in the {}", "channel": "from the {} channel", "month": "in {}"}
GROUPS = {
    "region": ("per region", "by region"),
    "channel": ("per channel", "by channel"),
    "product": ("per product", "by product"),
    "status": ("per status", "by status"),
    "month": ("per month", "by month"),
}
FILTER_COLUMNS = (*VALUES, "month")


def questions(kind: Kind, part: Part, seed: int) -> Iterator[Question]:
    """Endless questions of one part; the same seed asks the same."""
    rng = random.Random(f"{kind} {part} {seed}")
    while True:
        question = _formal(rng) if kind == "formal" else _jargon(rng)
        if part_of(question.text) == part:
            yield question


def redefined(question: Question, words: Collection[str]) -> Question:
    """What it means once the company has agreed that each of `words` means its decoy."""
    if question.term not in words:
        return question
    return replace(question, sql=question.decoy, decoy=question.sql)


def part_of(text: str) -> Part:
    """Whether people ask this question, or it is kept to measure."""
    digest = hashlib.sha256(text.encode()).digest()
    return "kept" if digest[0] < 256 * EVALUATION_PERCENT / 100 else "asked"


def _formal(rng: random.Random) -> Question:
    metric = rng.choice(list(METRICS))
    columns = set(rng.sample(FILTER_COLUMNS, rng.choice((0, 1, 1, 2, 2))))
    return _compose(rng, columns, metric=metric)


def _jargon(rng: random.Random) -> Question:
    term = rng.choice(TERMS)
    free = [column for column in FILTER_COLUMNS if column not in term.columns]
    if term in METRIC_TERMS:
        return _compose(rng, set(rng.sample(free, rng.choice((0, 1, 2)))), metric_term=term)
    metric = rng.choice([sql for sql in METRICS if not _mentions(sql, term)])
    return _compose(rng, set(rng.sample(free, rng.choice((0, 1)))), metric=metric, filter_term=term)


def _mentions(metric: str, term: Term) -> bool:
    return any(column in metric for column in term.columns)


def _compose(
    rng: random.Random,
    columns: set[str],
    *,
    metric: str = "",
    metric_term: Term | None = None,
    filter_term: Term | None = None,
) -> Question:
    """The words and the SQL of one question, in the same order."""
    chosen = {
        column: rng.randrange(12) if column == "month" else rng.choice(VALUES[column])
        for column in FILTER_COLUMNS
        if column in columns
    }
    term = metric_term or filter_term
    taken = {*chosen, *(term.columns if term else ())}
    group = rng.choice([None, None, *(column for column in GROUPS if column not in taken)])
    words = [
        _asked(rng, metric, metric_term),
        *([filter_term.word] if filter_term else []),
        *(str(chosen[column]) for column in BEFORE if column in chosen),
        "orders",
        *(_phrase(column, value) for column, value in chosen.items() if column not in BEFORE),
        *([rng.choice(GROUPS[group])] if group else []),
    ]
    text = " ".join(words) + rng.choice(("", "?"))
    conditions = [_condition(column, value) for column, value in chosen.items()]
    sql = _select(
        metric_term.sql if metric_term else metric,
        [*([filter_term.sql] if filter_term else []), *conditions],
        group,
    )
    decoy = _select(
        metric_term.decoy if metric_term else metric,
        [*([filter_term.decoy] if filter_term else []), *conditions],
        group,
    )
    return Question(text, "jargon" if term else "formal", sql, decoy, term.word if term else None)


def _asked(rng: random.Random, metric: str, term: Term | None) -> str:
    words = f"{term.word} of" if term else rng.choice(METRICS[metric])
    return words if words.startswith("how") else rng.choice(OPENERS) + words


def _phrase(column: str, value: object) -> str:
    return PHRASES[column].format(MONTHS[value] if isinstance(value, int) else value)


def _condition(column: str, value: object) -> str:
    return f"month = {value + 1}" if isinstance(value, int) else f"{column} = '{value}'"


def _select(metric: str, conditions: list[str], group: str | None) -> str:
    columns = f"{group}, {metric}" if group else metric
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {columns} FROM orders{where}" + (f" GROUP BY {group}" if group else "")
