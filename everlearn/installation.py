"""What one installation keeps for ever: the salt of the held-out hash.

Whoever knew the hash could choose a user id on the side of the exam that he likes. So the hash is
salted with a secret, made once and never changed: another salt would move rows that were taught
into the exam.

- It stands in the state store, and as a copy in `<data_dir>/heldout_salt` (mode 0600), so that a
  back-up of either brings it back.
- Where the two differ, nothing is split: ConfigError, which says how to mend it.
"""

import os
import re
import secrets
import tempfile
from contextlib import closing
from pathlib import Path

from everlearn.config import Service
from everlearn.errors import ConfigError
from everlearn.state import State, StateConflict, open_state

KIND, KEY = "installation", "heldout_salt"
_SALT = re.compile(r"[0-9a-f]{64}")


def heldout_salt(service: Service) -> str:
    """The salt of this installation, made at the first call."""
    path = service.data_path / KEY
    copy = _read(path)
    with closing(open_state(service)) as state:
        salt = _stored(state, copy or secrets.token_hex(32))
    if copy is None:
        _write(path, salt)
    elif copy != salt:
        raise ConfigError(
            f"{path} and the state store hold two salts of the held-out hash. It is never changed: "
            "rows that were taught would stand in the exam. Bring back the one of your back-up, or "
            "delete the file if this machine joins an installation that exists"
        )
    return salt


def _stored(state: State, proposed: str) -> str:
    """The state store's salt; `proposed` becomes it if there is none."""
    try:
        state.put(KIND, KEY, {"salt": proposed})
    except StateConflict:
        found = state.get(KIND, KEY)
        if found is not None:
            return str(found[0]["salt"])
        raise
    return proposed


def _read(path: Path) -> str | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    if not _SALT.fullmatch(text):
        raise ConfigError(f"{path}: is no salt (64 hexadecimal digits): bring back your back-up's")
    return text


def _write(path: Path, salt: str) -> None:
    """Whole or not at all, for this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each writer, threads of one process among them; mode 0600.
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(salt + "\n")
    os.replace(scratch, path)
