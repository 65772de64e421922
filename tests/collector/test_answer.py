"""The assistant message in one form, whatever the server, the API and the way it came."""

import hashlib
import json
from typing import Any

import pytest

import collector.answer
from tests.builders import make_completion
from tests.collector.answers import call, calls, delta, message, row, streamed, whole

WEATHER = {"name": "weather", "arguments": '{"city": "Turin"}'}
CALL = {"id": "c1", "type": "function", "function": WEATHER}


def test_a_plain_answer_whole_and_streamed_is_one_message() -> None:
    found = (whole({"content": "four"}), streamed(delta(content="fo"), delta(content="ur")))
    assert [message(each) for each in found] == [{"role": "assistant", "content": "four"}] * 2


def test_the_short_way_of_an_ordinary_answer_says_what_the_long_way_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = {
        "index": 0, "message": {"role": "assistant", "content": "häh\u0000"},
        "finish_reason": "stop", "token_ids": [1], "logprobs": {"content": [{"logprob": -1.0}]},
    }  # fmt: skip
    body = {"id": "a", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    for each in (body, {**body, "prompt_token_ids": [4]}, {**body, "id": 7}):
        event = make_completion(response=json.dumps(each).encode())
        short = collector.answer.read_answer(event)
        with monkeypatch.context() as patch:
            patch.setattr(collector.answer, "_ordinary", lambda _: None)
            assert collector.answer.read_answer(event) == short


def test_text_beside_a_call_keeps_both() -> None:
    ways = (
        whole({"content": "I look.", "tool_calls": [CALL]}, finish="tool_calls"),
        streamed(delta(content="I look."), delta(tool_calls=[{"index": 0, **CALL}])),
    )
    for found in ways:
        assert message(found)["content"] == "I look."
        assert calls(found) == [("c1", "weather", {"city": "Turin"})]
        text, _, asked = found["response_text"].partition("\n")
        assert (text, json.loads(asked)) == ("I look.", [CALL])


def test_calls_that_share_an_index_are_told_by_their_ids() -> None:
    # Gemini: whole calls, each with index 0 and an id of its own.
    chunks = [
        call(json.dumps({"n": n}), id=f"id{n}", type="function", name="add") for n in range(3)
    ]
    assert calls(streamed(*chunks)) == [(f"id{n}", "add", {"n": n}) for n in range(3)]


def test_calls_without_ids_that_share_an_index_end_where_their_json_ends() -> None:
    chunks = [call({"n": 1}, name="add"), call('{"n"', name="add"), call(":2}")]
    assert calls(streamed(*chunks)) == [(None, "add", {"n": 1}), (None, "add", {"n": 2})]


def test_a_new_id_on_every_piece_of_one_call_is_one_call() -> None:
    # vLLM before 0.9: ids made anew by every delta, the name only in the first.
    chunks = [call("", id="a", name="add"), call('{"n"', id="b"), call(":1}", id="c")]
    assert calls(streamed(*chunks)) == [("a", "add", {"n": 1})]


def test_pieces_of_two_calls_by_turns() -> None:
    def piece(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        function = {"arguments": arguments, **({"name": more.pop("name")} if more else {})}
        return delta(tool_calls=[{"index": index, "function": function, **more}])

    found = streamed(
        piece(0, '{"a"', name="f", id="x"), piece(1, '{"b"', name="g", id="y"),
        piece(0, ":1}"), piece(1, ":2}"),
    )  # fmt: skip
    assert calls(found) == [("x", "f", {"a": 1}), ("y", "g", {"b": 2})]


@pytest.mark.parametrize("repeat", [{"id": "c1"}, {"id": "c1", "name": "weather"}])
def test_a_call_sent_again_at_the_end_stands_once(repeat: dict[str, Any]) -> None:
    found = streamed(call('{"a":1}', id="c1", name="weather"), call('{"a":1}', **repeat))
    assert calls(found) == [("c1", "weather", {"a": 1})]


def test_an_empty_object_before_the_pieces_is_no_piece() -> None:
    assert calls(streamed(call({}, id="a", name="f"), call('{"n":1}'))) == [("a", "f", {"n": 1})]
    assert calls(streamed(call({}, id="a", name="f"))) == [("a", "f", {})]


@pytest.mark.parametrize(
    ("arguments", "text", "parsed"),
    [
        ({"a": 2}, '{"a":2}', {"a": 2}),
        ('{"a": 2}', '{"a": 2}', {"a": 2}),
        ('{"a": ', '{"a": ', None),
        ("[1]", "[1]", None),
        ('{"a": 1e999}', '{"a": 1e999}', {"a": None}),
        ("", "", {}),
    ],
)
def test_arguments_as_sent_and_parsed(arguments: Any, text: str, parsed: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": arguments}}
    for found in (
        whole({"content": None, "tool_calls": [call]}),
        streamed(delta(tool_calls=[{"index": 0, **call}])),
    ):
        (kept,) = message(found)["tool_calls"]
        assert (kept["function"]["arguments"], kept["function"].get("parsed")) == (text, parsed)


def test_the_legacy_function_call_is_a_call() -> None:
    halves = [{"name": "weather", "arguments": '{"city":'}, {"arguments": ' "Turin"}'}]
    for found in (
        whole({"content": None, "function_call": WEATHER}, finish="function_call"),
        streamed(*(delta(function_call=half) for half in halves)),
    ):
        assert calls(found) == [(None, "weather", {"city": "Turin"})]


def test_a_custom_tool_is_called_with_plain_text() -> None:
    custom = {"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls -l"}}
    (kept,) = message(whole({"content": None, "tool_calls": [custom]}))["tool_calls"]
    called = {"name": "sh", "arguments": "ls -l"}
    assert kept == {"id": "c", "type": "custom", "function": called}


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking_is_kept_apart_from_what_is_seen(field: str) -> None:
    halves: list[dict[str, Any]] = [{field: "two "}, {field: "and two"}]
    for found in (
        whole({"content": "4", field: "two and two"}),
        streamed(*(delta(**half) for half in halves), delta(content="4")),
    ):
        assert message(found)["reasoning"] == "two and two"
        assert found["response_text"] == "4"


def test_thinking_among_the_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thinking, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    for found in (whole({"content": parts}), streamed(*(delta(content=[part]) for part in parts))):
        expected = {"role": "assistant", "content": "ab", "reasoning": "hm"}
        assert (message(found), found["response_text"]) == (expected, "ab")


def test_a_refusal_is_seen() -> None:
    for found in (
        whole({"content": None, "refusal": "I can't."}),
        streamed(delta(refusal="I "), delta(refusal="can't."), delta(finish="stop")),
        whole({"content": [{"type": "refusal", "refusal": "I can't."}]}),
    ):
        assert message(found)["refusal"] == found["response_text"] == "I can't."
        assert found["status"] == "refused"


SOUND = {"sha256": hashlib.sha256(b"sound").hexdigest(), "bytes": 5}


def test_sound_is_told_by_its_hash() -> None:
    audio = {"id": "au", "data": "c291bmQ=", "transcript": "Hello"}
    pieces = [{"id": "au", "data": "c291"}, {"data": "bmQ=", "transcript": "Hel"}]
    for found in (
        whole({"content": None, "audio": audio}),
        streamed(*(delta(audio=each) for each in [*pieces, {"transcript": "lo"}])),
    ):
        assert message(found)["audio"] == {"id": "au", **SOUND, "transcript": "Hello"}
        assert found["response_text"] == "Hello"


def test_pictures_are_parts_by_reference() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,c291bmQ="}}
    for found in (
        whole({"content": "see", "images": [picture]}),
        streamed(delta(content="see"), delta(images=[picture])),
    ):
        text, shown = message(found)["content"]
        assert (text["text"], shown["image_url"]) == ("see", SOUND)
        assert found["response_text"] == "see"


def test_all_choices_stand_in_the_answer() -> None:
    given = [
        {"index": 1, "message": {"content": "b"}, "finish_reason": "length"},
        {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
    ]
    for found in (
        row(response={"choices": given}),
        streamed(
            delta(1, content="b"), delta(content="a"), delta(1, "length"), delta(finish="stop")
        ),
    ):
        kept = message(found)
        assert (found["response_text"], found["finish_reason"]) == ("a", "stop")
        assert [(each["index"], each["finish_reason"]) for each in kept["choices"]] == [
            (0, "stop"), (1, "length"),
        ]  # fmt: skip
        assert [each["message"]["content"] for each in kept["choices"]] == ["a", "b"]


@pytest.mark.parametrize("number", ["\\ud83d", "\\ude00"])
def test_half_an_emoji_alone_is_the_replacement_character(number: str) -> None:
    body = f'{{"choices":[{{"index":0,"message":{{"content":"a{number}b"}}}}]}}'
    found = row(response=body.encode())
    assert (found["response_text"], message(found)["content"]) == ("a\ufffdb", "a\ufffdb")


def test_an_emoji_split_over_two_chunks_is_whole() -> None:
    halves = [
        b'data: {"choices":[{"index":0,"delta":{"content":"ok \\ud83d"}}]}',
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00"}}]}',
    ]
    found = streamed(*halves)
    assert (found["response_text"], message(found)["content"]) == ("ok \U0001f600",) * 2


def test_a_nul_is_kept() -> None:
    for found in (whole({"content": "a\u0000b"}), streamed(delta(content="a\u0000b"))):
        assert (found["response_text"], message(found)["content"]) == ("a\0b", "a\0b")


ODD: list[Any] = [5, -1.5, True, "odd", [], [1], {}, {"a": 1}, None, [None], [{"a": []}]]


@pytest.mark.parametrize("odd", ODD, ids=json.dumps)
@pytest.mark.parametrize("stream", [False, True])
def test_one_odd_field_costs_that_field(odd: Any, stream: bool) -> None:
    said = "delta" if stream else "message"
    extra = {"refusal": None, "reasoning": None, "audio": odd, "images": odd, "function_call": None}
    choice = {
        "index": 0, said: {"content": "four", "role": odd, **extra}, "finish_reason": "stop",
        "logprobs": odd, "token_ids": odd, "matched_stop": odd,
    }  # fmt: skip
    body = {
        "choices": [choice], "created": odd, "model": odd, "object": odd, "detail": odd,
        "prompt_token_ids": odd, "id": odd, "usage": {"prompt_tokens": odd, "completion_tokens": 3},
        "service_tier": odd, "system_fingerprint": odd, "status": odd, "incomplete_details": odd,
    }  # fmt: skip
    found = streamed(body) if stream else row(response=body)
    assert "four" in str(message(found)["content"])
    assert (found["response_text"], found["finish_reason"]) == ("four", "stop")
    assert (found["status"], found["completion_tokens"]) == ("ok", 3)


def test_a_null_logprob_costs_nothing() -> None:
    def logprobs(*values: float | None) -> dict[str, Any]:
        return {"content": [{"token": "x", "logprob": value} for value in values]}

    choice = {"index": 0, "message": {"content": "four"}, "logprobs": logprobs(None, -0.5)}
    found = row(response={"choices": [choice]})
    assert (found["response_text"], found["logprobs"]) == ("four", [None, -0.5])


def test_chunks_without_choices_are_no_obstacle() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    found = streamed(
        {"id": 17, "choices": None}, delta(content="a"), {"choices": [], "usage": usage},
        {"choices": [], "usage": None}, b": ping", delta(content="b", finish="stop"),
    )  # fmt: skip
    assert (found["response_text"], found["upstream_id"]) == ("ab", "17")
    assert (found["prompt_tokens"], found["completion_tokens"]) == (3, 2)


def test_a_whole_message_at_the_end_of_a_stream_is_not_said_twice() -> None:
    # Perplexity sends what was said so far beside each delta.
    both = {**delta(content="a")["choices"][0], "message": {"content": "a"}}
    assert streamed({"choices": [both]}, delta(content="b"))["response_text"] == "ab"
    alone = {"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]}
    assert streamed(alone)["response_text"] == "ab"


def test_events_without_blank_lines_and_over_several_lines() -> None:
    first, second = (json.dumps(delta(content=text)).encode() for text in "ab")
    glued = b"data: " + first + b"\ndata: " + second + b"\n\n"
    cut = first.index(b',"choices"') if b',"choices"' in first else first.index(b", ") + 2
    split = b"data: " + first[:cut] + b"\ndata: " + first[cut:] + b"\n\n"
    assert row(stream=True, response=glued)["response_text"] == "ab"
    assert row(stream=True, response=split)["response_text"] == "a"


def test_a_stream_that_nobody_asked_for_is_read_as_one() -> None:
    found = streamed(delta(content="a"), delta(finish="stop"))
    body = found["raw_response"]
    assert row(stream=False, response=body)["response_text"] == "a"
