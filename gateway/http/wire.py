"""HTTP/1.1 heads and OpenAI error bodies as bytes. Pure: no IO, no state."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""

STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
UPGRADE = frozenset({b"connection", b"upgrade", b"http2-settings"})
NOT_TO_UPSTREAM = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    # The captured answer must be readable without knowing its encoding.
    b"accept-encoding",
    b"x-everlearn-unit",
    b"x-everlearn-conversation",
}
NOT_TO_UPSTREAM_WITH_KEY = NOT_TO_UPSTREAM | {b"authorization", b"api-key"}
NOT_TO_CLIENT = HOP_BY_HOP | {
    b"content-length",
    b"x-request-id",
    # Which pages may read an answer is the gateway's to say: twice said, browsers believe neither.
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-expose-headers",
}

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
}


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first value of that name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def header_lines(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes]) -> bytes:
    """`name: value` lines of all headers but those in `without` and those Connection names."""
    lines = []
    for name, value in headers:
        if name not in without:
            lines.append(name + b": " + value + b"\r\n")
        elif name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            without = without | {part.strip().lower() for part in value.split(b",")}
            return b"".join(b"%b: %b\r\n" % pair for pair in headers if pair[0] not in without)
    return b"".join(lines)


def chunk_start(length: int) -> bytes:
    """What `length` bytes start with if they are one chunk of HTTP/1.1, and not the last."""
    for digits in range(1, 9):
        size = length - digits - 4
        if size > 0 and len(b"%x" % size) == digits:
            return b"%x\r\n" % size
    return b"no chunk is so short"


def request_start(target: bytes, host: bytes, lines: bytes, method: bytes = b"POST") -> bytes:
    """The head of a request to an upstream but for its length; `lines` are header lines."""
    start = b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n%b"
    return start % (method, target, host, lines)


def request_head(target: bytes, host: bytes, lines: bytes, length: int | None) -> bytes:
    """The head of a POST of `length` bytes to an upstream, of a GET if None."""
    if length is None:
        return request_start(target, host, lines, b"GET") + b"\r\n"
    return request_start(target, host, lines) + b"content-length: %d\r\n\r\n" % length


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> bytes:
    """OpenAI's error shape."""
    error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


class Refusal(Exception):
    """A request that the gateway answers itself with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> bytes:
        """What the client is told."""
        kind = ERROR_TYPES.get(self.status, "server_error")
        return error_body(self.message, kind, self.code, self.param)

    def lines(self) -> bytes:
        """Header lines that go with it."""
        lines = b"content-type: application/json\r\n"
        if self.retry_after_seconds is not None:
            lines += b"retry-after: %d\r\n" % max(1, round(self.retry_after_seconds))
        if self.status == 401:
            lines += b"www-authenticate: Bearer\r\n"
        return lines
