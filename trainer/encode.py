"""Rows as tokens: what a method may train on, and why a row is left out.

A row that cannot be rendered or is too long is no error: it is `None` here, and counted.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from everlearn.chat import Unsupported
from everlearn.errors import NotEnoughEvidence
from trainer.render import Captured, Conversation, Example, Renderer
from trainer.rows import Message, Row

TOO_LONG = "too_long"


@dataclass(frozen=True)
class Encoder:
    """The base model's rendering within its limits."""

    renderer: Renderer
    template_hash: str
    max_length: int
    """Tokens of prompt and answer together."""
    max_prompt: int
    """Tokens of a prompt that is only answered."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why this encoder gave `None`, by completion id."""

    def taught(self, row: Row) -> Example | None:
        """What the row teaches or shows."""
        return self._counted(row, row.taught, row.captured(self.template_hash))

    def given(self, row: Row) -> Example | None:
        """The answer that was given, whatever is right."""
        return self._counted(row, row.given)

    def prompt(self, row: Row) -> list[int] | None:
        """The prompt alone."""
        try:
            ids = self.renderer.prompt_ids(row.conversation)
        except Unsupported as error:
            self.left_out[row.completion_id] = error.reason
            return None
        if len(ids) <= self.max_prompt:
            return ids
        self.left_out[row.completion_id] = TOO_LONG
        return None

    def example(
        self, asked: Conversation, answer: Message, captured: Captured | None = None
    ) -> Example | None:
        """Tokens of prompt and answer; None if they are too long, Unsupported with the reason."""
        made = self.renderer.example(asked, answer, captured)
        return made if len(made) <= self.max_length else None

    def refuses(self, row: Row) -> str | None:
        """Why the row cannot be used on its side; None: it can."""
        try:
            if row.split == "train" and row.kind != "prompt":
                message = row.given if row.kind == "rejected" else row.taught
                fits = self.example(row.conversation, message) is not None
            else:
                fits = len(self.renderer.prompt_ids(row.conversation)) <= self.max_prompt
        except Unsupported as error:
            return error.reason
        return None if fits else TOO_LONG

    def enough(self, made: Sequence[Any], needed: int, what: str) -> None:
        """NotEnoughEvidence with what was left out when fewer than `needed` are there."""
        if len(made) >= needed:
            return
        counts = Counter(self.left_out.values())
        reasons = ", ".join(f"{count} {self._said(why)}" for why, count in counts.most_common())
        raise NotEnoughEvidence(
            f"{len(made)} {what} can be trained on < {needed}; left out: {reasons or 'none'}"
        )

    def _said(self, reason: str) -> str:
        return f"too long (max_length {self.max_length})" if reason == TOO_LONG else reason

    def _counted(
        self, row: Row, answer: Message, captured: Captured | None = None
    ) -> Example | None:
        try:
            made = self.example(row.conversation, answer, captured)
        except Unsupported as error:
            self.left_out[row.completion_id] = error.reason
            return None
        if made is None:
            self.left_out[row.completion_id] = TOO_LONG
        return made


def template_hash(template: Any) -> str:
    """sha256 of the chat template that renders prompts."""
    return hashlib.sha256(str(template).encode()).hexdigest()
