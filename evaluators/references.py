"""The right answer per prompt, as far as an expert has told it.

The latest of an expert's corrections counts, else the latest answer an expert accepted. Prompts are
the same when their `prompt_key` is.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from everlearn.lake.store import Lake
from everlearn.prompts import prompt_key
from everlearn.tolerant import UNREADABLE, loads

log = logging.getLogger(__name__)

_SQL = """
    SELECT f.kind, f.value_text, f.weight, f.author, c.completion_id, c.messages, c.tools,
        c.response_text
    FROM feedback_joined f JOIN completions c USING (completion_id)
    WHERE f.task = ? AND f.author = 'expert' AND NOT f.ambiguous
        AND ((f.kind = 'correction' AND f.value_text IS NOT NULL)
            OR (f.kind = 'binary' AND f.value_bool AND c.response_text IS NOT NULL
                AND c.status = 'ok'))
    ORDER BY f.given_at, f.feedback_id
"""


@dataclass(frozen=True)
class Reference:
    """A right answer and who vouches for it."""

    text: str
    weight: float
    author: str

    @property
    def digest(self) -> str:
        """Of the text: another digest, another verdict."""
        return hashlib.sha256(self.text.encode(errors="surrogatepass")).hexdigest()[:16]


def references(lake: Lake, task: str) -> dict[str, Reference]:
    """By prompt key."""
    return choose(lake.read(_SQL, [task]).to_pylist())


def choose(rows: Iterable[Mapping[str, Any]]) -> dict[str, Reference]:
    """Of an expert's feedback in the order it was given: corrections outrank acceptance.

    What is said about a prompt that cannot be read is no reference.
    """
    accepted: dict[str, Reference] = {}
    corrected: dict[str, Reference] = {}
    for row in rows:
        correction = row["kind"] == "correction"
        text = row["value_text"] if correction else row["response_text"]
        try:
            key = prompt_key(*asked(row))
        except UNREADABLE as error:
            log.warning("%s gives no reference: %s", row["completion_id"], error)
            continue
        weight = 1.0 if row["weight"] is None else row["weight"]
        (corrected if correction else accepted)[key] = Reference(text, weight, row["author"])
    return {**accepted, **corrected}


def asked(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Messages and tools of a row of `completions`; raises what is in UNREADABLE."""
    messages, tools = row["messages"], row["tools"]
    return loads(messages or "[]"), None if tools is None else loads(tools)
