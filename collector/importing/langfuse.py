"""Langfuse's exports: observations (UI, API or blob storage, old and new names), scores, traces.

An observation of type GENERATION is a completion, one row each; spans and events are skipped. A
score joins the observation it names, else the trace (as the request), else the session. A trace
as downloaded (`{observations, scores}`) is all of these in one row.
"""

from typing import Any

from collector.importing.rows import (
    Conversation,
    Events,
    Refused,
    Skipped,
    Terms,
    completion,
    completion_id,
    feedback,
    parsed,
    seconds_between,
)

AUTHORS = {"ANNOTATION": "expert", "EVAL": "judge"}
"""A score's source -> who said it; what came over the API is the users'."""
GENERATIONS = ("GENERATION", "generation")


def events(row: dict[str, Any], terms: Terms) -> Events:
    """What one row of any of the tables holds."""
    row = {_snake(key): value for key, value in row.items()}
    if isinstance(row.get("observations"), list):
        return _trace(row, terms)
    if _is_score(row):
        return [_score(row, terms)]
    if row.get("type") not in GENERATIONS:
        raise Skipped(f"not a generation but {row.get('type') or 'a row without type'}")
    return [completion(terms, _generation(row))]


def _snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)


def _trace(row: dict[str, Any], terms: Terms) -> Events:
    found: Events = []
    about = {key: row.get(key) for key in ("user_id", "session_id")}
    for item in row["observations"]:
        if isinstance(item, dict) and item.get("type") in GENERATIONS:
            found += events({**about, "trace_id": row.get("id"), **item}, terms)
    if not found:
        raise Skipped("a trace without generations")
    for item in row.get("scores") or ():
        if isinstance(item, dict):
            found += events({"trace_id": row.get("id"), **item}, terms)
    return found


def _is_score(row: dict[str, Any]) -> bool:
    return "data_type" in row or ("value" in row and "name" in row and "input" not in row)


def _generation(row: dict[str, Any]) -> Conversation:
    asked, answered = parsed(row.get("input")), parsed(row.get("output"))
    if answered in (None, "", [], {}):
        level = row.get("status_message") or row.get("level") or ""
        raise Refused(f"there is no answer: `output` is empty {level}".strip())
    messages, request = _question(asked)
    usage = row.get("usage_details") or {}
    parameters = parsed(row.get("model_parameters"))
    if isinstance(parameters, dict):
        request = {**{k: v for k, v in parameters.items() if v is not None}, **request}
    model = row.get("provided_model_name") or row.get("model")
    return Conversation(
        messages=messages,
        answer=_answer(answered),
        source_id=_id(row, "id"),
        request={**request, **({"model": model} if model else {})},
        usage={
            "prompt_tokens": usage.get("input"), "completion_tokens": usage.get("output"),
        } if isinstance(usage, dict) and usage else None,
        at=row.get("start_time"),
        latency_ms=1000 * seconds_between(row.get("start_time"), row.get("end_time")),
        unit=row.get("user_id") or None,
        conversation_id=row.get("session_id") or None,
        request_id=row.get("trace_id") or None,
    )  # fmt: skip


def _id(row: dict[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str) or not row[key]:
        raise Refused(f"the row has no `{key}`")
    return str(row[key])


def _question(asked: Any) -> tuple[list[Any], dict[str, Any]]:
    """Messages, and what else of a request was logged as the input."""
    if isinstance(asked, list):
        return asked, {}
    if isinstance(asked, dict):
        messages = asked.get("messages")
        if isinstance(messages, list):
            return messages, {key: asked[key] for key in ("tools", "tool_choice") if asked.get(key)}
        if isinstance(asked.get("role"), str):
            return [asked], {}
    if isinstance(asked, str) and asked:
        return [{"role": "user", "content": asked}], {}
    raise Refused("there is no question: `input` holds neither messages nor text")


def _answer(answered: Any) -> dict[str, Any]:
    if isinstance(answered, list):
        answered = answered[-1]
    if isinstance(answered, dict):
        choices = answered.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            answered = choices[0].get("message", {})
        if any(key in answered for key in ("content", "tool_calls", "refusal")):
            return {key: value for key, value in answered.items() if key != "role"}
        # A structured output was logged parsed: its text is what the model said.
        import json

        return {"content": json.dumps(answered, ensure_ascii=False)}
    return {"content": str(answered)}


def _score(row: dict[str, Any], terms: Terms) -> Any:
    source = _id(row, "id")
    data_type = str(row.get("data_type") or "").upper()
    value = row.get("string_value") if row.get("string_value") is not None else row.get("value")
    kind = None
    if data_type == "BOOLEAN":
        number = row.get("value")
        value = bool(number) if isinstance(number, int | float) else str(value).lower() == "true"
    elif data_type == "NUMERIC":
        value = row.get("value")
    elif data_type == "CORRECTION":
        kind = "correction"
    elif data_type == "TEXT":
        kind = "comment"
    given = {
        "name": row.get("name"), "value": value, "kind": kind, "comment": row.get("comment"),
        "author": AUTHORS.get(str(row.get("source"))), "author_id": row.get("author_user_id"),
        "occurred_at": row.get("timestamp") or row.get("created_at"),
    }  # fmt: skip
    return feedback(terms, _target(row, terms), given, source_id=source)


def _target(row: dict[str, Any], terms: Terms) -> dict[str, str | None]:
    if row.get("observation_id"):
        return {"completion_id": completion_id(terms, row["observation_id"])}
    if row.get("trace_id"):
        return {"request_id": row["trace_id"]}
    if row.get("session_id"):
        return {"conversation_id": row["session_id"]}
    raise Refused("the score names no observation, trace or session")
