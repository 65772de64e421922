"""How users and the analyst behave, live and simulated alike."""

from dataclasses import dataclass

MAX_TOKENS = 64
"""Asked for at most; right answers have up to 30."""


@dataclass(frozen=True)
class People:
    """How users and the analyst behave."""

    jargon_share: float = 0.6
    stream_share: float = 0.5
    thumbs_share: float = 1 / 3
    wrong_thumbs: float = 0.05
    """Of the thumbs given."""
    max_questions: int = 3
    """Of one user, one after the other."""
    think_seconds: float = 0.5
    """Mean, before feedback and before the next question."""
    temperature: float = 0.7
    """What applications send; without any variety nobody ever sees a better answer."""
    review_share: float = 0.2
    """Of all answers, by the analyst, until `max_corrections` are given."""
    max_corrections: int = 100


PEOPLE = People()
