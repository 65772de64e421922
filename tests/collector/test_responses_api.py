"""Items of the Responses API, whole and streamed, as the messages that say the same."""

import json
from typing import Any

import pytest

from tests.collector.answers import calls, message, row, sse

TEXT = {"type": "message", "content": [{"type": "output_text", "text": "It is 18."}]}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"c": 1}'}
THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}


def answered(*output: Any, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": status, "output": output, **more}


def response(*output: Any, **more: Any) -> dict[str, Any]:
    return row(endpoint="responses", response=answered(*output, **more))


def events(*items: dict[str, Any]) -> dict[str, Any]:
    return row(endpoint="responses", stream=True, response=sse(*items, done=False))


def test_items_are_one_message() -> None:
    found = response(THOUGHT, TEXT, CALL)
    kept = message(found)
    assert (kept["content"], kept["reasoning"]) == ("It is 18.", "hm")
    assert calls(found) == [("c1", "weather", {"c": 1})]
    assert (found["status"], found["finish_reason"]) == ("ok", "completed")


def test_a_tool_that_the_server_ran_is_no_request_to_the_client() -> None:
    search = {"type": "web_search_call", "id": "ws", "action": {"query": "Turin"}}
    found = response(search, TEXT)
    assert calls(found) == [("ws", "web_search", {"query": "Turin"})]
    assert found["response_text"] == "It is 18."


def test_a_refusal() -> None:
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    found = response(refusal)
    assert (found["status"], found["response_text"]) == ("refused", "No.")
    started = {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}}
    streamed = events(started, {"type": "response.refusal.delta", "output_index": 0, "delta": "No"})
    assert (streamed["status"], message(streamed)["refusal"]) == ("refused", "No")


def test_a_picture_is_told_by_its_hash() -> None:
    found = response({"type": "image_generation_call", "id": "ig", "result": "c291bmQ="})
    (part,) = message(found)["content"]
    assert (part["type"], part["bytes"]) == ("image", 5)


def test_an_unfinished_response_says_why() -> None:
    for reason, status in (("max_output_tokens", "incomplete"), ("content_filter", "filtered")):
        details = {"incomplete_details": {"reason": reason}}
        found = response(TEXT, status="incomplete", **details)
        assert (found["status"], found["finish_reason"]) == (status, reason)
        body = answered(TEXT, status="incomplete", **details)
        streamed = events({"type": "response.incomplete", "response": body})
        assert (streamed["status"], streamed["response_text"]) == (status, "It is 18.")


def test_a_cut_stream_keeps_what_was_said() -> None:
    created = answered(status="in_progress")
    kinds = ("message", "function_call")
    added = [
        {"type": "response.output_item.added", "output_index": n, "item": {"type": kind}}
        for n, kind in enumerate(kinds)
    ]
    found = events(
        {"type": "response.created", "response": created}, *added,
        {"type": "response.output_text.delta", "output_index": 0, "delta": "It "},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "is"},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"c"'},
    )  # fmt: skip
    assert (found["status"], message(found)["content"]) == ("incomplete", "It is")
    assert message(found)["tool_calls"][0]["function"]["arguments"] == '{"c"'
    assert found["upstream_id"] == "resp_1"


def test_items_that_the_last_event_leaves_out_are_taken_from_the_events() -> None:
    done = {"type": "response.output_item.done", "output_index": 0, "item": CALL}
    found = events(done, {"type": "response.completed", "response": answered()})
    assert (found["status"], calls(found)) == ("ok", [("c1", "weather", {"c": 1})])


