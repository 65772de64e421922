"""`POST /v1/feedback`: accepted, duplicate, malformed; what becomes an event."""

from pathlib import Path
from typing import Any

import pytest

from gateway.feedback import FeedbackIn, Seen, to_event
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
    {"completion_id": "a", "value": "yes", "kind": "binary"},
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
    for number in range(4):
        seen.put(f"k{number}", f"fb{number}")
    assert [seen.get(f"k{number}") for number in range(4)] == [None, None, "fb2", "fb3"]
