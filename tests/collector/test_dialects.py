"""The same answer in the words of different servers: names, places and pieces do not matter."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.collector.answers import call, calls, delta, message, row, sse, streamed, whole

USED = {"prompt_tokens": 19, "completion_tokens": 13}


def last(**fields: Any) -> dict[str, Any]:
    """A stream's last chunk with more fields."""
    return {**delta(finish="stop"), **fields}


def tokens(found: dict[str, Any]) -> tuple[Any, Any]:
    return found["prompt_tokens"], found["completion_tokens"]


def in_choice() -> dict[str, Any]:
    chunk = delta(finish="stop")
    chunk["choices"][0]["usage"] = USED
    return chunk


SAID: dict[str, list[dict[str, Any]]] = {
    "at its choice (Moonshot)": [in_choice()],
    "in an extension (Groq)": [last(x_groq={"id": "req", "usage": USED})],
    "asked first, answered last (Anthropic)": [
        {**delta(content=""), "usage": {"prompt_tokens": 19, "completion_tokens": 0}},
        last(usage={"completion_tokens": 13}),
    ],
    "a running count": [{**delta(content=""), "usage": {**USED, "completion_tokens": 4}},
                        last(usage=USED)],
    "noughts at the end": [last(usage=USED), {"choices": [], "usage": dict.fromkeys(USED, 0)}],
    "as floats": [last(usage={name: float(count) for name, count in USED.items()})],
    "as texts": [last(usage={name: str(count) for name, count in USED.items()})],
    "in the other API's names": [last(usage={"input_tokens": 19, "output_tokens": 13})],
}  # fmt: skip


@pytest.mark.parametrize("where", SAID)
def test_usage_is_found_wherever_a_stream_says_it(where: str) -> None:
    assert tokens(streamed(delta(content="x"), *SAID[where])) == (19, 13)


def test_a_count_that_is_no_count_is_null() -> None:
    odd: Any
    for odd in (1.5, "many", "", True, None, [3], {}, "9" * 30):
        body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": odd, "completion_tokens": 3}}  # fmt: skip
        assert tokens(row(response=body)) == (None, 3)


ENDINGS = {
    "upstream_error": ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "ERROR", "error_limit",
                       "TOO_MANY_TOOL_CALLS", "malformed_response"],
    "filtered": ["SPII", "IMAGE_SAFETY", "content_filtered", "LANGUAGE", "MODEL_ARMOR", "risk",
                 "ERROR_TOXIC", "image_prohibited_content"],
    "refused": ["refusal"],
    "incomplete": ["model_context_window_exceeded", "pause_turn", "USER_CANCEL", "max_length",
                   "timeout", "unload", "OTHER", "finish_reason_unspecified"],
    "ok": ["COMPLETE", "end_turn", "stop_sequence", "tool_use", "function_calls", "STOP", "eos",
           "whatever a small server says"],
}  # fmt: skip


@pytest.mark.parametrize("status", ENDINGS)
def test_the_words_for_how_an_answer_ended(status: str) -> None:
    for finish in ENDINGS[status]:
        assert whole({"content": "a"}, finish=finish)["status"] == status, finish
        assert streamed(delta(content="a"), delta(finish=finish))["status"] == status, finish


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning": "hm"}, {"reasoning_content": "hm"}, {"thinking": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"},
                               {"type": "reasoning.encrypted", "data": "x"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "text": None, "summary": "hm"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "x"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
    ],
)  # fmt: skip
def test_thinking_under_the_names_of_servers_and_proxies(thought: dict[str, Any]) -> None:
    for found in (
        whole({"content": "four", **thought}), streamed(delta(**thought), delta(content="four"))
    ):  # fmt: skip
        assert message(found) == {"role": "assistant", "content": "four", "reasoning": "hm"}


def test_a_mark_of_the_byte_order_costs_nothing() -> None:
    mark = b"\xef\xbb\xbf"
    body = {"choices": [{"message": {"content": "four"}, "finish_reason": "stop"}]}
    events = sse(delta(content="fo"), delta(content="ur"), delta(finish="stop"))
    for found in (
        row(response=mark + json.dumps(body).encode()),
        row(response=mark + events, stream=True),
        row(response=mark + events),
    ):
        assert (found["response_text"], found["status"]) == ("four", "ok")


def test_an_empty_id_is_none() -> None:
    # Azure's first chunk, with what its filter says of the prompt, has no id yet.
    first = {"id": "", "choices": [], "prompt_filter_results": []}
    assert streamed(first, delta(content="a"), delta(finish="stop"))["upstream_id"] == "chatcmpl-9"
    for finish in ("stop", "length"):
        choice = {"message": {"content": "a"}, "finish_reason": finish}
        assert row(response={"id": "", "choices": [choice], "usage": USED})["upstream_id"] is None


@pytest.mark.parametrize("nothing", ["", None, " ", "{}"])
def test_a_tool_without_parameters_is_called_with_an_empty_object(nothing: Any) -> None:
    said = {"id": "c", "type": "function", "function": {"name": "now", "arguments": nothing}}
    ways = (whole({"tool_calls": [said]}), streamed(call(nothing, name="now", id="c")))
    assert [calls(found) for found in ways] == [[("c", "now", {})]] * 2


def test_ids_that_are_only_the_tools_name() -> None:
    def piece(index: int, city: str) -> dict[str, Any]:
        function = {"name": "weather", "arguments": json.dumps({"city": city})}
        return {"index": index, "id": "weather", "type": "function", "function": function}

    found = streamed(delta(tool_calls=[piece(0, "Turin")]), delta(tool_calls=[piece(1, "Rome")]))
    assert [each[2] for each in calls(found)] == [{"city": "Turin"}, {"city": "Rome"}]


@given(
    name=st.sampled_from(["a", "get_weather", "edit_existing_file"]),
    arguments=st.dictionaries(st.text(max_size=5), st.text(max_size=9), min_size=1, max_size=3),
    manner=st.sampled_from(["once", "with every piece", "growing", "in pieces"]),
    cut=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_a_call_cut_anywhere_is_the_call(
    name: str, arguments: dict[str, str], manner: str, cut: int
) -> None:
    text = json.dumps(arguments)
    pieces = [text[at : at + cut] for at in range(0, len(text), cut)]
    names = {
        "once": [name],
        "with every piece": [name] * len(pieces),
        "growing": [name[: 3 * (at + 1)] for at in range(len(pieces))],
        "in pieces": [name[at : at + 4] for at in range(0, len(name), 4)],
    }[manner]
    pieces = [""] * max(0, len(names) - len(pieces)) + pieces
    names += [""] * (len(pieces) - len(names))
    if manner == "growing":
        names[-1] = name
    chunks = [call(p, id="c", name=n) if n else call(p) for p, n in zip(pieces, names, strict=True)]
    assert calls(streamed(*chunks)) == [("c", name, arguments)]
