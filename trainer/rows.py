"""What a snapshot is made of: one row per judged or ordinary answer, frozen and without behaviour.

- `accepted`: somebody said the answer is right; target = the answer.
- `correction`: an expert gave the right answer - or the model itself, told by a comment what is
  wanted (author `comment`); target = that, completion = the wrong one.
- `preference`: target = the preferred answer, completion = the other one; of author `best_of` the
  model gave both and the reward tells them apart.
- `rejected`: somebody said the answer is wrong, nobody said what is right.
- `replay`: an ordinary answer of the champion that nobody complained about.
- `hindsight`: a logged answer that is weighed token by token, by how much likelier `rules` in its
  prompt make it; nothing is its target.
- `prompt`: only what was asked is of use, for the answer was cut off or a grader gave it 0.

A conversation is data, not text: the row keeps messages, tools and answers as messages beside the
texts that people and graders compare.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from everlearn.opinion import fold as fold
from everlearn.prompts import prompt_key
from trainer.render import Captured, Conversation

Kind = Literal["accepted", "rejected", "correction", "preference", "hindsight", "replay", "prompt"]
Side = Literal["train", "select", "gate", "dropped"]
Message = Mapping[str, Any]
Messages = Sequence[Message]

LEARNED: tuple[Kind, ...] = ("accepted", "correction", "preference")
"""Kinds whose target is taught."""
BEST_OF = "best_of"
"""Author of a pair of the model's own answers, told apart by the reward."""
OWN_WORD = ("comment", "verdict", BEST_OF)
"""Authors of rows whose target is the model's own answer, found good by a machine: lessons, never
exam rows."""
UNJUDGED: tuple[Kind, ...] = ("replay", "prompt")
"""Kinds that nobody has said anything about."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One example; `split` and `dropped_reason` say what became of it."""

    completion_id: str
    unit: str
    kind: Kind
    messages: Messages
    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template that the request named."""
    completion: str
    said: Message | None = None
    """The completion as an assistant message; None: a plain text."""
    target: str | None = None
    target_message: Message | None = None
    author: str | None = None
    """expert, end_user, grader, comment, verdict or best_of; None if nobody judged it. A `replay`
    of author comment is of a prompt that the comments' rules leave as it is."""
    weight: float = 1.0
    """Trust, summed over the raters that agree."""
    raters: tuple[str, ...] = ()
    """Whose word it is, where no expert's; none: the unit's own."""
    confirmed: bool = False
    """Of strangers' word: experts have met one of them, or a grader that is believed agrees."""
    split: Side = "train"
    dropped_reason: str | None = None
    trainable: bool = True
    forced: str | None = None
    """What of the request forced words on the answer."""
    finish_reason: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    completion_token_ids: Sequence[int] | None = None
    """Of the completion, as production sampled it."""
    logprobs: Sequence[float] | None = None
    """Of those tokens, as production's server reported them."""
    template_hash: str | None = None
    rules: Sequence[str] = ()
    """Of kind `hindsight`: what stands in the prompt of the teacher."""
    verdicts: Mapping[str, float] = field(default_factory=dict)
    """Latest scores of the completion by grader name."""
    asked_at: datetime | None = None
    """When production was asked: the day that a template which prints the date names."""
    known_at: datetime | None = None
    """When somebody last spoke of it; of an unjudged answer, when it was given."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What graders of live answers know beside the conversation: metadata, version, arm, and what
    people said."""

    @cached_property
    def key(self) -> str:
        """Rows with equal keys ask the same."""
        return prompt_key(self.messages, self.tools)

    @property
    def answer(self) -> str:
        """What the row teaches or shows: the target, else the answer given."""
        return self.completion if self.target is None else self.target

    @property
    def conversation(self) -> Conversation:
        """What was asked, as a chat template takes it."""
        return Conversation(self.messages, self.tools, self.options, self.asked_at)

    @property
    def given(self) -> Message:
        """The completion as a message."""
        return self.said or {"role": "assistant", "content": self.completion}

    @property
    def taught(self) -> Message:
        """What the row teaches or shows, as a message."""
        if self.target is None:
            return self.given
        return self.target_message or {"role": "assistant", "content": self.target}

    def captured(self, template: str) -> Captured | None:
        """Production's own tokens of what is taught, where it is production's own answer."""
        own = self.kind in ("accepted", "replay", "hindsight") and self.answer == self.completion
        if not own or not self.prompt_token_ids or not self.completion_token_ids:
            return None
        return Captured(
            self.prompt_token_ids,
            self.completion_token_ids,
            same_template=self.template_hash == template,
        )

    @property
    def row_hash(self) -> str:
        """sha256 of what was asked, said and taught."""
        content: list[Any] = [list(self.messages), self.completion, self.target]
        # Plain rows keep the hash that they always had.
        if self.tools or self.options:
            content += [self.tools, dict(self.options)]
        if self.context.get("metadata"):
            content.append({"metadata": self.context["metadata"]})
        if self.rules:
            content.append({"rules": list(self.rules)})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def accept(row: Row, *, author: str, weight: float = 1.0) -> Row:
    """The row as accepted: its own answer is the target."""
    return replace(
        row,
        kind="accepted",
        target=row.completion,
        target_message=row.said,
        author=author,
        weight=weight,
    )


