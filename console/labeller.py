"""Who sits before a label page: the session of his browser, and the name that he wrote there."""

import secrets
from collections.abc import Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import quote, unquote

from fastapi import Request
from fastapi.responses import Response

from evaluators.queue import Taken
from everlearn.errors import EverlearnError, InputError, NotFound

NAME, SESSION = "everlearn_labeller", "everlearn_labeller_session"
KEPT_SECONDS = 365 * 86_400
MAX_NAME = 256

Form = Mapping[str, str]
Answer = TypeVar("Answer", bound=Response)


class Labeller(NamedTuple):
    """Who sits before the page."""

    session: str
    """Of the browser: holds the answer that is shown."""
    name: str
    """As he wrote it."""


def labeller(request: Request, form: Form | None = None) -> Labeller:
    """Of a request; his name as the form has it, else as the browser remembers it."""
    session = request.cookies.get(SESSION, "")[:64] or secrets.token_urlsafe(12)
    name = unquote(request.cookies.get(NAME, "")) if form is None else form.get("author_id", "")
    return Labeller(session, name.strip()[:MAX_NAME])


def remembered(answer: Answer, who: Labeller) -> Answer:
    """The answer, with which the browser remembers him."""
    for key, value in ((SESSION, who.session), (NAME, who.name)):
        if value:
            answer.set_cookie(
                key, quote(value), max_age=KEPT_SECONDS, httponly=True, samesite="strict"
            )
    return answer


def status_of(error: EverlearnError) -> int:
    """409: somebody else's by now; 422: the form contradicts itself; 502: the gateway."""
    if isinstance(error, Taken | NotFound):
        return 409
    return 422 if isinstance(error, InputError) else 502
