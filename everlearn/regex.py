"""Regular expressions of a config or a schema: a search takes time linear in the text.

Python's syntax, run by RE2. What RE2 cannot promise - backreferences, lookaround - is refused by
name. `\\d`, `\\w`, `\\s` mean what they mean in Python, for every script; `\\b`, and `\\W` and
`\\S` within brackets, know ASCII only.
"""

import re
import warnings
from typing import Any, Protocol, cast

MAX_LENGTH = 10_000
_TOKEN = re.compile(r"\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|\\.|\[\^?\]?|\]|\{,\d+\}|.", re.DOTALL)
_CLASS = {"\\d": r"\p{Nd}", "\\D": r"\P{Nd}", "\\w": r"\p{L}\p{M}\p{N}_", "\\s": r"\s\v\p{Z}"}
_NEGATED = {"\\W": _CLASS["\\w"], "\\S": _CLASS["\\s"]}


class Match(Protocol):
    """What is found."""

    def span(self) -> tuple[int, int]:
        """Where."""
        ...


class Pattern(Protocol):
    """A compiled pattern."""

    def finditer(self, text: str) -> Any:
        """Every match, from the left."""
        ...

    def search(self, text: str) -> Match | None:
        """The first match."""
        ...


def compile(pattern: str) -> Pattern:
    """ValueError that names the pattern and what is not supported."""
    import re2

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Python may read otherwise some day
            re.compile(pattern)
        if len(pattern) > MAX_LENGTH:
            raise re.error(f"longer than {MAX_LENGTH} characters")
        options = re2.Options()
        options.log_errors = False
        return cast(Pattern, re2.compile(_translated(pattern), options=options))
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else ""
        raise ValueError(
            f"{pattern[:80]!r} cannot be searched in linear time: {reason}; there are no "
            "backreferences (\\1) and no lookaround ((?=, (?!, (?<=, (?<!)"
        ) from error
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern[:80]!r} is not a regular expression: {error}") from error


def _translated(pattern: str) -> str:
    """Python's spelling in RE2's, where RE2 would read something else into it."""
    pieces, within = [], False
    for token in _TOKEN.findall(pattern):
        if token.startswith("[") and not within:
            within = True
            pieces.append(token.replace("]", "\\]"))
        elif token.startswith("[") and within:
            pieces.append("\\[" + ("" if len(token) == 1 else _rest(token)))
            within = not token.endswith("]")
        elif token == "]":
            within = False
            pieces.append(token)
        else:
            pieces.append(_translated_token(token, within))
    return "".join(pieces)


def _rest(token: str) -> str:
    """Of `[^` or `[]` inside a class, which are plain characters there."""
    return token[1:]


def _translated_token(token: str, within: bool) -> str:
    if token[:2] in ("\\u", "\\U"):
        return f"\\x{{{token[2:]}}}"
    if token == "\\Z" and not within:
        return "\\z"
    if token.startswith("{,"):
        return token if within else "{0" + token[1:]
    if token in _CLASS:
        single = token in ("\\d", "\\D")
        return _CLASS[token] if within or single else f"[{_CLASS[token]}]"
    if token in _NEGATED and not within:
        return f"[^{_NEGATED[token]}]"
    return token
