"""What a judge goes by beside its own words: a text file beside the task file.

It is the operator's word and not data: `everlearn judges align` writes one, a person reads it and
names it in the task file.
"""

from pathlib import Path

from everlearn.errors import ConfigError
from everlearn.graders import Judging

MAX_CHARACTERS = 10_000
"""They are read with every answer."""


def guidelines(spec: Judging, folder: Path) -> str:
    """Those of a judge whose task file is in `folder`, empty without; ConfigError where they cannot
    be told."""
    if spec.guidelines is None:
        return ""
    path = folder / spec.guidelines
    where = f"grader {spec.name}: guidelines = {spec.guidelines!r}"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}: {path}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text at byte {error.start}") from error
    if problem := fault(text):
        raise ConfigError(f"{where}: {problem}")
    return text


def fault(text: str) -> str | None:
    """Why a text is no guidelines."""
    if not text.strip() or len(text) > MAX_CHARACTERS:
        return f"{len(text)} characters; 1 to {MAX_CHARACTERS} are taken"
    if "{{" in text:
        return "holds {{: guidelines are told as they are, nothing is filled in"
    return None


def guided(text: str, instruction: str) -> str:
    """The instruction, after the guidelines where there are any."""
    return f"Guidelines:\n{text}\n\n{instruction}" if text else instruction
