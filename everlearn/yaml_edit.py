"""Adds to a YAML file that people write: what they wrote, comments and order included, stays as it
is. What is added stands in flow style, as JSON."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from everlearn.errors import ConfigError


def add(text: str, place: Sequence[str], item: Any) -> str:
    """The text with `item` at the end of the list at `place`, which is made where it is missing.

    ConfigError where the text cannot be edited without changing anything else.
    """
    wanted = _added(yaml.safe_load(text), place, item)
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise ConfigError("not a mapping of keys")
    edited = _edit(text, root, place, item)
    try:
        same = yaml.safe_load(edited) == wanted
    except yaml.YAMLError:
        same = False
    if not same:
        raise ConfigError(f"{'.'.join(place)} is written in a way that is not edited by a program")
    return edited


def replace_file(path: Path, text: str) -> None:
    """Whole or not at all, with the mode that it has."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.chmod(path.stat().st_mode & 0o777)
    os.replace(beside, path)


def _edit(text: str, node: yaml.MappingNode, place: Sequence[str], item: Any) -> str:
    found = next((value for key, value in node.value if key.value == place[0]), None)
    if found is None:
        inner: Any = [item]
        for name in reversed(place[1:]):
            inner = {name: inner}
        return _insert(text, node, f"{json.dumps(place[0])}: {_flow(inner)}")
    if len(place) > 1 and isinstance(found, yaml.MappingNode):
        return _edit(text, found, place[1:], item)
    if len(place) == 1 and isinstance(found, yaml.SequenceNode):
        return _insert(text, found, _flow(item) if found.flow_style else f"- {_flow(item)}")
    return text


def _insert(text: str, node: yaml.CollectionNode, words: str) -> str:
    """At the end of a mapping or a list: before its bracket, else on a line of its own."""
    if node.flow_style:
        at = node.end_mark.index - 1
        comma = ", " if node.value and not text[:at].rstrip().endswith(",") else ""
        return f"{text[:at]}{comma}{words}{text[at:]}"
    last = node.value[-1]
    end = _end(last[1] if isinstance(last, tuple) else last)
    line = text.find("\n", end)
    head, rest = (text, "") if line < 0 else (text[:line], text[line + 1 :])
    return f"{head}\n{' ' * node.start_mark.column}{words}\n{rest}"


def _end(node: yaml.Node) -> int:
    """Where the last thing in it ends: a block's own end lies beyond the comments after it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return int(node.end_mark.index) - 1
    return int(node.end_mark.index)


def _flow(item: Any) -> str:
    return json.dumps(item, ensure_ascii=False)


def _added(content: Any, place: Sequence[str], item: Any) -> Any:
    """What the file should hold then."""
    if not place:
        return [*(content or []), item]
    content = content if isinstance(content, dict) else {}
    return {**content, place[0]: _added(content.get(place[0]), place[1:], item)}
