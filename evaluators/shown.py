"""An answer and its conversation as a labeller sees them: all of it, and not who answered.

Neither version nor arm, nor what a judge, a grader or a user thought of it: a label that was told
the answer proves nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from everlearn.chat import split_thinking
from everlearn.lake.store import Lake
from everlearn.prompts import conversation, message_text
from everlearn.tolerant import UNREADABLE, loads

_SQL = """
SELECT completion_id, messages, tools, answer, response_text FROM completions
WHERE completion_id = ? AND task = ? LIMIT 1
"""
_FOLDED = frozenset({"system", "developer", "tool", "function"})
"""Roles that people read only when they must."""


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: str
    text: str
    thinking: str | None = None
    calls: list[str] = field(default_factory=list)
    """Tool calls: name and arguments."""
    folded: bool = False


@dataclass(frozen=True)
class Shown:
    """What is put before a labeller."""

    completion_id: str
    turns: list[Turn]
    tools: list[str]
    """Offered: name and description."""
    answer: Turn


def shown(lake: Lake, task: str, completion_id: str) -> Shown | None:
    """By its id, whatever else is in the lake; None: the answer is not there."""
    rows = lake.read(_SQL, [completion_id, task]).to_pylist()
    if not rows or rows[0]["response_text"] is None:
        return None
    return told(rows[0])


def told(row: Mapping[str, Any]) -> Shown:
    """A row of `completions`, whatever its client and its server wrote there."""
    return Shown(
        row["completion_id"],
        [_turn(message) for message in conversation(_read(row["messages"], []))],
        [_tool(each) for each in _list(_read(row["tools"], []))],
        _answer(_read(row["answer"], None), row["response_text"] or ""),
    )


def _answer(message: Any, text: str) -> Turn:
    if not isinstance(message, Mapping):
        return _said("assistant", text, None, [])
    found = _turn({"role": "assistant", **message})
    # What several choices or a refusal come to is in the text that people saw.
    return found if found.text or found.calls else Turn("assistant", text, found.thinking)


def _turn(message: Mapping[str, Any]) -> Turn:
    content = message.get("content")
    text = message_text(content)
    if not text and content:
        text = json.dumps(content, ensure_ascii=False)
    text = text or str(message.get("refusal") or "")
    thinking = message.get("reasoning") or message.get("reasoning_content")
    calls = [_call(each) for each in _list(message.get("tool_calls"))]
    return _said(str(message.get("role", "")), text, thinking, calls)


def _said(role: str, text: str, thinking: Any, calls: list[str]) -> Turn:
    within, spoken = split_thinking(text) if role == "assistant" else (None, text)
    told = thinking if isinstance(thinking, str) else within
    return Turn(role, spoken, told, calls, folded=role in _FOLDED)


def _call(call: Any) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return json.dumps(call, ensure_ascii=False)
    arguments = function.get("arguments")
    told = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"{function.get('name')}({told})"


def _tool(tool: Any) -> str:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return json.dumps(tool, ensure_ascii=False)
    return f"{function.get('name')}: {function.get('description') or ''}"


def _read(text: str | None, otherwise: Any) -> Any:
    try:
        return otherwise if text is None else loads(text)
    except UNREADABLE:
        return text


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
