"""What stands in Kafka beyond the lake."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backlog:
    """What is in Kafka and not in the lake; whose events these are is not known."""

    records: int
    lag_seconds: float


NOTHING_WAITS = Backlog(0, 0.0)
UNKNOWN = Backlog(2**62, 0.0)
"""Kafka does not answer: everything that is not in the lake may be there, nothing is missing."""