def of(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


OPEN = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": ""}
ADDED = of("output_item.added", output_index=0, item=OPEN)
PIECES = [
    of("function_call_arguments.delta", output_index=0, item_id="fc_1", delta=piece)
    for piece in ('{"c"', ": 1}")
]
REPEATED = of("function_call_arguments.done", output_index=0, item_id="fc_1", arguments='{"c": 1}')
SAID_NOTHING = {"type": "message", "content": [{"type": "text", "text": ""}]}
BARE = [{key: each[key] for key in ("type", "delta")} for each in PIECES]
CALLED = {
    "no item is done (proxies)": [ADDED, *PIECES],
    "the arguments once": [ADDED, REPEATED],
    "the arguments in pieces and once more": [ADDED, *PIECES, REPEATED],
    "the last event tells another output (SGLang)": [ADDED, *PIECES, of(
        "completed", response=answered(SAID_NOTHING))],
    "what is done has no name": [ADDED, *PIECES, of(
        "output_item.done", output_index=0, item={**OPEN, "name": ""})],
    "what is done has another id": [ADDED, *PIECES, of(
        "output_item.done", output_index=0, item={**CALL, "id": "fc_9"})],
    "neither place nor id": [of("output_item.added", item={**OPEN, "id": None}), *BARE],
}  # fmt: skip


@pytest.mark.parametrize("how", CALLED)
def test_a_call_is_whole_however_its_events_are_told(how: str) -> None:
    spoken = of("output_text.delta", output_index=1, delta="It is")
    for told in (CALLED[how], [*CALLED[how], spoken]):
        found = events(*told, of("completed", response=answered()))
        assert calls(found) == [("c1", "weather", {"c": 1})]
        assert found["status"] == "ok"


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("numbered", [True, False])
def test_two_calls_are_told_by_ids_or_places(done: bool, numbered: bool) -> None:
    told = []
    for number, city in enumerate(("Turin", "Rome")):
        item = {**OPEN, "id": f"fc_{number}", "call_id": f"c{number}"}
        text, place = json.dumps({"city": city}), number if numbered else 0
        told.append(of("output_item.added", output_index=place, item=item))
        told.append(of("function_call_arguments.delta", output_index=place, item_id=item["id"],
                       delta=text))  # fmt: skip
        if done or not numbered:
            told.append(
                of("output_item.done", output_index=place, item={**item, "arguments": text})
            )
    found = events(*told, of("completed", response=answered()))
    assert [each[2] for each in calls(found)] == [{"city": "Turin"}, {"city": "Rome"}]


def test_text_and_thinking_without_places_stay_apart() -> None:
    thought = of("reasoning_summary_text.delta", delta="hm")
    for last in ([], [of("output_text.done", text="It is 18.")]):
        spoken = [of("output_text.delta", delta=piece) for piece in ("It is ", "18.")]
        found = events(thought, *spoken, *last, of("completed", response=answered()))
        assert message(found) == {"role": "assistant", "content": "It is 18.", "reasoning": "hm"}


def asked(**request: Any) -> Any:
    return json.loads(row(endpoint="responses", request=request)["messages"])


def test_input_items_are_messages() -> None:
    picture = {"type": "input_image", "image_url": "https://pics.example/cat.png"}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "how"}, picture]},
        {**THOUGHT, "id": "rs_1"}, CALL, {**CALL, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "18"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
    ]  # fmt: skip
    user, assistant, tool, last = asked(input=items)
    assert user["content"][1] == {"type": "image_url", "image_url": {"url": picture["image_url"]}}
    assert [call["id"] for call in assistant["tool_calls"]] == ["c1", "c2"]
    assert assistant["reasoning"] == "hm"
    assert tool == {"role": "tool", "tool_call_id": "c1", "content": "18"}
    assert last == {"role": "assistant", "content": "x"}


def test_a_history_that_is_only_named_is_part_of_the_prompt() -> None:
    prompts = [asked(input="and now?", previous_response_id=name) for name in ("r1", "r2")]
    assert prompts[0] != prompts[1]
    assert [each["role"] for each in prompts[0]] == ["reference", "user"]
    reference = {"type": "item_reference", "id": "msg_1"}
    assert asked(input=[reference, {"role": "user", "content": "x"}])[0]["content"] == [reference]


def test_the_format_asked_for_is_the_response_format() -> None:
    shape = {"type": "json_schema", "name": "n", "schema": {}}
    found = row(endpoint="responses", request={"input": "x", "text": {"format": shape}})
    assert json.loads(found["response_format"]) == shape
