"""What moves traffic, done as the verb of the command line, in a process of its own.

A button is no second way: the verb refuses what somebody else has moved meanwhile (`--expect`), and
its line is what the page says.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from everlearn.errors import EverlearnError, InputError

REFUSED = (2, 3)
"""Exit codes of what will not be done as asked: bad input, too little evidence."""
TIMEOUT_SECONDS = 120.0
"""MLflow's client alone takes long to load on a busy machine."""


class NotMoved(EverlearnError, OSError):
    """The verb could not be done just now."""

    exit_code = 4


def run(config: Path, *words: str) -> str:
    """`everlearn WORDS`, its line; InputError where it refuses, NotMoved where it cannot."""
    command = (sys.executable, "-m", "everlearn", *words, "--config", str(config))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NotMoved(f"{words[0]}: no answer after {TIMEOUT_SECONDS:g} s") from error
    if done.returncode == 0:
        return done.stdout.strip()
    reason = _last(done.stderr) or f"ended with {done.returncode}"
    raise (InputError if done.returncode in REFUSED else NotMoved)(reason)


def _last(text: str) -> str:
    lines: Sequence[str] = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ").strip()[:1000] if lines else ""
