"""Bodies of requests that came compressed, as `Content-Encoding` says (gzip, deflate).

All else reads a body as it was meant, and what is captured and sent on is that body. What comes
out is bounded as if it had come so: a few kilobytes that become gigabytes are refused halfway.
"""

import zlib

from gateway.http.wire import Refusal

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
MAX_TIMES = 2
"""Encodings over one another; more is no client's way."""


def plain(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its encodings, the last one first; Refusal 400, 413 or 415."""
    names = [name.strip() for name in encoding.lower().split(b",")]
    names = [name for name in names if name not in (b"", b"identity")]
    if len(names) > MAX_TIMES or any(name not in _WINDOWS for name in names):
        raise Refusal(
            415,
            f"Content-Encoding {encoding.decode('latin-1')[:80]!r} is not supported: send the "
            "body as gzip, as deflate or plain.",
            "unsupported_content_encoding",
        )
    for name in reversed(names):
        body = _inflated(body, _WINDOWS[name], limit)
    return body


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    inflate = zlib.decompressobj(window)
    try:
        found = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        if window == 15:  # some leave the head out that the standard asks for
            return _inflated(body, -15, limit)
        raise Refusal(
            400, f"The body is not what Content-Encoding says: {error}.", "invalid_encoding"
        ) from None
    if len(found) > limit:
        raise Refusal(413, f"The request's body is larger than {limit} bytes once decompressed.")
    if not inflate.eof:
        raise Refusal(400, "The compressed body ends before its end.", "invalid_encoding")
    return found
