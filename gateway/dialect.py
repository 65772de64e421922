"""Differences between what a client asks for and what an upstream is asked.

One table says what is asked for on the client's behalf of which kind of upstream; `rename_fields`
and `drop_fields` of an upstream say what it calls otherwise or does not take. What was asked for
beyond the client's wish is taken out of the answer again: the client gets byte for byte what it
would have got, and what is captured keeps all of it.

What is asked for is worked out once per endpoint. Nothing is parsed unless something is
configured: a field is put behind the first brace of the body, and found in the answer by its bytes.
In JSON a quote within a text is escaped, so that what looks like a name with its quotes is one.
"""

import re
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import UNSET

from everlearn.config import Upstream

CHAT, TEXT = "chat/completions", "completions"

ADDED: dict[str, dict[str, dict[str, bytes]]] = {
    "vllm": {
        "token_ids": {CHAT: b'"return_token_ids":true,', TEXT: b'"return_token_ids":true,'},
        "logprobs": {CHAT: b'"logprobs":true,', TEXT: b'"logprobs":0,'},
    },
    "openai": {},
}
"""By kind of upstream, what is captured, and endpoint: the member that asks for it."""
_USAGE = b'"stream_options":{"include_usage":true},'

_IDS = re.compile(rb'(?<!\\)("(?:prompt_)?token_ids":\s*)\[[\d,\s]*\]')
_FLAT = rb'[^"{}]++|"(?:[^"\\]|\\.)*+"'
_PLAIN = rb"\{(?:" + _FLAT + rb")*+\}"
_NESTED = rb"\{(?:" + _FLAT + rb"|" + _PLAIN + rb")*+\}"
_LOGPROBS = re.compile(
    rb'(?<!\\)("logprobs":\s*)\{(?:' + _FLAT + rb"|" + _NESTED + rb")*+\}", re.DOTALL
)
"""An object of three levels at most: content, its tokens, their alternatives."""
_NUMBER = re.compile(rb"\d+")
_NULL = rb"\1null"
_NO_USAGE = re.compile(rb',\s*"usage":\s*null')
_END = rb"[^\r\n]*(?:\r\n\r\n|\n\n|\r\r|\Z)"
_USAGE_EVENT = re.compile(
    rb'^data: ?(?=[^\r\n]*"choices":\s*\[\])(?=[^\r\n]*"usage":\s*\{)' + _END, re.MULTILINE
)
_EMPTY_EVENT = re.compile(
    rb'^data: ?(?=[^\r\n]*"delta":\s*\{\})(?=[^\r\n]*"finish_reason":\s*null)' + _END, re.MULTILINE
)
"""vLLM sends one for tokens that show no text yet, if their ids are asked for."""
_TEXTS = re.compile(
    rb'"(?:content|text|delta|arguments|reasoning|reasoning_content|refusal)":\s*'
    rb'"((?:[^"\\]|\\.)*+)"',
    re.DOTALL,
)
_IDS_NAME, _QUOTE, _OPENS, _NOTHING = b'token_ids":', ord('"'), ord("["), ord("n")
BYTES_PER_TOKEN = 4
"""Where nobody says how many tokens a text has: the usual mean of English."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Undo(NamedTuple):
    """What has to be taken out of an answer."""

    ids: bool
    logprobs: bool
    usage: bool
    empty: bool = False
    """Events of a stream that are there for one of the first two only."""

    def whole(self, body: bytes) -> bytes:
        """An answer that is all there."""
        return self._without_details(body)

    def events(self, data: bytes) -> bytes:
        """Whole events of a stream."""
        if self.empty and data.find(b"{}") >= 0:
            data = _EMPTY_EVENT.sub(b"", data)
        data = self._without_details(data)
        if self.usage and data.find(b'"usage"') >= 0:
            data = _NO_USAGE.sub(b"", _USAGE_EVENT.sub(b"", data))
        return data

    def event(self, data: bytes) -> bytes:
        """One event of one line; where only token ids are in it, by a look at its bytes."""
        if self.usage or self.logprobs or not self.ids:
            return self.events(data)
        at = data.rfind(_IDS_NAME)
        if at < 0:
            return data
        start = at + len(_IDS_NAME)
        if data[start] == _NOTHING and data.find(_IDS_NAME, 0, at) < 0:
            return data
        end = data.find(b"]", start)
        if (
            data[start] != _OPENS
            or data[at - 1] != _QUOTE
            or end < 0
            or data.find(_IDS_NAME, 0, at) >= 0
            or data.find(b'"delta":{}') >= 0
        ):
            return self.events(data)
        return b"%bnull%b" % (data[:start], data[end + 1 :])

    def _without_details(self, data: bytes) -> bytes:
        if self.ids and data.find(b'token_ids"') >= 0:
            data = _IDS.sub(_NULL, data)
        if self.logprobs:
            data = _LOGPROBS.sub(_NULL, data)
        return data


_NO_ASK: tuple[bytes, Undo | None] = b"{", None


class Wishes(Protocol):
    """What a client's body says of its answer; `msgspec.UNSET` where it says nothing."""

    @property
    def stream(self) -> bool | None: ...
    @property
    def return_token_ids(self) -> Any: ...
    @property
    def logprobs(self) -> Any: ...
    @property
    def top_logprobs(self) -> Any: ...


