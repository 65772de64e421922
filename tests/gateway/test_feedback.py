"""`POST /v1/feedback`: accepted, duplicate, malformed; what becomes an event."""

from pathlib import Path
from typing import Any

import pytest

from gateway.feedback import FeedbackIn, Seen, repeated, to_event
from tests.builders import make_feedback
from tests.gateway.backend import backend
from tests.gateway.door import door


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"value": True}, {"kind": "binary", "value_bool": True}),
        ({"value": "up"}, {"kind": "binary", "value_bool": True}),
        ({"value": "down"}, {"kind": "binary", "value_bool": False}),
        ({"value": 4}, {"kind": "scalar", "value_number": 4.0}),
        ({"value": 0.5, "name": "quality"}, {"kind": "scalar", "name": "quality"}),
        ({"value": "polite"}, {"kind": "label", "value_text": "polite"}),
        (
            {"value": "SELECT 2", "kind": "correction", "author": "expert"},
            {"kind": "correction", "value_text": "SELECT 2", "author": "expert"},
        ),
        ({"comment": "well done"}, {"kind": "comment", "comment": "well done"}),
        ({"kind": "retraction"}, {"kind": "retraction"}),
        ({"kind": "implicit", "value": True}, {"kind": "implicit", "value_bool": True}),
        (
            {"value": True, "occurred_at": "2026-01-01T00:00:00Z"},
            {"occurred_at": 1767225600.0},
        ),
        ({"value": True, "tags": {"page": "7"}}, {"tags": {"page": "7"}}),
    ],
)
def test_the_kind_follows_from_the_value(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    event = to_event(FeedbackIn(completion_id="cmpl_1", **sent), received_at=1.0)
    assert {name: getattr(event, name) for name in expected} == expected
    assert event.completion_id == "cmpl_1"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("true", True), ("False", False), ("thumbs-up", True), ("THUMBS_DOWN", False),
        ("no", False),
        ("\U0001f44d", True), ("\U0001f44e", False), (" yes ", True), ("negative", False),
    ],
)  # fmt: skip
def test_a_thumb_in_the_words_of_forms_is_a_thumb(word: str, meant: bool) -> None:
    for said in ({"name": "thumbs"}, {"name": "helpful", "kind": "binary"}):
        event = to_event(FeedbackIn(completion_id="c", value=word, **said), received_at=1.0)
        assert (event.kind, event.value_bool, event.value_text) == ("binary", meant, None)
    label = to_event(FeedbackIn(completion_id="c", value=word, name="sentiment"), received_at=1.0)
    assert (label.kind, label.value_text) == ("label", word)


def test_a_preference_names_the_better_one_first() -> None:
    event = to_event(FeedbackIn(preferred="a", other="b"), received_at=1.0)
    assert (event.kind, event.completion_id, event.other_completion_id) == ("preference", "a", "b")


MALFORMED: list[Any] = [
    {},
    {"value": True},
    {"completion_id": "a", "request_id": "b", "value": True},
    {"preferred": "a", "value": True},
    {"completion_id": "a", "value": {"nested": 1}},
    {"completion_id": "a", "value": True, "kind": "scalar"},
    {"completion_id": "a", "value": "up", "kind": "scalar"},
    {"completion_id": "a", "value": "perhaps", "kind": "binary"},
    {"completion_id": "a", "value": 1, "kind": "correction"},
    {"completion_id": "a", "kind": "preference"},
    {"completion_id": "a", "value": True, "author": "god"},
    {"completion_id": "a", "value": True, "unknown": 1},
    {"completion_id": "", "value": True},
    {"completion_id": "a" * 300, "value": True},
    {"completion_id": "a", "value": True, "occurred_at": "yesterday"},
    {"completion_id": "a", "value": True, "tags": {"a": {}}},
    [{"completion_id": "a", "value": True}, {}],
    [{"completion_id": "a", "value": True}] * 1001,
    "text",
    17,
]


@pytest.mark.anyio
@pytest.mark.parametrize("sent", MALFORMED)
async def test_malformed_feedback_is_refused_and_nothing_stored(tmp_path: Path, sent: Any) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        answer = await gate.client.post("/v1/feedback", json=sent)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["message"]
        assert gate.events() == []


