"""`{{ item.reference }}` and `{{ sample.output_text }}`: two namespaces, no logic, no defaults.

A name that is not known or null is a GraderError: an empty string in its place would be graded.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.types import Item, Sample
from everlearn.errors import ConfigError, GraderError

_PATH = re.compile(r"^(item|sample)((?:\.[\w-]+|\[[0-9]+\])+)$")
_STEP = re.compile(r"\.([\w-]+)|\[([0-9]+)\]")
_INDEX = re.compile(r"[0-9]{1,9}$")
MAX_TEMPLATE = 1 << 18
"""Characters of a template."""
MAX_RENDERED = 1 << 22
"""Characters of what it becomes."""
SAMPLE_FIELDS = ("output_text", "output_json", "output_tools", "choices")


class Unknown(GraderError):
    """The template names something that is not known for this item (yet)."""


class Template:
    """A parsed template; `names` are the paths it reads."""

    def __init__(self, text: str, where: str) -> None:
        """Parse; ConfigError naming `where` on a bad placeholder."""
        if len(text) > MAX_TEMPLATE:
            raise ConfigError(f"{where}: {len(text)} characters; at most {MAX_TEMPLATE}")
        first, *fields = text.split("{{")
        self._literals, self._paths = [first], []
        for field in fields:
            path, closed, literal = field.partition("}}")
            if not closed:
                raise ConfigError(f"{where}: a {{{{ without }}}} in {text!r:.200}")
            self._paths.append(_parse(path.strip(), where))
            self._literals.append(literal)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(_written(path) for path in self._paths)

    def render(self, sample: Sample, item: Item) -> str:
        """The text with every placeholder filled; Unknown when one is not known."""
        values = self.values(sample, item)
        return self._joined([values[_written(path)] for path in self._paths])

    @property
    def named(self) -> str:
        """The text with `[item.reference]` where the value belongs."""
        return self._joined([f"[{_written(path)}]" for path in self._paths])

    def values(self, sample: Sample, item: Item) -> dict[str, str]:
        """What the placeholders stand for, by name; Unknown when one is not known."""
        found: dict[str, str] = {}
        size = 0
        for path in self._paths:
            name, text = _written(path), _text(_lookup(path, sample, item))
            size += len(text)
            if size > MAX_RENDERED:
                raise GraderError(f"{name}: more than {MAX_RENDERED} characters to grade")
            found[name] = text
        return found

    def _joined(self, texts: Sequence[str]) -> str:
        pairs = zip(texts, self._literals[1:], strict=True)
        return self._literals[0] + "".join(text + literal for text, literal in pairs)


def _parse(path: str, where: str) -> tuple[str, ...]:
    found = _PATH.match(path)
    if found is None:
        raise ConfigError(
            f"{where}: {{{{ {path} }}}} is not item.NAME or sample.NAME (NAME.NAME and [0] go on)"
        )
    steps = tuple(name or index for name, index in _STEP.findall(found[2]))
    if found[1] == "sample" and steps[0] not in SAMPLE_FIELDS:
        raise ConfigError(
            f"{where}: sample.{steps[0]} does not exist; there are: {', '.join(SAMPLE_FIELDS)}"
        )
    return (found[1], *steps)


def _written(path: tuple[str, ...]) -> str:
    return ".".join(path)


def _lookup(path: tuple[str, ...], sample: Sample, item: Item) -> Any:
    value: Any = item if path[0] == "item" else getattr(sample, path[1])
    for step in path[1:] if path[0] == "item" else path[2:]:
        value = _step(value, step)
    if value is None:
        raise Unknown(f"{_written(path)} is not known")
    return value


def _step(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, Sequence) and not isinstance(value, str) and _INDEX.match(step):
        return value[int(step)] if int(step) < len(value) else None
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
