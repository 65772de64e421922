"""What is masked survives in no form: not escaped, nested, cut over events, or as tokens."""

import asyncio
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.answer import read_answer
from everlearn.errors import ConfigError
from everlearn.events import Completion, Feedback, encode
from gateway.masking import MASKED, Masker
from tests.builders import make_completion, make_feedback, make_service, sha256
from tests.gateway.backend import STREAM_HEAD, Call, answer, backend, chat_chunk, chunk
from tests.gateway.door import door

NUMBER = r"\b\d{3}-\d{2}-\d{4}\b"
MAIL = r"[\w.]+@[\w.]+"
MASKER = Masker([NUMBER, MAIL])
SECRET = "123-45-6789"
SHORT = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def masked(**fields: Any) -> Completion:
    event = MASKER.event(make_completion(**fields))
    assert isinstance(event, Completion)
    return event


def request_of(text: str) -> str:
    """The request as it is kept, of a body that is sent as that text."""
    return masked(request=text.encode()).request.decode()


def forms(text: str) -> list[str]:
    """A text with its escapes undone once, twice and so on: by another way than the masker's."""
    found = [text]
    while True:
        deeper = re.sub(
            r"\\u([0-9a-fA-F]{4})|\\(.)",
            lambda one: chr(int(one[1], 16)) if one[1] else SHORT.get(one[2], one[2]),
            found[-1],
            flags=re.DOTALL,
        )
        if deeper == found[-1]:
            return found
        found.append(deeper)


def hidden(payload: bytes, secret: str) -> bool:
    """Whether the secret stands in the bytes of a log record in none of its forms."""
    return all(secret not in form for form in forms(payload.decode("utf-8", "replace")))


def events(*chunks: Any, end: str = "\n") -> bytes:
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {line}{end}{end}" for line in lines).encode()


def piece(text: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": index, "delta": {"content": text}, **fields}]}


def streamed(body: bytes, request: bytes = b"{}") -> bytes:
    return masked(request=request, response=body, stream=True).response


# Bodies.


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (r'{"a": "123-45-6789"}', r'{"a": "[masked]"}'),
        (r'{"a": "x\u00313\u0032-45-6789 y"}', r'{"a": "x\u00313\u0032-45-6789 y"}'),
        (r'{"a": "x \u0031\u00323-45-6789"}', r'{"a": "x [masked]"}'),
        (r'{"a": "me\u0040home.org"}', r'{"a": "[masked]"}'),
        (r'{"a":  "line\n123-45-6789\n", "b": 1.50}', r'{"a":  "line\n[masked]\n", "b": 1.50}'),
        (r'{"123-45-6789": 1}', r'{"[masked]": 1}'),
        (r'{"a": "{\"b\": \"me\\u0040home.org\"}"}', r'{"a": "{\"b\": \"[masked]\"}"}'),
        (r'{"a": "\ud83d\ude00 me\u0040home.org"}', r'{"a": "\ud83d\ude00 [masked]"}'),
        (r'{"a": "same", "a": "123-45-6789"}', r'{"a": "same", "a": "[masked]"}'),
        ("no JSON: 123-45-6789", "no JSON: [masked]"),
        (r'{"a": "cut off 123-45-6789', r'{"a": "cut off [masked]'),
        (r'{"a": "\u00e9 \/ \" nothing here", "n": [1e3, -0.0]}',) * 2,
    ],
)  # fmt: skip
def test_a_match_is_replaced_and_nothing_else(sent: str, kept: str) -> None:
    assert request_of(sent) == kept


def test_a_number_becomes_a_string_so_that_json_stays_json() -> None:
    masker = Masker([r"\d{9,}"])
    body = b'{"phone": 5551234567, "said": "call 5551234567, now", "n": [1, 4915123456789.5]}'
    event = masker.event(make_completion(request=body))
    assert isinstance(event, Completion)
    assert json.loads(event.request) == {
        "phone": MASKED, "said": "call [masked], now", "n": [1, MASKED],
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b'{"a": "123-45-6789"}', mtime=0),
        '{"a": "123-45-6789"}'.encode("utf-16-le"),
        b'{"a": "123\xff-45-6789"}',
    ],
)
def test_what_is_no_text_is_not_kept(body: bytes) -> None:
    event = masked(request=body, response=body)
    assert (event.request, event.response) == (b"[masked]", b"[masked]")


