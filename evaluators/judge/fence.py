"""Judged text as data: one line of JSON between two lines that are its own hash.

No text can hold its own hash, and JSON leaves no line break in it, so none ends the data; the
marks of chat templates (`<|im_end|>`) are written so that no server takes them for its own.
"""

import hashlib
import json
from collections.abc import Mapping

from everlearn.tolerant import mended

_ESCAPED = {
    **{"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029", "<|": "\\u003c|"},
    **{"[INST": "\\u005bINST", "[/INST": "\\u005b/INST", "<s": "\\u003cs", "</s": "\\u003c/s"},
    **{"<start_of": "\\u003cstart_of", "<end_of": "\\u003cend_of"},
}


def fenced(data: Mapping[str, str]) -> str:
    """The data between its fences; reading the line as JSON gives it back, half
    characters mended."""
    line = mended(json.dumps(dict(data), ensure_ascii=False))
    for text, escaped in _ESCAPED.items():
        line = line.replace(text, escaped)
    mark = hashlib.sha256(line.encode()).hexdigest()[:24]
    return f"===== {mark}\n{line}\n===== {mark}"
