"""A captured answer as it was meant: some servers and proxies compress it though they were asked
not to (gzip is known by its first bytes), some begin it with a mark of the byte order.

What comes out is bounded; of a body that is cut in the middle the part before the cut.
"""

import zlib
from codecs import BOM_UTF8

_GZIP = b"\x1f\x8b\x08"
_FIRST = (_GZIP[:1], BOM_UTF8[:1])
MAX_BYTES = 64 * 2**20
"""Of a decompressed body; more is cut off there."""


def plain(body: bytes) -> bytes:
    """The text of a body, or the body itself."""
    if body[:1] not in _FIRST:
        return body
    if body.startswith(_GZIP):
        try:
            body = zlib.decompressobj(31).decompress(body, MAX_BYTES)
        except zlib.error:
            return body
    return body.removeprefix(BOM_UTF8)
