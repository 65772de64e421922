"""TensorZero's inferences and feedback: `get_inferences`, or rows of its tables.

`output` is a list of content blocks (chat functions) or `{raw, parsed}` (JSON functions), either
as JSON or as text that holds it. Of feedback, booleans, floats, comments and demonstrations come;
what is given on an episode joins the conversation of that name.
"""

import json
from typing import Any

from collector.importing.rows import (
    Conversation,
    Events,
    Refused,
    Terms,
    completion,
    completion_id,
    feedback,
    parsed,
)


def events(row: dict[str, Any], terms: Terms) -> Events:
    """A completion, or one piece of feedback."""
    row = {key: parsed(value) for key, value in row.items()}
    if "input" not in row:
        return [_feedback(row, terms)]
    return [completion(terms, _inference(row))]


def _inference(row: dict[str, Any]) -> Conversation:
    source = row.get("inference_id") or row.get("id")
    if not isinstance(source, str):
        raise Refused("the row has neither `inference_id` nor `id`")
    asked = row["input"]
    if not isinstance(asked, dict):
        raise Refused("`input` is an object with `messages`")
    output = row.get("output")
    if not output:
        raise Refused("there is no answer: `output` is empty")
    tags = row.get("tags") if isinstance(row.get("tags"), dict) else {}
    request = {
        "model": row.get("variant_name"), "tools": _tools(row), "metadata": tags or None,
        **_sampling(row),
    }  # fmt: skip
    return Conversation(
        messages=_messages(asked),
        answer=_answer(output),
        source_id=source,
        request={key: value for key, value in request.items() if value is not None},
        at=row.get("timestamp"),
        latency_ms=float(row.get("processing_time_ms") or 0),
        unit=tags.get("user_id") or tags.get("user") if isinstance(tags, dict) else None,
        conversation_id=row.get("episode_id"),
    )


def _sampling(row: dict[str, Any]) -> dict[str, Any]:
    found = row.get("inference_params")
    chat = found.get("chat_completion") if isinstance(found, dict) else None
    names = ("temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty")
    return {name: chat.get(name) for name in names} if isinstance(chat, dict) else {}


def _tools(row: dict[str, Any]) -> list[Any] | None:
    params = row.get("tool_params")
    source = params if isinstance(params, dict) else row
    tools = source.get("tools_available") or source.get("additional_tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return None
    return [
        {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        for tool in tools
    ] or None


def _messages(asked: dict[str, Any]) -> list[Any]:
    system = asked.get("system")
    found: list[Any] = [{"role": "system", "content": _plain(system)}] if system else []
    for message in asked.get("messages") or ():
        if not isinstance(message, dict):
            raise Refused("a message of `input` is no object")
        found += _turn(str(message.get("role")), message.get("content"))
    return found


def _turn(role: str, content: Any) -> list[Any]:
    """One message; tool results in it are messages of their own."""
    blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
    results = [
        {"role": "tool", "tool_call_id": block.get("id"), "content": _plain(block.get("result"))}
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "tool_result"
    ]
    own = _answer(blocks)
    return [*results, *([{"role": role, **own}] if own.get("content") or len(own) > 1 else [])]


def _answer(output: Any) -> dict[str, Any]:
    if isinstance(output, dict):
        raw = output.get("raw")
        return {"content": raw if isinstance(raw, str) else _plain(output.get("parsed"))}
    if not isinstance(output, list):
        return {"content": _plain(output)}
    blocks = [block for block in output if isinstance(block, dict)]
    texts = [_plain(b.get("text", b.get("arguments"))) for b in blocks if b.get("type") == "text"]
    thoughts = [_plain(b.get("text")) for b in blocks if b.get("type") == "thought"]
    calls = [_call(block) for block in blocks if block.get("type") == "tool_call"]
    answer: dict[str, Any] = {"content": "\n".join(texts) or None}
    if thoughts:
        answer["reasoning"] = "\n".join(thoughts)
    if calls:
        answer["tool_calls"] = calls
    return answer


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = block.get("raw_arguments")
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {
            "name": block.get("raw_name") or block.get("name"),
            "arguments": _plain(block.get("arguments") if arguments is None else arguments),
        },
    }


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _feedback(row: dict[str, Any], terms: Terms) -> Any:
    source, value = str(row.get("id") or ""), row.get("value")
    given: dict[str, Any] = {"value": value, "occurred_at": row.get("timestamp")}
    target = row.get("target_id") or row.get("inference_id") or row.get("episode_id")
    if not isinstance(target, str):
        raise Refused("the row is neither an inference nor feedback with a `target_id`")
    if row.get("inference_id") and "metric_name" not in row:
        answer = _answer(value)
        text = answer.get("content") or json.dumps(answer.get("tool_calls"), ensure_ascii=False)
        given |= {"name": "demonstration", "kind": "correction", "value": text, "author": "expert"}
    elif "metric_name" in row:
        given["name"] = row["metric_name"]
    else:
        given |= {"name": "comment", "kind": "comment"}
    on_episode = row.get("target_type") == "episode" or row.get("episode_id") == target
    # The tables of metrics do not say of what the target is; a completion of ours is looked for.
    where: dict[str, str | None] = (
        {"conversation_id": target}
        if on_episode
        else {"completion_id": completion_id(terms, target)}
    )
    return feedback(terms, where, given, source_id=source)