def test_token_ids_and_logprobs_of_a_masked_text_go_with_it() -> None:
    tokens = [{"token": "123", "bytes": [49, 50, 51]}, {"token": "-45-6789", "bytes": []}]
    choice = {"index": 0, "message": {"content": SECRET}, "logprobs": {"content": tokens},
              "token_ids": [7, 8]}  # fmt: skip
    answer = {"choices": [choice], "prompt_token_ids": [1, 2], "prompt_logprobs": [{"1": 0.5}]}
    event = masked(request=b'{"logprobs": true}', response=json.dumps(answer).encode())
    kept = json.loads(event.response)
    assert kept["choices"][0] == {
        "index": 0, "message": {"content": MASKED}, "logprobs": None, "token_ids": None,
    }  # fmt: skip
    assert (kept["prompt_token_ids"], kept["prompt_logprobs"]) == (None, None)
    assert event.request == b'{"logprobs": true}'
    # What the request's text was is told by the answer's prompt tokens.
    answer["choices"] = []
    event = masked(request=b'{"a": "123-45-6789"}', response=json.dumps(answer).encode())
    assert json.loads(event.response)["prompt_token_ids"] is None
    # And without a match everything stays.
    event = masked(request=b"{}", response=json.dumps(answer).encode())
    assert event.response == json.dumps(answer).encode()


def test_the_fields_beside_the_bodies() -> None:
    event = masked(
        unit="me@home.org", conversation_id=SECRET, request_id=f"r-{SECRET}",
        model_requested=f"m {SECRET}", error=f"The model `{SECRET}` does not exist.",
    )  # fmt: skip
    assert event.unit == event.completion_id
    assert (event.conversation_id, event.request_id) == (None, None)
    assert event.model_requested == "m [masked]"
    assert event.error == "The model `[masked]` does not exist."
    plain = make_completion(unit=None, conversation_id="c", request_id="r")
    assert MASKER.event(plain) == plain


def test_every_text_of_feedback() -> None:
    event = MASKER.event(
        make_feedback(
            name=f"n {SECRET}", value_text=f"is {SECRET}", comment=r"at me\u0040home.org",
            tags={"mail": "me@home.org", "me@home.org": "x"}, author_id="me@home.org",
            request_id=SECRET, conversation_id=SECRET, idempotency_key=SECRET,
            completion_id=SECRET, other_completion_id=SECRET, value_number=4.0,
        )
    )  # fmt: skip
    assert isinstance(event, Feedback)
    assert (event.name, event.value_text, event.comment) == (
        "n [masked]", "is [masked]", "at [masked]",
    )  # fmt: skip
    assert event.tags == {"mail": MASKED, MASKED: "x"}
    named = (event.author_id, event.request_id, event.conversation_id, event.idempotency_key)
    assert (*named, event.completion_id, event.other_completion_id) == (None,) * 6
    assert event.value_number == 4.0
    number = Masker([r"\d{9}"]).event(make_feedback(value_number=5551234567.0))
    assert isinstance(number, Feedback)
    assert number.value_number is None


@pytest.mark.parametrize("before", [0, 90, 95, 99, 100, 180, 195, 205])
def test_the_cut_of_a_long_body_reveals_no_half_of_a_match(before: int) -> None:
    start = b"x" * before + b" 123-45-6789"
    for body in (start, start + b" " + b"y" * 500):
        head = MASKER.head(body, 100)
        assert len(head) <= 100
        assert re.search(rb"\d", head) is None
        assert head.startswith((b"x" * before)[:90] if before else b" [masked]")


def test_the_cut_of_a_long_body_leaves_no_half_character() -> None:
    for size in (60, 300):
        assert MASKER.head("é".encode() * size, 101) == "é".encode() * 50


# Streams.


def test_a_match_cut_over_events_is_masked_where_it_begins() -> None:
    body = events(piece("I am 12"), piece("3-45-"), piece("6789, yes"), piece("!"), "[DONE]")
    kept = streamed(body)
    assert (
        read_answer(make_completion(response=kept, stream=True)).response_text
        == "I am [masked], yes!"
    )
    assert kept.endswith(b'data: {"id": "c", "choices": [{"index": 0, "delta": {"content": "!"}}]}'
                         b"\n\ndata: [DONE]\n\n")  # fmt: skip


def test_a_stream_without_a_match_stays_as_it_was() -> None:
    chunk = piece("x", logprobs={"content": [{"token": "x"}]})
    body = b": hello\r\n\r\n" + events(chunk, "[DONE]", end="\r\n") + b"event: x\rdata:{}\r\r"
    assert streamed(body) == body


