"""Feedback as the clients of other tools send it: each format is a translation into ours.

What is translated goes the one way that all feedback goes (`intake.py`): the same authority,
limits, idempotency and scales hold, and the same event comes of it. Only the words differ, those of
errors included.
"""

from gateway.feedback_formats.format import Format
from gateway.feedback_formats.helicone import Helicone
from gateway.feedback_formats.langfuse import Langfuse, LangfuseIngestion
from gateway.feedback_formats.phoenix import Phoenix
from gateway.feedback_formats.portkey import Portkey
from gateway.feedback_formats.tensorzero import TensorZero

FORMATS: tuple[Format, ...] = (
    Langfuse(),
    LangfuseIngestion(),
    TensorZero(),
    Phoenix(),
    Helicone(),
)
"""Each with a path of its own."""
PORTKEY = Portkey()
"""Shares our path, and is told by what is sent."""
