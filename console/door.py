"""Who may come in, as whom, and what he may do.

- A key of role viewer, service, expert or operator signs in and is a viewer, labeller or operator
  here; the token of the start, which stands in a file that only this user reads, is an operator.
  A browser keeps a session cookie; programs send key or token as `Authorization: Bearer`.
- Host and Origin are among the console's own names: neither a name bound anew to this machine nor a
  form on another site gets in. A change of a session brings the session's token along (`csrf`).
- Every change is written down (`audit`), before it is made and with its outcome.
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

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.audit import Audit
from console.render import page, wants_page
from console.session import OWNER, Keys, Person, Role, Sessions, person
from everlearn.config import Console, Service
from everlearn.errors import StateError

OPEN = "/health"
SIGN_IN = "/signin"
STATIC = "/static/"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
        "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # Not no-referrer: a browser then posts our own forms with the origin null.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
MAX_FORM_BYTES = 2**20
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


def needed(method: str, path: str) -> Role:
    """The role that a request asks for."""
    if method in _SAFE or path == "/signout":
        return "viewer"
    return "labeller" if path.startswith(("/labels/", "/v1/")) else "operator"


def changes(method: str, path: str) -> bool:
    """Whether the request is written down: the grader routes change nothing."""
    return method not in _SAFE and not path.startswith("/v1/")


class Door:
    """ASGI middleware in front of everything."""

    def __init__(
        self, app: ASGIApp, *, console: Console, token: str, keys: Keys, sessions: Sessions,
        audit: Audit,
    ) -> None:  # fmt: skip
        self._app = app
        self._allowed = names(console)
        self._token = token
        self._keys, self._sessions, self._audit = keys, sessions, audit
        # cookies know no ports: two consoles of a machine have one each
        self._cookie = f"everlearn_console_{console.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
            await send(message)

        await self._enter(scope, receive, guarded)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer it here."""
        headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
        scope.setdefault("state", {})
        if path == OPEN and method in _SAFE:
            return await JSONResponse({"status": "ok"})(scope, receive, send)
        reason = problem(method, headers, self._allowed)
        if reason is not None:
            return await _refusal(scope, 403, reason)(scope, receive, send)
        if path.startswith(STATIC) and method in _SAFE:
            return await self._app(scope, receive, send)
        if path == SIGN_IN and method == "POST":
            answer = await self._sign_in(scope, await _body(receive))
            return await answer(scope, receive, send)
        try:
            known = await run_in_threadpool(self._known, headers)
        except StateError as error:
            return await _refusal(scope, 503, str(error))(scope, receive, send)
        if known is None:
            return await self._stranger(scope)(scope, receive, send)
        scope["state"] |= {"person": known, "csrf": self._sessions.csrf(known.session)}
        if not known.may(needed(method, path)):
            reason = f"this needs the role {needed(method, path)}; {known.name} is {known.role}"
            return await _refusal(scope, 403, reason)(scope, receive, send)
        if method in _SAFE:
            return await self._app(scope, receive, send)
        await self._change(scope, receive, send, known)

    async def _change(self, scope: Scope, receive: Receive, send: Send, known: Person) -> None:
        """A request that may change something: the session's token, then the audit around it."""
        body = await _body(receive)
        if body is None:
            return await _refusal(scope, 413, "the form is too long")(scope, receive, send)
        if known.session and not self._is_meant(scope, known, body):
            reason = "the form has no token of this session: open the page anew and send it again"
            return await _refusal(scope, 403, reason)(scope, receive, send)
        if scope["path"] == "/signout":
            return await self._sign_out(known)(scope, receive, send)
        if not changes(scope["method"], scope["path"]):
            return await self._app(scope, _again(body, receive), send)
        action = f"{scope['method']} {scope['path']}"[:500]
        try:
            row = await run_in_threadpool(self._audit.asked, known.name, known.role, action)
        except StateError as error:
            return await _refusal(scope, 503, f"not done: {error}")(scope, receive, send)
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, _again(body, receive), noted)
        finally:
            told = {"outcome": "done" if status < 400 else "refused", "task": None}
            told |= scope["state"].get("audit", {})
            await run_in_threadpool(self._audit.told, row, status=status, **told)

    def _is_meant(self, scope: Scope, known: Person, body: bytes) -> bool:
        headers = Headers(scope=scope)
        given = headers.get("x-csrf-token")
        if given is None and "urlencoded" in headers.get("content-type", ""):
            given = dict(parse_qsl(body.decode("latin-1"))).get("csrf")
        expected = self._sessions.csrf(known.session)
        return given is not None and hmac.compare_digest(given.encode(), expected.encode())

    def _known(self, headers: Headers) -> Person | None:
        """Who asks, by header or cookie."""
        kind, _, word = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._holder(word.strip())
        cookie = self._kept(headers)
        name = self._sessions.name(cookie) if cookie else None
        if name is None:
            return None
        if name == OWNER:
            return Person(OWNER, "operator", session=cookie)
        key = self._keys.named(name)
        return None if key is None else person(key, cookie)

    def _holder(self, secret: str) -> Person | None:
        if hmac.compare_digest(secret.encode(), self._token.encode()):
            return Person(OWNER, "operator")
        key = self._keys.of(secret)
        return None if key is None else person(key)

    def _stranger(self, scope: Scope) -> Response:
        """The way in: the token in the address, else the page to sign in."""
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        given = query.pop("token", "")
        if scope["method"] == "GET" and hmac.compare_digest(given.encode(), self._token.encode()):
            return self._welcome(scope, OWNER, _local(scope["path"], query))
        target = _local(scope["path"], query) if scope["method"] == "GET" else "/"
        if wants_page(Headers(scope=scope)):
            target = "/" if scope["path"] == SIGN_IN else target
            return page(Request(scope), "signin", 401, target=target)
        reason = (
            "open the address with the token that `everlearn console` or `everlearn up` printed, "
            "or send it, or a key, as Authorization: Bearer KEY"
        )
        return _refusal(scope, 401, reason)

    async def _sign_in(self, scope: Scope, body: bytes | None) -> Response:
        form = dict(parse_qsl((body or b"").decode(errors="replace")))
        try:
            known = await run_in_threadpool(self._holder, form.get("key", "").strip())
        except StateError as error:
            return _refusal(scope, 503, str(error))
        path, _, query = form.get("target", "/").partition("?")
        target = _local(path, dict(parse_qsl(query)))
        if known is None:
            wrong = (
                "This key opens nothing here: it is unknown, was revoked, or is an application's."
            )
            return page(Request(scope), "signin", 401, target=target, wrong=wrong)
        return self._welcome(scope, known.name, target)

    def _welcome(self, scope: Scope, name: str, target: str) -> Response:
        answer = RedirectResponse(target, 303)
        secure = scope.get("scheme") == "https"
        answer.set_cookie(
            self._cookie, self._sessions.begin(name), httponly=True, samesite="strict",
            secure=secure,
        )  # fmt: skip
        return answer

    def _sign_out(self, known: Person) -> Response:
        self._sessions.end(known.session)
        answer = RedirectResponse(SIGN_IN, 303)
        answer.delete_cookie(self._cookie)
        return answer

    def _kept(self, headers: Headers) -> str:
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if kept is None else kept.value


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _local(path: str, query: Mapping[str, str]) -> str:
    """An address on this console."""
    # one slash: two would name another machine
    return "/" + path.lstrip("/\\") + (f"?{urlencode(query)}" if query else "")


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None when it is too long."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_FORM_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _refusal(scope: Scope, status: int, reason: str) -> Response:
    if wants_page(Headers(scope=scope)):
        return page(Request(scope), "error", status, title="Not done", reason=reason)
    kind = {401: "authentication_error", 503: "server_error"}.get(status, "permission_error")
    body = {"message": reason, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": body}, status)