def test_the_texts_of_two_choices_are_not_joined() -> None:
    chunks = [piece("123-", 0), piece("me@", 1), piece("45-6789", 0), piece("home.org", 1)]
    kept = streamed(events(*chunks)).decode()
    assert [json.loads(line[5:])["choices"][0]["delta"]["content"]
            for line in kept.splitlines() if line] == [MASKED, MASKED, "", ""]  # fmt: skip
    apart = events(piece("123-45-", 0), piece("6789", 1))
    assert streamed(apart) == apart


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_data_of_several_lines(end: str) -> None:
    body = f'data: {{"a":{end}data: "123-45-6789"}}{end}{end}data: {{"a": "x"}}{end}{end}'
    kept = streamed(body.encode()).decode()
    assert json.loads(kept.splitlines()[0][5:] + (kept.splitlines()[1][5:] or "")) == {"a": MASKED}
    assert kept.endswith(f'data: {{"a": "x"}}{end}{end}')


def test_tool_arguments_are_json_within_pieces_of_json() -> None:
    def call(arguments: str, **first: Any) -> dict[str, Any]:
        tool = {"index": 0, **first, "function": {"arguments": arguments}}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [tool]}}]}

    body = events(
        call('{"to": "me', id="call_1", type="function"), call("\\u0"), call("040ho"),
        call('me.org", "n": 1}'),
    )  # fmt: skip
    text = read_answer(make_completion(response=streamed(body), stream=True)).response_text
    assert text is not None
    assert json.loads(json.loads(text)[0]["function"]["arguments"]) == {"to": MASKED, "n": 1}


def test_the_events_of_the_responses_api() -> None:
    def delta(text: str, item: str) -> dict[str, Any]:
        return {"type": "response.output_text.delta", "item_id": item, "delta": text}

    whole = {"output": [{"type": "message", "content": [{"type": "output_text", "text": SECRET}]}]}
    kept = streamed(
        events(
            delta("123-4", "a"), delta("me", "b"), delta("5-6789", "a"), delta("@home.org", "b"),
            {"type": "response.completed", "response": whole},
        )
    )  # fmt: skip
    assert kept.count(MASKED.encode()) == 3
    assert re.search(rb"\d\d|home", kept) is None


def test_tokens_of_a_masked_stream_go_with_it() -> None:
    def chunk(text: str) -> dict[str, Any]:
        return {"prompt_token_ids": [1], **piece(text, logprobs={"content": [{"token": text}]})}

    kept = streamed(events(chunk("123-"), chunk("45-6789"), chunk(" ok")))
    assert b'"token"' not in kept
    assert b'"prompt_token_ids": null' in kept
    kept = streamed(events(chunk("fine")), request=b'{"a": "123-45-6789"}')
    assert b'"token"' not in kept
    assert b"fine" in kept


@pytest.mark.parametrize("cut", range(0, 140, 7))
def test_a_stream_that_breaks_off_reveals_no_rest(cut: int) -> None:
    body = events(piece("123-45"), piece("-6789 x"))[:cut]
    kept = streamed(body)
    assert not (b"123-45" in kept and b"-6789" in kept)
    assert len(kept) <= len(body) + len(MASKED) + 4


def test_an_answer_too_deep_to_be_read_is_not_kept() -> None:
    deep = "[" * 50_000 + '"123-45-"' + "]" * 50_000
    kept = streamed(events(deep, piece("6789")))
    assert kept.startswith(b'data: "[masked]"\n\n')
    whole = b'{"a": "123-45-6789", "b": ' + deep.encode() + b"}"
    assert masked(response=whole).response == MASKED.encode()


# Properties.


@st.composite
def escaped(draw: st.DrawFn, text: str) -> str:
    """The inside of a JSON string that says `text`, every character escaped or not as it comes."""
    pieces = []
    for char in text:
        ways = [f"\\u{ord(char):04x}", f"\\u{ord(char):04X}"]
        if char in '"\\/':
            ways.append("\\" + char)
        if char not in '"\\' and char >= " ":
            ways += [char] * 3
        pieces.append(draw(st.sampled_from(ways)))
    return "".join(pieces)


around = st.text(st.sampled_from('ab {}[]:,\\"/ué\n'), max_size=8)
secrets = st.one_of(
    st.from_regex(r"\d{3}-\d{2}-\d{4}", fullmatch=True).filter(str.isascii),
    st.from_regex(r"[a-z]{2,6}@[a-z]{2,6}\.com", fullmatch=True),
)


@given(st.data(), around, secrets, around, st.integers(0, 2))
@settings(max_examples=200, deadline=None)
def test_no_escape_hides_a_secret(
    data: st.DataObject, before: str, secret: str, after: str, depth: int
) -> None:
    text = f"{before} {secret} {after}"
    for _ in range(depth):
        text = '{"inner": "' + data.draw(escaped(text)) + '"}'
    body = ('{"content": "' + data.draw(escaped(text)) + '", "n": 1}').encode()
    assert secret in json.dumps(forms(body.decode()))
    event = masked(request=body, response=b'{"choices": [' + body + b"]}")
    assert hidden(encode(event), secret)
    # It is still JSON, and says the same but for what is masked.
    assert set(json.loads(event.request)) == {"content", "n"}
    assert json.loads(event.response)["choices"][0]["n"] == 1