class Dialect:
    """What is asked of one upstream."""

    def __init__(self, settings: Upstream, *, logprobs: bool = False) -> None:
        """`logprobs`: whether they are captured where the upstream can give them."""
        table = ADDED[settings.kind]
        self._ids = table.get("token_ids", {}) if settings.token_ids else {}
        self._logprobs = table.get("logprobs", {}) if logprobs else {}
        self._renamed, self._dropped = settings.rename_fields, frozenset(settings.drop_fields)
        self._translates = bool(self._renamed or self._dropped)
        self._asks = {
            (endpoint, ids, logprobs): self._ask(endpoint, ids=ids, logprobs=logprobs)
            for endpoint in {*self._ids, *self._logprobs}
            for ids in (True, False)
            for logprobs in (True, False)
        }
        """By endpoint and what of both the client leaves to us: how the body begins, and what to do
        to its answer."""

    def request(
        self, raw: bytes, body: Wishes, endpoint: str, *, counted: bool
    ) -> tuple[bytes, Undo | None]:
        """The body to send for `raw`, which says `body`, and what to do to its answer. `counted`:
        somebody has to know how many tokens it used."""
        # A client that writes one of these decides itself.
        ids = body.return_token_ids is UNSET
        logprobs = body.logprobs is UNSET and body.top_logprobs is UNSET
        opening, undo = self._asks.get((endpoint, ids, logprobs), _NO_ASK)
        if counted and body.stream and endpoint in (CHAT, TEXT):
            raw, undo = _with_usage(raw, undo)
        if undo is not None:
            raw = raw.replace(b"{", opening, 1)
        if self._translates:
            raw = self._translated(raw)
        return raw, undo

    def _ask(self, endpoint: str, *, ids: bool, logprobs: bool) -> tuple[bytes, Undo | None]:
        more = self._ids.get(endpoint, b"") if ids else b""
        those = self._logprobs.get(endpoint, b"") if logprobs else b""
        if not more and not those:
            return _NO_ASK
        return b"{" + more + those, Undo(bool(more), bool(those), False, ids and logprobs)

    def _translated(self, raw: bytes) -> bytes:
        sent = _members(raw)
        kept: dict[str, bytes] = {}
        for name, value in sent.items():
            new = self._renamed.get(name, name)
            # Whoever writes both names means the one that the upstream knows.
            if name not in self._dropped and (new == name or new not in sent):
                kept[new] = bytes(value)
        return _object(kept)


def tokens_of(response: bytes, request: bytes) -> int:
    """How many tokens a stream used that does not say it: its token ids, else a guess from the
    bytes of its texts and of the request's."""
    known = [len(_NUMBER.findall(ids.group())) for ids in _IDS.finditer(response)]
    if known:
        return sum(known)
    said = sum(len(text) for text in _TEXTS.findall(response))
    asked = sum(len(text) for text in _TEXTS.findall(request))
    return -(-said // BYTES_PER_TOKEN) + -(-asked // BYTES_PER_TOKEN)


def _with_usage(raw: bytes, undo: Undo | None) -> tuple[bytes, Undo | None]:
    """The body asking for usage as well, where it does not and no token ids can be counted."""
    if undo is not None and undo.ids:
        return raw, undo
    asking = (undo or Undo(False, False, False))._replace(usage=True)
    if raw.find(b'"stream_options"') < 0:
        return raw.replace(b"{", b"{" + _USAGE, 1), asking
    members: dict[str, bytes] = {name: bytes(value) for name, value in _members(raw).items()}
    options: Any = msgspec.json.decode(members.get("stream_options", b"null"))
    if options is None:
        options = {}
    if not isinstance(options, dict) or options.get("include_usage") is True:
        return raw, undo
    members["stream_options"] = msgspec.json.encode({**options, "include_usage": True})
    return _object(members), asking


def _object(members: dict[str, bytes]) -> bytes:
    pairs = (msgspec.json.encode(name) + b":" + value for name, value in members.items())
    return b"{" + b",".join(pairs) + b"}"
