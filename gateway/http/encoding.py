"""Bodies of requests that came compressed, as `Content-Encoding` says (gzip, deflate,
zstd).

All else reads a body as it was meant, and what is captured and sent on is that body. What comes
out is bounded as if it had come so: a few kilobytes that become gigabytes are refused halfway.
"""

import zlib

import zstandard

from gateway.http.wire import Refusal

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
_ZSTD = b"zstd"
_ZSTD_WINDOW_BYTES = 8 << 20
"""What RFC 9659 lets a sender use."""
_ZSTD_STEP_BYTES = 1024
"""Compressed bytes at a time: of so few come 32 MiB at most before the limit is looked at."""
MAX_TIMES = 2
"""Encodings over one another; more is no client's way."""


def plain(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its encodings, the last one first; Refusal 400, 413 or 415."""
    names = [name.strip() for name in encoding.lower().split(b",")]
    names = [name for name in names if name not in (b"", b"identity")]
    known = all(name == _ZSTD or name in _WINDOWS for name in names)
    if len(names) > MAX_TIMES or not known:
        raise Refusal(
            415,
            f"Content-Encoding {encoding.decode('latin-1')[:80]!r} is not supported: send the "
            "body as gzip, deflate, zstd or plain.",
            "unsupported_content_encoding",
        )
    for name in reversed(names):
        body = _unzstd(body, limit) if name == _ZSTD else _inflated(body, _WINDOWS[name], limit)
    return body


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    inflate = zlib.decompressobj(window)
    try:
        found = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        if window == 15:  # some leave the head out that the standard asks for
            return _inflated(body, -15, limit)
        raise _other(error) from None
    if len(found) > limit:
        raise _too_large(limit)
    if not inflate.eof:
        raise _cut()
    return found


def _unzstd(body: bytes, limit: int) -> bytes:
    """Of one frame or several."""
    made = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame, found, size, place = made.decompressobj(), list[bytes](), 0, 0
    try:
        while place < len(body):
            if frame.eof:
                frame = made.decompressobj()
            step = body[place : place + _ZSTD_STEP_BYTES]
            found.append(frame.decompress(step))
            size += len(found[-1])
            if size > limit:
                raise _too_large(limit)
            place += len(step) - len(frame.unused_data)
    except zstandard.ZstdError as error:
        raise _other(error) from None
    if not frame.eof:
        raise _cut()
    return b"".join(found)


def _other(error: Exception) -> Refusal:
    text = f"The body is not what Content-Encoding says: {error}."
    return Refusal(400, text, "invalid_encoding")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"The request's body is larger than {limit} bytes once decompressed.")


def _cut() -> Refusal:
    return Refusal(400, "The compressed body ends before its end.", "invalid_encoding")
