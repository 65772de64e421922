"""Who may come in: a token for every page and route, from the addresses it is served at.

- The token is new at each start, stands in a file that only this user reads, and is printed with
  the address. A browser brings it once as `?token=` and keeps it as a cookie; programs send it as
  `Authorization: Bearer`.
- Host and Origin are among the console's own names: neither a name bound anew to this machine nor a
  form on another site gets in.
- Nothing is framed, nothing inline is run, nothing is kept by the browser.
- `/health` says that the console lives, and nothing else, to anybody.
"""

import hmac
import os
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everlearn.config import Console, Service

OPEN = "/health"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_SAFE = ("GET", "HEAD")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def token_path(service: Service) -> Path:
    """The file that holds the token of the console that runs."""
    return service.data_path / "console.token"


def new_token(service: Service) -> str:
    """Make a token and write it where only this user reads it."""
    token, path = secrets.token_urlsafe(24), token_path(service)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(token)
    return token


def names(console: Console) -> frozenset[str]:
    """What the console may be called."""
    own = {console.host.strip("[]").lower()} - {"0.0.0.0", "::"}
    return frozenset(own.union(_LOOPBACK, (name.lower() for name in console.allowed_hosts)))


def problem(method: str, headers: Mapping[str, str], allowed: frozenset[str]) -> str | None:
    """Why a request may not even ask; None when it may."""
    host = _hostname(f"//{headers.get('host', '')}")
    if host not in allowed:
        return f"this console is not called {host!r}; console.allowed_hosts names what it is called"
    if method in _SAFE:
        return None
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return "posted from another site"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return "posted from another site"
    return None


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


class Door:
    """ASGI middleware in front of everything."""

    def __init__(self, app: ASGIApp, console: Console, token: str) -> None:
        self._app = app
        self._allowed = names(console)
        self._token = token
        # cookies know no ports: two consoles of a machine have one each
        self._cookie = f"everlearn_console_{console.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        answer = self._refused(scope)
        app = self._app if answer is None else answer

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await app(scope, receive, guarded)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["path"] == OPEN and scope["method"] in _SAFE:
            return JSONResponse({"status": "ok"})
        reason = problem(scope["method"], headers, self._allowed)
        if reason is not None:
            return _error(403, reason)
        kind, _, word = headers.get("authorization", "").partition(" ")
        if (kind.lower() == "bearer" and self._is(word.strip())) or self._is(self._kept(headers)):
            return None
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if scope["method"] == "GET" and self._is(query.pop("token", "")):
            return self._welcome(scope["path"], query)
        return _error(
            401,
            "open the address with the token that `everlearn console` or `everlearn up` printed, "
            "or send it as Authorization: Bearer TOKEN",
        )

    def _welcome(self, path: str, query: Mapping[str, str]) -> Response:
        # one slash: two would name another machine
        target = "/" + path.lstrip("/\\") + (f"?{urlencode(query)}" if query else "")
        answer = RedirectResponse(target, 303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return answer

    def _kept(self, headers: Headers) -> str:
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if kept is None else kept.value

    def _is(self, word: str) -> bool:
        return hmac.compare_digest(word.encode(), self._token.encode())


def _error(status: int, reason: str) -> Response:
    kind = "authentication_error" if status == 401 else "permission_error"
    body = {"message": reason, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": body}, status)
