"""Tool calls: read out of a model's text as it writes them, or forced by a grammar.

Models that were taught tools by their chat template write `<tool_call>{"name", "arguments"}
</tool_call>` (Hermes, Qwen, SmolLM2). What is no JSON object with a name stays text. A forced call
(`tool_choice` required, or a function by name) is the bare JSON object, by grammar.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class Call:
    """One call, arguments as JSON text."""

    name: str
    arguments: str
    id: str

    def shown(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


def call_schema(tools: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any]:
    """The JSON schema of one call of any of the tools, or of the named one."""
    functions = [tool["function"] for tool in tools]
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
        if name in (None, function["name"])
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


class Reader:
    """Parts an answer's text, as it grows, into what is shown and the calls in it."""

    def __init__(self, *, forced: bool) -> None:
        self._forced = forced
        self._held = ""
        self.calls: list[Call] = []

    def feed(self, text: str, *, ended: bool) -> str:
        """More of the text; what of it may be shown now."""
        self._held += text
        if self._forced:
            return self._forced_end() if ended else ""
        shown = ""
        while (place := self._held.find(OPEN)) >= 0:
            close = self._held.find(CLOSE, place)
            if close < 0 and not ended:
                break
            call = _read(self._held[place + len(OPEN) : close if close >= 0 else None])
            shown += self._held[:place]
            rest = self._held[close + len(CLOSE) :] if close >= 0 else ""
            if call is None:
                shown += self._held[place : len(self._held) - len(rest)]
            else:
                self.calls.append(call)
            self._held = rest
        keep = 0 if ended else self._may_open()
        end = len(self._held) - keep
        shown, self._held = shown + self._held[:end], self._held[end:]
        # White space between calls is the template's, not the answer's.
        return shown if shown.strip() or not self.calls else ""

    def _may_open(self) -> int:
        """Characters at the end that belong to a call, or may begin one."""
        place = self._held.find(OPEN)
        if place >= 0:
            return len(self._held) - place
        sizes = range(min(len(OPEN) - 1, len(self._held)), 0, -1)
        return next((size for size in sizes if OPEN.startswith(self._held[-size:])), 0)

    def _forced_end(self) -> str:
        call, text = _read(self._held), self._held
        self._held = ""
        if call is None:
            return text
        self.calls.append(call)
        return ""


def _read(text: str) -> Call | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Call(found["name"], arguments, f"chatcmpl-tool-{uuid4().hex[:16]}")
