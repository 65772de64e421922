"""The served model as its own teacher: it answers with and without the comments in its prompt.

The rules stand in the system message; in the user's last one where a template holds none.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from everlearn.chat import Unsupported
from trainer.generate import answer_all
from trainer.render import Conversation
from trainer.rows import Message, Messages, Row
from trainer.workbench import Workbench

if TYPE_CHECKING:
    from trainer.methods.hindsight import Weighed

RULES = "Keep to these rules:"
AGAIN = (
    "A reviewer said of this answer:\n{comment}\nAnswer the request again, as the reviewer wants."
)


class Teacher:
    """One model of a workbench; greedy, so that a difference is the comment's."""

    def __init__(self, bench: Workbench, model: Any) -> None:
        self._bench, self._model = bench, model

    def plain(self, rows: Sequence[Row]) -> list[str]:
        """The answers to the rows' prompts as they were asked."""
        return self._answers([row.conversation for row in rows])

    def ruled(self, rows: Sequence[Row], rules: Sequence[str]) -> list[str]:
        """The answers with the rules in the prompt."""
        return self._answers([hinted(row.conversation, rules, self._holds) for row in rows])

    def again(self, rows: Sequence[Row], comments: Sequence[str]) -> list[str]:
        """The answers after each row's own answer and what was said of it."""
        return self._answers(
            [corrected(row, comment) for row, comment in zip(rows, comments, strict=True)]
        )

    def weighed(self, rows: Sequence[Row]) -> "list[Weighed]":
        """The rows' logged answers with their rules in the prompt and as production gave them."""
        from trainer.methods.hindsight import weighed

        return weighed(rows, self._bench, self._model)

    def _answers(self, asked: Sequence[Conversation]) -> list[str]:
        longest = self._bench.task.train.max_completion_tokens
        made = answer_all(self._model, self._bench.tokenizer, asked, longest)
        # What was cut is blank: nothing to teach.
        return ["" if answer.cut else answer.text for answer in made.answers]

    def _holds(self, conversation: Conversation) -> bool:
        try:
            self._bench.encoder.renderer.prompt_ids(conversation)
        except Unsupported:
            return False
        return True


def hinted(
    conversation: Conversation, rules: Sequence[str], holds: Callable[[Conversation], bool]
) -> Conversation:
    """The conversation with the rules in it."""
    note = "\n".join([RULES, *(f"- {rule}" for rule in rules)])
    messages = list(conversation.messages)
    first = messages[0]
    if first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
        return replace(conversation, messages=[_added(first, note), *messages[1:]])
    system = replace(conversation, messages=[{"role": "system", "content": note}, *messages])
    return system if holds(system) else replace(conversation, messages=_in_last(messages, note))


def corrected(row: Row, comment: str) -> Conversation:
    """The conversation that goes on with the answer and what was said of it."""
    said = {"role": "user", "content": AGAIN.format(comment=comment)}
    return replace(row.conversation, messages=[*row.messages, dict(row.given), said])


def _added(message: Message, note: str) -> Message:
    return {**message, "content": f"{message['content']}\n\n{note}"}


def _in_last(messages: list[Message], note: str) -> Messages:
    places = [
        place
        for place, message in enumerate(messages)
        if message.get("role") == "user" and isinstance(message.get("content"), str)
    ]
    if not places:
        return messages
    last = places[-1]
    return [*messages[:last], _added(messages[last], note), *messages[last + 1 :]]
