"""The output items of a Responses stream, as the events of real servers tell them.

- An item is known by its ids, else by its place, else by its kind: proxies leave out the first two,
  or count every item as number 0.
- What an event leaves out or empties takes back nothing that one before it said.
- The last event repeats the output; where it says less than the events did, they count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from collector.message import plain
from collector.openai_json import Output, Response

_KINDS = {
    "response.output_text": "message",
    "response.refusal": "message",
    "response.reasoning": "reasoning",
    "response.function_call_arguments": "function_call",
    "response.custom_tool_call_input": "custom_tool_call",
}
"""What an item is that was not announced, by how the names of its events begin."""


@dataclass(slots=True)
class _Item:
    """One item as it grows."""

    item: Output
    place: int | None
    names: set[Any] = field(default_factory=set)
    done: bool = False
    texts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def told(self, item: Output) -> None:
        """All of it, as far as the event says."""
        for name in Output.__struct_fields__:
            if (value := getattr(item, name)) not in (None, "", []):
                setattr(self.item, name, value)

    def is_meant(self, names: set[Any], place: int | None, kind: str) -> bool:
        """Whether an event is about it that names an item so."""
        if names & self.names:
            return True
        if names and self.names and self.done:
            return False
        near = self.place == place or self.place is None or place is None
        return near and self.item.type == kind

    def whole(self) -> Output:
        """As it would have come whole."""
        item, text, refusal = self.item, "".join(self.texts), "".join(self.refusals)
        if item.type == "reasoning":
            item.summary = item.summary or item.content or text
        elif item.type == "function_call":
            item.arguments = item.arguments or text
        elif item.type == "custom_tool_call":
            item.input = item.input or text
        elif item.type == "message" and not item.content:
            item.content = [{"type": "output_text", "text": text}] if text else []
            if refusal:
                item.content.append({"type": "refusal", "refusal": refusal})
        return item


class Items:
    """Everything that the events of one stream have said so far."""

    def __init__(self) -> None:
        self._items: list[_Item] = []

    def add(self, event: Response) -> None:
        """An event; one that is about no item is passed over."""
        kind = event.type or ""
        if event.item is not None and kind.startswith("response.output_item"):
            found = self._meant(event, event.item.type or "message")
            found.told(event.item)
            found.done |= kind.endswith(".done")
            return
        of = next((item for begins, item in _KINDS.items() if kind.startswith(begins)), None)
        again = kind.endswith(".done")
        said = _repeated(event) if again else event.delta
        if of is None or not isinstance(said, str) or not said:
            return
        found = self._meant(event, of)
        pieces = found.refusals if kind.startswith("response.refusal") else found.texts
        if not again or not "".join(pieces).endswith(said):
            pieces.append(said)

    def output(self, last: Sequence[Output] | None) -> list[Output]:
        """The items, where `last` is what the last event says they are."""
        found = [each.whole() for each in sorted(self._items, key=_place)]
        told = list(last or ())
        return told if told and sum(map(_says, found)) <= sum(map(_says, told)) else found

    def _meant(self, event: Response, kind: str) -> _Item:
        """The item that an event is about; a new one where it is none of those there are."""
        item = event.item
        said = (event.item_id,) if item is None else (item.id, item.call_id)
        names = {name for name in said if isinstance(name, str) and name}
        place = event.output_index
        among = (each for each in reversed(self._items) if each.is_meant(names, place, kind))
        found = next(among, None)
        if found is None:
            found = _Item(Output(type=kind), place)
            self._items.append(found)
        found.names |= names
        return found


def _repeated(event: Response) -> Any:
    return event.text or event.refusal or event.arguments or event.input


def _place(item: _Item) -> int:
    return 0 if item.place is None else item.place


def _says(item: Output) -> bool:
    """Whether something was said or called."""
    if item.type in ("message", None):
        parts = item.content if isinstance(item.content, list) else [item.content]
        return any(plain(part) for part in parts)
    return item.type != "reasoning"
