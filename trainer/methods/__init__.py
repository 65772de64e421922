"""Methods of the same shape: what each needs of the data, and the TRL trainer it builds.

`auto` orders them by cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.lessons.rows import AUTHOR
from trainer.rows import LEARNED, Row
from trainer.workbench import Workbench


@dataclass(frozen=True)
class TrainingData:
    """The training side of a snapshot, by what methods ask for."""

    rows: tuple[Row, ...]
    reference: bool = True
    """Whether RFT's reward compares with a right answer."""
    served: Path | None = None
    """The champion's adapter; None: the base model answers."""

    @cached_property
    def learned(self) -> list[Row]:
        """Rows with a target."""
        return [row for row in self.rows if row.kind in LEARNED and row.target is not None]

    @cached_property
    def rejected(self) -> list[Row]:
        """Answers somebody said are wrong, corrected ones included."""
        return [row for row in self.rows if row.kind in ("rejected", "correction")]

    @cached_property
    def hindsight(self) -> list[Row]:
        """Logged answers that comments are about, with the rules."""
        return [row for row in self.rows if row.kind == "hindsight" and row.rules]

    @cached_property
    def replay(self) -> list[Row]:
        """Ordinary answers of the champion."""
        return [row for row in self.rows if row.kind == "replay"]

    @property
    def contrasted(self) -> bool:
        """Whether those are prompts that rules of comments were found to leave as they are."""
        return any(row.author == AUTHOR for row in self.replay)


Reward = Callable[[Sequence[Row]], Any]
"""TRL's reward function over these rows."""


@dataclass(frozen=True)
class Method:
    """One way of learning."""

    name: str
    cost: float
    """Wall time against SFT's, measured on two cores: how `auto` plans its budget."""
    lacking: Callable[[TrainingData], str | None]
    """Why the data does not allow it; None if it does."""
    build: Callable[[TrainingData, Workbench, Reward], Any]
    """A TRL trainer, ready to train."""


def too_few(found: int, needed: int, what: str) -> str | None:
    """`found 3 < 10 what`, or None."""
    return None if found >= needed else f"{found} {what} < {needed}"