@pytest.mark.anyio
async def test_feedback_is_captured_and_a_key_counts_once(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        sent = {"completion_id": "unknown", "value": "up", "idempotency_key": "k1"}
        first = await gate.client.post("/v1/feedback", json=sent)
        again = await gate.client.post("/v1/feedback", json=sent)
        [event] = gate.feedback()
    assert (first.status_code, first.json()["status"]) == (202, "accepted")
    assert (again.status_code, again.json()["status"]) == (202, "duplicate")
    assert again.json()["feedback_id"] == first.json()["feedback_id"] == event.feedback_id
    assert (event.value_bool, event.idempotency_key) == (True, "k1")


@pytest.mark.anyio
async def test_an_array_is_answered_with_an_array(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        sent = [{"request_id": f"r{number}", "value": number} for number in range(1000)]
        answer = await gate.client.post("/v1/feedback", json=sent)
        assert answer.status_code == 202
        assert [row["status"] for row in answer.json()] == ["accepted"] * 1000
        assert len(gate.feedback()) == 1000


def test_the_memory_of_keys_is_bounded() -> None:
    seen = Seen(size=2)
    events = [make_feedback(idempotency_key=f"k{number}") for number in range(4)]
    for event in events:
        seen.put(event)
    known = [repeated(event, seen.last(event)) for event in events]
    assert known == [None, None, events[2].feedback_id, events[3].feedback_id]


CHANGES = [
    ("the same again", {}, "duplicate"),
    ("another value", {"value": "down"}, "accepted"),
    ("another comment", {"comment": "after all"}, "accepted"),
    ("another person", {"author_id": "bob"}, "accepted"),
    ("another answer", {"completion_id": "cmpl_2"}, "accepted"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("what", "changed", "status"), CHANGES)
async def test_an_idempotency_key_says_which_word_not_which_click(
    tmp_path: Path, what: str, changed: dict[str, Any], status: str
) -> None:
    thumb = {"completion_id": "cmpl_1", "value": "up", "author_id": "ann", "idempotency_key": "k"}
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        assert (await gate.client.post("/v1/feedback", json=thumb)).status_code == 202
        again = await gate.client.post("/v1/feedback", json={**thumb, **changed})
        assert again.json()["status"] == status, what
        # Within an array by the same rule; and the first word once more is a change back.
        both = await gate.client.post("/v1/feedback", json=[{**thumb, **changed}, thumb])
        expected = ["duplicate", "duplicate" if not changed else "accepted"]
        if changed.keys() & {"author_id", "completion_id"}:
            expected = ["duplicate", "duplicate"]
        assert [one["status"] for one in both.json()] == expected, what


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ('{"completion_id":"a","value":"up","comment":"great \\ud83d"}', "`comment` holds half a"),
        ('{"completion_id":"a","value":"up","tags":{"\\udc00":"x"}}', "`tags` holds half a"),
        ('{"completion_id":"a","kind":"correction","value":"\\ud83d"}', "`value` holds half a"),
        ('{"completion_id":"a\\ud83d","value":"up"}', "`completion_id` holds half a"),
        ('{"completion_id":"a","value":1e999}', "not a finite number"),
        ('{"completion_id":"a","value":-Infinity}', "-Infinity is no number"),
        ('{"completion_id":"a","value":NaN}', "NaN is no number"),
        ('{"completion_id":"a","value":1' + "0" * 400 + "}", "not a finite number"),
        ('{"completion_id":"a","value":1' + "0" * 9000 + "}", "not JSON"),
        ("[" * 200_000, "nested too deeply"),
        ('{"completion_id":', "not JSON"),
        ("\xff", "not JSON"),
        ("[17]", "piece 0: feedback is an object"),
        ('[{"completion_id":"a","value":"up"},{"completion_id":"b","vote":1}]',
         "piece 1: `vote` is no field; there are: completion_id, "),
        ('{"completion_id":"a","value":true,"author":"god"}', "one of 'end_user', 'expert'"),
        ('{"completion_id":"a","value":true,"occurred_at":"2026-01-01T10:00:00"}', "time zone"),
        ('{"completion_id":"a","value":true,"occurred_at":"yesterday"}', "is a time"),
        ('{"completion_id":"a","value":true,"occurred_at":"9999-12-31T23:59:59-14:00"}', "9999"),
        ('{"completion_id":"a","value":true,"occurred_at":"0001-01-01T00:00:00+14:00"}', "year 1"),
        ('{"completion_id":"a","value":{"x":1}}', "`value` is true, false, a number or a text"),
        ('{"completion_id":17,"value":true}', "`completion_id` is a text, not 17"),
        ('{"completion_id":"","value":true}', "`completion_id` is empty"),
        ('{"completion_id":"a","value":true,"tags":{"a":{}}}', "`tags` is a flat map of texts"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_in_the_senders_words(
    tmp_path: Path, sent: str, why: str
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        answer = await gate.client.post(
            "/v1/feedback",
            content=sent.encode("latin-1"),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 422
        assert why in answer.json()["error"]["message"]
        assert gate.events() == []
        assert (await gate.client.get("/health")).json()["status"] == "ok"


@pytest.mark.anyio
async def test_an_array_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    small = {"segment_bytes": 4096, "wal_max_bytes": 16384}
    pieces = [{"completion_id": f"c{number}", "value": "up"} for number in range(1000)]
    async with backend() as upstream, door(tmp_path, upstream.url, capture=small) as gate:
        assert (await gate.client.post("/v1/feedback", json=pieces)).status_code == 503
        assert gate.feedback() == []
        few = await gate.client.post("/v1/feedback", json=pieces[:3])
        assert few.status_code == 202
        assert len(gate.feedback()) == 3
        assert (await gate.client.get("/health")).json()["status"] == "ok"