@given(st.data(), around, secrets, around, st.integers(0, 2), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=200, deadline=None)
def test_no_cut_hides_a_secret(
    data: st.DataObject, before: str, secret: str, after: str, depth: int, end: str
) -> None:
    text = f"{before} {secret} {after}"
    for _ in range(depth):
        text = '{"inner": "' + data.draw(escaped(text)) + '"}'
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    chunks: list[Any] = []
    for one in pieces:
        inside = data.draw(escaped(one))
        chunks.append('{"choices": [{"index": 1, "delta": {"content": "' + inside + '"}}]}')
        if data.draw(st.booleans()):
            chunks.append(piece("other ", 0))
    kept = streamed(events(*chunks, "[DONE]", end=end))
    texts: dict[int, str] = {0: "", 1: ""}
    for line in kept.decode().splitlines():
        if line and line != "data: [DONE]":
            for choice in json.loads(line[5:])["choices"]:
                texts[choice["index"]] += choice["delta"]["content"]
    assert all(secret not in form for form in forms(texts[1]))
    assert MASKED in texts[1]
    assert set(texts[0]) <= set("other ")
    assert hidden(kept, secret)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_without_a_match_no_byte_changes(content: Any) -> None:
    masker = Masker(["QQQ-never-QQQ"])
    whole = json.dumps({"content": content}).encode()
    stream = events({"content": content}, {"content": content}, "[DONE]")
    event = make_completion(request=whole, response=whole)
    assert masker.event(event) == event
    event = make_completion(request=whole, response=stream, stream=True)
    assert masker.event(event) == event


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_masked_without_an_error(garbage: bytes) -> None:
    masker = Masker([r"\d{3}-\d{2}-\d{4}"])
    for body in (garbage, b"data: " + garbage, b'{"a": "123-45-6789' + garbage):
        kept = masker.event(make_completion(request=body, response=body))
        assert isinstance(kept, Completion)
        assert SECRET.encode() not in kept.request + kept.response


# Through the door, down to the bytes of the log.


@pytest.mark.anyio
async def test_no_byte_of_the_log_holds_the_secret(tmp_path: Path) -> None:
    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        if not call.body.get("stream"):
            writer.write(answer(b'{"choices": [{"message": {"content": "123\\u002d45-6789"}}]}'))
            return
        writer.write(STREAM_HEAD)
        for text in ("it is 12", "3-45", "-678", "9."):
            writer.write(chunk(chat_chunk(text)))
            await writer.drain()
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    keys = [{"id": "a", "sha256": sha256("secret-1"), "requests_per_minute": 3}]
    capture = {"mask": [NUMBER, MAIL]}
    headers = {"authorization": "Bearer secret-1", "x-everlearn-conversation": SECRET}
    messages = [{"role": "user", "content": f"{SECRET} {'x' * 20_000} {SECRET}"}]
    async with (
        backend(reply) as upstream,
        door(tmp_path, upstream.url, capture=capture, keys=keys) as gate,
    ):
        first = await gate.chat(headers, messages=messages, user="me@home.org")
        streamed = await gate.chat(headers, messages=messages, stream=True)
        # The client and the upstream see what was said; the log does not.
        assert first.json()["choices"][0]["message"]["content"] == SECRET
        assert "-678" in streamed.text
        assert upstream.calls[0].body["messages"] == messages
        sent = {"completion_id": "c", "value": SECRET, "comment": SECRET, "tags": {"n": SECRET}}
        told = await gate.client.post("/v1/feedback", json=sent, headers=headers)
        assert told.status_code == 202
        assert (await gate.chat(headers, messages=messages)).status_code == 429
        log = b"".join(path.read_bytes() for path in gate.service.wal_path.rglob("*.wal"))
        assert log.count(b"[masked]") >= 8
        assert re.search(rb"45-6789|-678|home", log) is None
        assert [event.status for event in gate.completions()] == ["ok", "ok", "rejected"]
        assert read_answer(gate.completions()[1]).response_text == "it is [masked]."
        [feedback] = gate.feedback()
        assert (feedback.value_text, feedback.tags) == (MASKED, {"n": MASKED})


def test_a_pattern_that_is_none_is_said_by_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'\('.*is not a regular expression"):
        make_service(tmp_path, gateway={"capture": {"mask": ["("]}})
