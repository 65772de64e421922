"""Passwords are cut out of what people and logs are shown."""

import re
from typing import Any

_PASSWORD = re.compile(
    r"""(?P<name>(?:password|secret)['"]?\s*[=:]\s*)     # password=..., sasl_plain_password: ...
        (?:''.*?''|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"]+)
      | (?P<user>://[^:/@\s]*:)[^/@\s]+(?=@)             # ://user:...@host
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NAME = re.compile(r"(?:password|secret)$", re.IGNORECASE)
HIDDEN = "***"


def without_passwords(text: str) -> str:
    """`text` with `***` for every password of a connection string, an address or a setting."""
    return _PASSWORD.sub(lambda found: f"{found['name'] or found['user']}{HIDDEN}", text)


def shown(value: Any, name: str = "") -> Any:
    """What JSON or YAML can hold, with `***` for every password in it."""
    if isinstance(value, dict):
        return {key: shown(each, str(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [shown(each, name) for each in value]
    if isinstance(value, str):
        return HIDDEN if value and _NAME.search(name) else without_passwords(value)
    return value