def message_of(text: str, answer: Message | None) -> Message | None:
    """A right answer that somebody wrote, as a message; None: a plain text.

    Where the answer it corrects called tools, calls are written as they are shown: as a JSON list
    in the last line.
    """
    if not (answer or {}).get("tool_calls"):
        return None
    content, _, shown = text.rpartition("\n")
    try:
        calls = json.loads(shown)
        names = [call["function"]["name"] for call in calls]
    except (ValueError, TypeError, KeyError):
        return None
    return {"role": "assistant", "content": content, "tool_calls": calls} if names else None


def to_lake(row: Row, snapshot_id: str) -> dict[str, Any]:
    """The row as table `snapshot_rows` keeps it; a dropped row keeps no text."""
    kept = row.split != "dropped"
    return {
        "snapshot_id": snapshot_id,
        "completion_id": row.completion_id,
        "unit": row.unit,
        "split": row.split,
        "dropped_reason": row.dropped_reason,
        "kind": row.kind,
        "messages": list(row.messages) if kept else None,
        "tools": row.tools if kept else None,
        "options": dict(row.options) if kept and row.options else None,
        "asked_at": row.asked_at,
        "completion": row.completion if kept else None,
        "answer": row.said if kept else None,
        "context": dict(row.context) if kept and row.context else None,
        "target": row.target if kept else None,
        "target_message": row.target_message if kept else None,
        "prompt_token_ids": row.prompt_token_ids if kept else None,
        "completion_token_ids": row.completion_token_ids if kept else None,
        "logprobs": row.logprobs if kept and row.kind == "hindsight" else None,
        "rules": list(row.rules) if kept and row.rules else None,
        "template_hash": row.template_hash,
        "author": row.author,
        "weight": row.weight,
        "row_hash": row.row_hash,
    }


def from_lake(record: Mapping[str, Any]) -> Row:
    """A row of table `snapshot_rows`."""
    return Row(
        completion_id=record["completion_id"],
        unit=record["unit"] or "",
        kind=record["kind"],
        messages=parsed(record["messages"]) or [],
        tools=parsed(record["tools"]),
        options=parsed(record["options"]) or {},
        asked_at=record["asked_at"],
        completion=record["completion"] or "",
        said=parsed(record["answer"]),
        context=parsed(record["context"]) or {},
        target=record["target"],
        target_message=parsed(record["target_message"]),
        prompt_token_ids=record["prompt_token_ids"],
        completion_token_ids=record["completion_token_ids"],
        logprobs=record["logprobs"],
        rules=tuple(parsed(record["rules"]) or ()),
        template_hash=record["template_hash"],
        author=record["author"],
        weight=record["weight"],
        split=record["split"],
        dropped_reason=record["dropped_reason"],
    )


def parsed(value: Any) -> Any:
    """A JSON column's value, whether the lake gave text or objects; None for no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
