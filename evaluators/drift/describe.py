"""One completion as plain values: numbers, yes or no, and categories; None is not known.

The type of a value says how it is compared (`compare.py`). A row that cannot be read is told by
`unreadable` and says nothing else.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.drift.language import language, words
from everlearn.prompts import last_user_text
from everlearn.tolerant import loads

Value = float | bool | str | None
Values = dict[str, Value]

GIVEN = (
    "unit", "conversation_id", "metadata", "prompt_tokens", "completion_tokens", "finish_reason",
    "first_token_ms", "prompt_token_ids", "logprobs", "template_hash",
)  # fmt: skip
"""Columns that a client or a server may cease to fill."""
MAX_KEYS = 20
"""Keys of metadata that are followed: the most frequent of the reference."""

_REFUSAL = re.compile(
    r"\b(i('m| am) (sorry|afraid|unable|not able)|i (cannot|can't|can not|won't) "
    r"(help|assist|do|provide|comply|answer|fulfil|discuss)|as an ai\b|i (must|have to) decline|"
    r"(cannot|can't) (help|assist) (you )?with)"
)
_ANSWERED = ("ok", "refused", "incomplete", "filtered")


def describe(row: Mapping[str, Any]) -> Values:
    """What a row of `completions` is like, its scores and feedback left to others."""
    try:
        return {"unreadable": False, **_input(row), **_output(row), **_service(row)}
    except Exception:
        return {"unreadable": True}


def add_unknown_words(
    reference: Sequence[tuple[str, Values]], window: Sequence[tuple[str, Values]]
) -> None:
    """Add `unknown_words`, the share of a question's words that half the reference never used.

    The other half of the reference is measured by the same words, so that without a new topic both
    sides are alike.
    """
    known = frozenset[str]().union(*(words(text) for text, _ in reference[::2]))
    for text, values in (*reference[1::2], *window):
        used = words(text)
        values["unknown_words"] = len(used - known) / len(used) if used else None


def add_metadata(
    reference: Sequence[tuple[Mapping[str, Any], Values]],
    window: Sequence[tuple[Mapping[str, Any], Values]],
) -> None:
    """Add `given.metadata.KEY` for the reference's keys: a client that drops one is seen."""
    counts: dict[str, int] = {}
    for metadata, _ in reference:
        for key in metadata:
            counts[key] = counts.get(key, 0) + 1
    keys = sorted(counts, key=lambda key: (-counts[key], key))[:MAX_KEYS]
    for metadata, values in (*reference, *window):
        values.update({f"given.metadata.{key}": metadata.get(key) is not None for key in keys})


def question(row: Mapping[str, Any]) -> str:
    """What the user asked last; empty where that cannot be read."""
    try:
        return last_user_text(loads(row["messages"] or "[]"))
    except Exception:
        return ""


def metadata_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The client's map; empty where that cannot be read."""
    try:
        found = loads(row["metadata"] or "{}")
    except Exception:
        return {}
    return found if isinstance(found, Mapping) else {}


def _input(row: Mapping[str, Any]) -> Values:
    messages = loads(row["messages"] or "[]")
    text = last_user_text(messages)
    return {
        "prompt_chars": float(len(text)),
        "turns": float(len(messages)),
        "language": language(text),
        "tools_offered": row["tools"] is not None,
    }


def _output(row: Mapping[str, Any]) -> Values:
    text = row["response_text"]
    if row["status"] not in _ANSWERED or text is None:
        return {}
    answer = loads(row["answer"] or "{}")
    calls = answer.get("tool_calls") if isinstance(answer, Mapping) else None
    start = text[:300].casefold().replace("\u2019", "'")
    return {
        "answer_chars": float(len(text)),
        "completion_tokens": _number(row["completion_tokens"]),
        "refused": row["status"] == "refused" or bool(_REFUSAL.search(start)),
        "finish_reason": row["finish_reason"] or "none",
        "json": _is_json(text),
        "tool_called": bool(calls),
    }


def _service(row: Mapping[str, Any]) -> Values:
    return {
        "status": row["status"] or "none",
        "latency_ms": _number(row["latency_ms"]),
        "first_token_ms": _number(row["first_token_ms"]),
        **{f"given.{name}": row[name] is not None for name in GIVEN},
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _is_json(text: str) -> bool:
    """The answer is a JSON object or list and nothing else."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
