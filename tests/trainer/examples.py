"""Rows for tests of the pure parts."""

import itertools
from typing import Any

from trainer.rows import Row

_numbers = itertools.count()


def make_row(**overrides: Any) -> Row:
    """An ordinary answer; name `prompt`, or any field of a row."""
    number = next(_numbers)
    prompt = overrides.pop("prompt", f"question {number}")
    fields: dict[str, Any] = {
        "completion_id": f"c{number:04d}",
        "unit": f"unit-{number}",
        "kind": "replay",
        "messages": [{"role": "user", "content": prompt}],
        "completion": "an answer",
    }
    return Row(**{**fields, **overrides})


def accepted(**overrides: Any) -> Row:
    """An answer a user liked."""
    answer = overrides.get("completion", "an answer")
    return make_row(**{"kind": "accepted", "target": answer, "author": "end_user", **overrides})


def rejected(**overrides: Any) -> Row:
    """An answer a user disliked."""
    return make_row(**{"kind": "rejected", "author": "end_user", **overrides})


def corrected(**overrides: Any) -> Row:
    """An answer an expert corrected."""
    fields = {"kind": "correction", "target": "the right answer", "author": "expert"}
    return make_row(**{**fields, **overrides})
