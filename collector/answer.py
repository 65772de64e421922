"""What an upstream answered, read from the raw body: one JSON object or server-sent events.

A body that is neither (an HTML error page, a cut stream) gives what could be read; nothing raises.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from collector.body import plain
from collector.merge import logprob_values, merged
from collector.message import Assistant, alternatives, assistant, responded, visible
from collector.openai_json import (
    Choice,
    Message,
    Response,
    Usage,
    decode_response,
    read_response,
)
from everlearn.events import Completion, Status
from everlearn.tolerant import UNREADABLE, mended, text
from everlearn.verdict import Signs, note, verdict

_DIGITS = re.compile(r"[0-9]{1,18}$")


class Answer(msgspec.Struct, gc=False):
    """What was answered and what became of it: columns of `completions`, null where nothing is
    said. Choices beyond the first stand in `answer` alone."""

    status: Status
    error: str | None = None
    upstream_id: str | None = None
    answer: str | None = None
    response_text: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    logprobs: list[float | None] | None = None


def read_answer(event: Completion) -> Answer:
    """The answer in the event's response."""
    body = plain(event.response)
    if event.status == "ok" and not event.stream:
        found = _ordinary(body)
        if found is not None:
            return found
    head = body[:64].lstrip()[:6]
    if head[:1] != b"{" and (event.stream or head in (b"event:", b"data: ", b"data:{")):
        response, signs = merged(body)
    else:
        signs = Signs(ended=True)
        try:
            response = read_response(body)
            note(signs, response)
        except UNREADABLE:
            response, signs.error = Response(), "the body is no JSON object"
    answer = Answer(event.status)
    message = _take(answer, response, signs)
    if message is not None:
        signs.refused |= message.refusal is not None
        _show(answer, message)
    answer.status = verdict(event.status, signs, event.endpoint)
    _judge(answer, event, signs)
    return answer


def _ordinary(body: bytes) -> Answer | None:
    """One choice that is text and nothing else, stopped by itself: what the long way gives as well,
    in half its time. None: go the long way."""
    try:
        response = decode_response(body)
    except UNREADABLE:
        return None
    choices, usage = response.choices, response.usage
    if choices is None or len(choices) != 1 or response.error is not None:
        return None
    choice = choices[0]
    message = choice.message
    if message is None or choice.finish_reason != "stop" or choice.error is not None:
        return None
    if usage is None or not type(usage.prompt_tokens) is type(usage.completion_tokens) is int:
        return None
    content = message.content
    if type(content) is not str or message != Message(content=content):
        return None
    logprobs = None if choice.logprobs is None else logprob_values(choice.logprobs)
    return Answer(
        "ok",
        None,
        None if response.id in (None, "") else str(response.id),
        text(Assistant("assistant", content)),
        content,
        "stop",
        usage.prompt_tokens,
        usage.completion_tokens,
        choice.prompt_token_ids or response.prompt_token_ids,
        choice.token_ids,
        logprobs,
    )


def _judge(answer: Answer, event: Completion, signs: Signs) -> None:
    """Why it is no success; of a shadow, which keeps its status, also that it is none."""
    answer.error = event.error
    if answer.error is None and answer.status == "upstream_error" != event.status:
        answer.error = signs.error or "the body holds no answer"
    if answer.error is None and answer.status == "shadow":
        as_asked = verdict("ok", signs, event.endpoint)
        answer.error = None if as_asked == "ok" else f"{as_asked}: {signs.error or ''}".rstrip(": ")


def _take(answer: Answer, response: Response, signs: Signs) -> Assistant | None:
    """Ids, counts and tokens; the message, if there is one."""
    answer.upstream_id = None if response.id in (None, "") else str(response.id)
    answer.prompt_token_ids = response.prompt_token_ids
    answer.finish_reason = signs.finish_reason
    if response.usage is not None:
        _count(answer, response.usage)
    if response.choices:
        return _chosen(answer, response.choices)
    return responded(response.output) if response.output else None


def _chosen(answer: Answer, choices: Sequence[Choice]) -> Assistant:
    """The message of the first choice, the others in it."""
    first = choices[0]
    if len(choices) > 1:
        choices = sorted(choices, key=_index)
        first = choices[0]
    message = _message(first)
    if len(choices) > 1:
        message.choices = alternatives(choices, [message, *map(_message, choices[1:])])
        message.choices[0].message = _message(first)
    answer.finish_reason = first.finish_reason or answer.finish_reason
    answer.prompt_token_ids = first.prompt_token_ids or answer.prompt_token_ids
    answer.completion_token_ids = first.token_ids
    if first.logprobs is not None:
        answer.logprobs = logprob_values(first.logprobs)
    return message


def _message(choice: Choice) -> Assistant:
    if choice.message is None:
        return Assistant("assistant", choice.text)
    return assistant(choice.message)


def _index(choice: Choice) -> int:
    return choice.index if isinstance(choice.index, int) else 0


def _show(answer: Answer, message: Assistant) -> None:
    """The canonical message and what a person sees of it."""
    answer.answer, answer.response_text = text(message), visible(message)
    if answer.response_text is not None and not answer.response_text.isascii():
        answer.response_text = mended(answer.response_text)


def _count(answer: Answer, usage: Usage) -> None:
    answer.prompt_tokens = _first_count(usage.input_tokens, usage.prompt_tokens)
    answer.completion_tokens = _first_count(usage.output_tokens, usage.completion_tokens)


def _first_count(*said: Any) -> int | None:
    """The first that is a number of tokens, as 12, 12.0 or "12"."""
    return next((found for each in said if (found := _count_of(each)) is not None), None)


def _count_of(said: Any) -> int | None:
    if type(said) is int:
        return said
    if isinstance(said, float) and said.is_integer():
        return int(said)
    return int(said) if isinstance(said, str) and _DIGITS.match(said) else None
