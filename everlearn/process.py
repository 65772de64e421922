"""One program of a stack: what it is called, what starts it, how one sees that it works."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Process:
    """One supervised program; `wave` orders the start (equal waves start together)."""

    name: str
    command: tuple[str, ...]
    wave: int
    address: str | None = None
    """Shown to people once it answers."""
    ready: str | None = None
    """URL that answers 2xx, or tcp:// that accepts, when the process can work; None: alive."""
    environment: dict[str, str] = field(default_factory=dict)
    start_timeout_seconds: float = 900.0
    """Until it answers."""
    setting: str | None = None
    """Which setting of the config moves its port."""
    login: Callable[[], str] | None = None
    """Who may enter, asked once it answers."""
