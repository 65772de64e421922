"""How pages are drawn: one environment, what every page is told, and how numbers are written."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from markupsafe import Markup
from starlette.types import Scope

from console.session import Person

NOBODY = Person("", "viewer")
NAV = (
    ("overview", "/", "Overview"),
    ("requests", "/requests", "Requests"),
    ("feedback", "/feedback", "Feedback"),
    ("labels", "/labels", "Labels"),
    ("judges", "/judges", "Judges"),
    ("datasets", "/datasets", "Datasets"),
    ("runs", "/runs", "Runs"),
    ("versions", "/versions", "Versions"),
    ("compare", "/compare", "Compare"),
    ("releases", "/releases", "Releases"),
    ("system", "/system", "System"),
)
_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))


def shared(request: Request) -> dict[str, Any]:
    """What every page is told."""
    here = request.url.path.split("/")[1] or "overview"
    return {"here": here, "nav": NAV, "person": whose(request.scope)}


def page(request: Request, name: str, status: int = 200, **content: Any) -> HTMLResponse:
    """The template `name.html` with what it is told."""
    return TEMPLATES.TemplateResponse(request, f"{name}.html", content, status)


def wants_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, which shows pages to people."""
    return "text/html" in headers.get("accept", "")


def whose(scope: Scope) -> Person:
    """Who was let in with this request."""
    found = scope.get("state", {}).get("person")
    return found if isinstance(found, Person) else NOBODY


def csrf(request: Request) -> str:
    """What a form of this page must send along as `csrf`."""
    return str(request.scope.get("state", {}).get("csrf", ""))


def csrf_field(request: Request) -> Markup:
    """The hidden field that every form needs."""
    return Markup('<input type="hidden" name="csrf" value="{}">').format(csrf(request))


def number(value: Any, digits: int = 0) -> str:
    """1 234 567, with thin spaces; a dash for what is no number."""
    return "–" if not isinstance(value, int | float) else f"{value:,.{digits}f}".replace(",", " ")


def share(value: float | None, digits: int = 1) -> str:
    """0.123 as 12.3 %."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def span(seconds: float | None) -> str:
    """90 as 2 min; one unit is enough to know how long."""
    if seconds is None:
        return "–"
    for size, unit in _UNITS:
        if abs(seconds) >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(value: datetime | float | None) -> datetime | None:
    """Unix seconds or a time, as a time in UTC."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    return value


def when(value: datetime | float | None) -> Markup:
    """A point in time, to the second, in UTC."""
    at = moment(value)
    if at is None:
        return Markup("–")
    text = Markup('<time datetime="{}">{}</time>')
    return text.format(at.isoformat(timespec="seconds"), f"{at:%Y-%m-%d %H:%M:%S}")


def ago(value: datetime | float | None) -> Markup:
    """How long since; the point in time on hovering."""
    at = moment(value)
    if at is None:
        return Markup("never")
    passed = span(max(0.0, time.time() - at.timestamp()))
    return Markup('<time datetime="{0}" title="{0}">{1} ago</time>').format(
        at.isoformat(timespec="seconds"), passed
    )


def pretty(value: Any) -> str:
    """JSON for people; a text that is none as it is."""
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
    return str(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def score(value: float | None) -> Markup:
    """A score from 0 to 1, or that there is none."""
    if value is None:
        return Markup('<span class="quiet">unscored</span>')
    kind = "good" if value >= 0.5 else "bad"
    return Markup('<span class="{}">{}</span>').format(kind, f"{value:.2f}")


TEMPLATES = Jinja2Templates(Path(__file__).parent / "templates", context_processors=[shared])
TEMPLATES.env.filters |= {
    each.__name__: each for each in (number, share, span, when, ago, pretty, score)
}
TEMPLATES.env.globals |= {"csrf_field": csrf_field}
TEMPLATES.env.trim_blocks = TEMPLATES.env.lstrip_blocks = True
