"""Passwords are cut out of what people and logs are shown."""

import re

_PASSWORD = re.compile(
    r"""(?P<name>(?:password|secret)['"]?\s*[=:]\s*)     # password=..., sasl_plain_password: ...
        (?:''.*?''|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"]+)
      | (?P<user>://[^:/@\s]*:)[^/@\s]+(?=@)             # ://user:...@host
    """,
    re.IGNORECASE | re.VERBOSE,
)
HIDDEN = "***"


def without_passwords(text: str) -> str:
    """`text` with `***` for every password of a connection string, an address or a setting."""
    return _PASSWORD.sub(lambda found: f"{found['name'] or found['user']}{HIDDEN}", text)
