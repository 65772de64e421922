"""OpenAI's shapes: fine-tuning rows, logged calls, stored completions, batches, preferences.

- `{messages: [..., assistant], tools?}`: a fine-tuning row; the last message is the answer.
- `{request, response}` (a batch's `{body}` around either), `{messages, choices}`: a logged call.
- `{input: {messages}, preferred_output, non_preferred_output}`: two answers, one was liked.
- `{prompt, completion | response}`: a plain pair, as tables often hold it.

Beside them a row may bear `id`, `user`, `conversation_id`, `created`, `metadata`, and `feedback`:
one object or a list of them in the shape of `POST /v1/feedback` without the target.
"""

from typing import Any

from collector.importing.rows import (
    Conversation,
    Events,
    Refused,
    Terms,
    completion,
    feedback,
    parsed,
)

REQUEST = (
    *("model", "tools", "tool_choice", "response_format", "temperature", "top_p", "max_tokens"),
    *("max_completion_tokens", "seed", "stop", "metadata", "store", "parallel_tool_calls", "n"),
    *("presence_penalty", "frequency_penalty", "reasoning_effort", "user", "safety_identifier"),
)
"""Fields of a row that belong into the request."""


def events(row: dict[str, Any], terms: Terms) -> Events:
    """A completion and its feedback; of a preference row two completions."""
    row = {key: parsed(value) for key, value in row.items()}
    if "preferred_output" in row:
        return _preference(row, terms)
    made = completion(terms, _conversation(row))
    return [made, *_ratings(row, terms, {"completion_id": made.completion_id})]


def _ratings(row: dict[str, Any], terms: Terms, target: dict[str, str | None]) -> Events:
    given = row.get("feedback") or []
    items = given if isinstance(given, list) else [given]
    if not all(isinstance(item, dict) for item in items):
        raise Refused("`feedback` is an object or a list of objects")
    return [feedback(terms, target, item) for item in items]


def _conversation(row: dict[str, Any]) -> Conversation:
    if isinstance(row.get("response"), dict):
        return _call(row)
    if isinstance(row.get("choices"), list):
        return _call({**row, "response": row})
    if "prompt" in row:
        return _pair(row)
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("there are no `messages`")
    text = next((row[key] for key in ("response", "completion", "answer") if row.get(key)), None)
    if text is not None:
        return _made(row, messages, text if isinstance(text, dict) else {"content": text})
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise Refused("there is no answer: the last message is not the assistant's")
    answer = {key: value for key, value in last.items() if key not in ("role", "weight")}
    # A weight of 0 marks an answer that is context only, not to be learned.
    return _made(row, messages[:-1], answer, trainable=last.get("weight") != 0)


def _pair(row: dict[str, Any]) -> Conversation:
    prompt = row["prompt"]
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    text = next((row[key] for key in ("completion", "response", "answer") if row.get(key)), None)
    if text is None or not prompt:
        raise Refused("there is no answer: neither `completion` nor `response` beside `prompt`")
    last = text[-1] if isinstance(text, list) and text else text
    return _made(row, messages, last if isinstance(last, dict) else {"content": last})


def _call(row: dict[str, Any]) -> Conversation:
    request, response = _body(row.get("request") or row), _body(row["response"])
    if response.get("error"):
        raise Refused(f"the call failed: {response['error']}"[:300])
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    choice = first if isinstance(first, dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Refused("there is no answer: `choices` holds no message")
    around = {**row, **request, "model": request.get("model") or response.get("model")}
    around.setdefault("created", response.get("created"))
    around["id"] = row.get("id") or row.get("custom_id") or response.get("id")
    return _made(
        around, request.get("messages") or [], message,
        finish_reason=choice.get("finish_reason"), usage=response.get("usage"),
    )  # fmt: skip


def _body(side: Any) -> dict[str, Any]:
    side = side.get("body", side) if isinstance(side, dict) else side
    if not isinstance(side, dict):
        raise Refused("`request` and `response` are objects")
    return side


def _made(
    row: dict[str, Any], messages: list[Any], answer: dict[str, Any], **more: Any
) -> Conversation:
    user = row.get("user") or row.get("safety_identifier")
    return Conversation(
        messages=messages,
        answer={key: value for key, value in answer.items() if key != "role"},
        source_id=_name(row.get("id")),
        request={key: row[key] for key in REQUEST if row.get(key) is not None},
        at=row.get("created") or row.get("created_at") or row.get("timestamp"),
        unit=_name(user),
        conversation_id=_name(row.get("conversation_id")),
        request_id=_name(row.get("request_id")),
        **more,
    )


def _name(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def _preference(row: dict[str, Any], terms: Terms) -> Events:
    asked = row.get("input")
    if not isinstance(asked, dict):
        raise Refused("`input` is an object with `messages`")
    made = []
    for side in ("preferred_output", "non_preferred_output"):
        output = row.get(side)
        answer = output[-1] if isinstance(output, list) and output else output
        if not isinstance(answer, dict):
            raise Refused(f"there is no answer in `{side}`")
        both = {**row, **asked, "id": f"{row['id']}/{side}" if row.get("id") else None}
        made.append(completion(terms, _made(both, asked.get("messages") or [], answer)))
    liked, other = (each.completion_id for each in made)
    target: dict[str, str | None] = {"completion_id": liked, "other_completion_id": other}
    return [*made, feedback(terms, target, {"name": "preference", "kind": "preference"})]
