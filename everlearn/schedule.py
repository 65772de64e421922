"""When a task's schedules run: checked here, so that a wrong one is no broken file of Airflow's."""

import re
from datetime import timedelta
from typing import Annotated

from croniter import croniter
from pydantic import AfterValidator

from everlearn.config import Section

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_PRESETS = ("@hourly", "@daily", "@weekly", "@monthly")
SHORTEST = timedelta(seconds=30)


def when(text: str) -> timedelta | str | None:
    """What a scheduler takes: a duration, a cron expression or preset, or None for never.

    ValueError for anything else.
    """
    if text == "never":
        return None
    if found := _DURATION.fullmatch(text):
        duration = timedelta(**{_UNITS[found[2]]: int(found[1])})
        if duration >= SHORTEST:
            return duration
    elif text in _PRESETS or (len(text.split()) == 5 and croniter.is_valid(text)):
        return text
    raise ValueError(
        f"{text!r}: allowed are a duration from 30s on, such as 10m, 2h or 1d; five fields of cron "
        f"in UTC, such as '30 3 * * *'; {', '.join(_PRESETS)}; never"
    )


def _checked(text: str) -> str:
    when(text)
    return text


When = Annotated[str, AfterValidator(_checked)]


class Schedule(Section):
    """When the task's DAGs run: `10m`, `2h`, `1d`, cron in UTC, `@daily`, `never`."""

    evaluate: When = "10m"
    """Score what is new and fill the label queue."""
    label: When = "1d"
    """Fill the label queue, and say how far each grader agrees with the experts."""
    drift: When = "1h"
    """Compare what is asked and answered with what was."""
    retrain: When = "2h"
    """Train a candidate and gate it, once `train.min_new_scores` are there; passed, release it."""
