"""Feedback as the clients of other tools send it: bodies as their SDKs and documents have them."""

import base64
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from everlearn.config import Key
from everlearn.events import Feedback
from everlearn.opinion import value_of
from gateway.feedback import AnyName, checked, to_event
from gateway.feedback_formats import FORMATS, PORTKEY
from gateway.feedback_formats.format import Format, Sent, with_key
from gateway.http.wire import Refusal
from tests.builders import sha256
from tests.gateway.backend import backend
from tests.gateway.door import Door, door

LANGFUSE, INGESTION, TENSORZERO, PHOENIX, HELICONE = FORMATS
TRACE = "abcdef1234567890abcdef1234567890"
Fields = Mapping[str, Any]


NO_NAMES: Fields = {}


def event(form: Format, content: Any, names: Fields = NO_NAMES, key: Key | None = None) -> Feedback:
    """What becomes of one piece."""
    [piece] = form.read(Sent(content, names, key)).pieces
    assert not isinstance(piece, Refusal)
    return to_event(checked(AnyName, piece), 1.0, key)


def has(found: Feedback, expected: Fields) -> None:
    assert {name: getattr(found, name) for name in expected} == expected


SCORE = {"traceId": TRACE, "name": "quality"}
SCORES: list[tuple[Fields, Fields]] = [
    (
        {"value": 0.9, "dataType": "NUMERIC", "observationId": "abcdef1234567890"},
        {"kind": "scalar", "name": "quality", "value_number": 0.9,
         "completion_id": "abcdef1234567890", "request_id": TRACE},
    ),
    ({"value": 0.9}, {"kind": "scalar", "completion_id": TRACE, "request_id": TRACE}),
    ({"value": 1, "dataType": "BOOLEAN"}, {"kind": "binary", "value_bool": True}),
    ({"value": 0.0, "dataType": "BOOLEAN"}, {"kind": "binary", "value_bool": False}),
    ({"value": "polite", "dataType": "CATEGORICAL"}, {"kind": "label", "value_text": "polite"}),
    ({"value": "polite"}, {"kind": "label", "value_text": "polite"}),
    ({"value": "too long", "dataType": "TEXT"}, {"kind": "comment", "comment": "too long"}),
    ({"value": "SELECT 2", "dataType": "CORRECTION"},
     {"kind": "correction", "value_text": "SELECT 2"}),
    ({"value": 1, "id": "s1", "comment": "yes", "timestamp": "2026-01-01T00:00:00Z"},
     {"idempotency_key": "s1", "comment": "yes", "occurred_at": 1767225600.0}),
    ({"value": 1, "metadata": {"page": 7, "of": "a"}, "environment": "prod"},
     {"tags": {"page": "7", "of": "a", "environment": "prod"}}),
    ({"value": 1, "traceId": None, "sessionId": "talk-1"},
     {"conversation_id": "talk-1", "completion_id": None, "request_id": None}),
    ({"value": 1, "queueId": None, "somethingNew": 1}, {"value_number": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "expected"), SCORES)
def test_a_score_of_langfuse(sent: Fields, expected: Fields) -> None:
    has(event(LANGFUSE, {**SCORE, **sent}), expected)


METRICS: list[tuple[Fields, Fields]] = [
    ({"metric_name": "draft_accepted", "value": True, "inference_id": "i1"},
     {"kind": "binary", "name": "draft_accepted", "value_bool": True, "completion_id": "i1",
      "request_id": "i1"}),
    ({"metric_name": "stars", "value": 4, "episode_id": "e1", "tags": {"user": "7"}},
     {"kind": "scalar", "value_number": 4.0, "conversation_id": "e1", "tags": {"user": "7"}}),
    ({"metric_name": "comment", "value": "too long", "inference_id": "i1"},
     {"kind": "comment", "comment": "too long", "value_text": None}),
    ({"metric_name": "demonstration", "value": "SELECT 2", "inference_id": "i1"},
     {"kind": "correction", "value_text": "SELECT 2"}),
    ({"metric_name": "demonstration", "inference_id": "i1",
      "value": [{"type": "text", "text": "SELECT 2"}]},
     {"kind": "correction", "value_text": "SELECT 2"}),
    ({"metric_name": "demonstration", "value": {"sql": "SELECT 2"}, "inference_id": "i1"},
     {"kind": "correction", "value_text": '{"sql": "SELECT 2"}'}),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "expected"), METRICS)
def test_a_metric_of_tensorzero(sent: Fields, expected: Fields) -> None:
    has(event(TENSORZERO, sent), expected)


SPAN = {"span_id": "67f6740bbe1ddc3f", "name": "correctness", "annotator_kind": "HUMAN"}
ANNOTATIONS: list[tuple[Fields, Fields]] = [
    ({"result": {"score": 0.85, "label": "correct", "explanation": "as asked"},
      "metadata": {"model": "gpt-4"}, "identifier": "user-123"},
     {"kind": "scalar", "name": "correctness", "value_number": 0.85, "comment": "as asked",
      "completion_id": "67f6740bbe1ddc3f", "request_id": "67f6740bbe1ddc3f",
      "tags": {"model": "gpt-4", "label": "correct"},
      "idempotency_key": "correctness:user-123", "author": "end_user"}),
    ({"result": {"label": "correct"}}, {"kind": "label", "value_text": "correct", "tags": None}),
    ({"result": {"score": 0}}, {"kind": "scalar", "value_number": 0.0, "idempotency_key": None}),
    ({"result": {"explanation": "too long"}}, {"kind": "comment", "comment": "too long"}),
    ({"result": {"score": 1.0}, "annotator_kind": "LLM"}, {"author": "judge"}),
    ({"result": {"score": 1.0}, "annotator_kind": "CODE"}, {"author": "code"}),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "expected"), ANNOTATIONS)
def test_an_annotation_of_phoenix(sent: Fields, expected: Fields) -> None:
    has(event(PHOENIX, {"data": [{**SPAN, **sent}]}), expected)


@pytest.mark.parametrize("rating", [True, False])
def test_a_rating_of_helicone(rating: bool) -> None:
    found = event(HELICONE, {"rating": rating}, {"request_id": "r1"})
    has(found, {"kind": "binary", "name": "thumbs", "value_bool": rating, "request_id": "r1",
                "completion_id": "r1"})  # fmt: skip


def test_a_value_of_portkey() -> None:
    sent = {"trace_id": "t1", "value": -5, "weight": 0.5, "metadata": {"_user": "ann", "n": 1}}
    found = event(PORTKEY, sent)
    has(found, {"kind": "scalar", "name": "portkey", "value_number": -5.0, "request_id": "t1",
                "author_id": None, "weight": 1.0,
                "tags": {"_user": "ann", "n": "1", "weight": "0.5"}})  # fmt: skip
    row = {"kind": "scalar", "name": "portkey", "value_number": found.value_number}
    assert value_of(row) == 0.25
    assert value_of({**row, "value_number": -1}, {"portkey": "binary"}) == 0.0


def key(role: Any, **fields: Any) -> Key:
    return Key(id="k", role=role, sha256=sha256("secret"), **fields)


def test_who_speaks_is_the_keys_to_say_where_the_format_does_not() -> None:
    correction = {**SCORE, "value": "SELECT 2", "dataType": "CORRECTION"}
    said = {role: event(LANGFUSE, correction, key=key(role)).author
            for role in ("client", "expert", "judge", "service")}  # fmt: skip
    assert said == {
        "client": "end_user", "expert": "expert", "judge": "judge", "service": "end_user",
    }  # fmt: skip
    # What is set up for a reviewer to look at is not yet the reviewer's word.
    assert event(LANGFUSE, {**correction, "source": "ANNOTATION"}, key=key("client")).author == (
        "end_user"
    )
    sent = {"trace_id": "t1", "value": 1, "metadata": {"_user": "ann"}}
    assert event(PORTKEY, sent, key=key("client", may_speak_for="users")).author_id == "ann"
    assert event(PORTKEY, sent, key=key("client")).author_id == "k"


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({b"authorization": b"Bearer s"}, b"Bearer s"),
        ({b"authorization": b"Basic " + base64.b64encode(b"pk-lf-1:s")}, b"Bearer s"),
        ({b"authorization": b"Basic !"}, b"Basic !"),
        ({b"x-portkey-api-key": b"s", b"authorization": b"Bearer openai"}, b"Bearer s"),
        ({b"helicone-auth": b"Bearer s"}, b"Bearer s"),
        ({}, None),
    ],
)
def test_a_key_is_found_where_their_clients_put_it(
    headers: Mapping[bytes, bytes], shown: bytes | None
) -> None:
    assert with_key(headers).get(b"authorization") == shown


def error(form: Format, status: int, message: str) -> Any:
    """How the tool's own server would say it."""
    return form.refused(Refusal(status, message))[1]


GOOD: dict[str, tuple[Format, str, Any]] = {
    "langfuse": (LANGFUSE, "/api/public/scores", {**SCORE, "value": 1}),
    "tensorzero": (TENSORZERO, "/feedback",
                   {"metric_name": "ok", "value": True, "inference_id": "i1"}),
    "phoenix": (PHOENIX, "/v1/span_annotations", {"data": [{**SPAN, "result": {"score": 1}}]}),
    "helicone": (HELICONE, "/v1/request/r1/feedback", {"rating": True}),
    "portkey": (PORTKEY, "/v1/feedback", {"trace_id": "t1", "value": 1}),
}  # fmt: skip


async def post(gate: Door, path: str, content: Any, secret: str = "secret") -> httpx.Response:
    bearer = {"authorization": f"Bearer {secret}"}
    return await gate.client.post(path, json=content, headers=bearer)


@pytest.mark.anyio
async def test_each_is_answered_as_its_own_server_would(tmp_path: Path) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        got = {}
        for name, (_, path, content) in GOOD.items():
            answer = await post(gate, path, content)
            assert answer.status_code == 200, answer.text
            got[name] = answer.json()
        stored = [event.feedback_id for event in gate.feedback()]
        assert len(stored) == len(GOOD)
        assert got == {
            "langfuse": {"id": stored[0]},
            "tensorzero": {"feedback_id": stored[1]},
            "phoenix": {"data": []},
            "helicone": {"data": None, "error": None},
            "portkey": {"status": "success", "message": "Feedback successfully saved",
                        "feedback_ids": [stored[4]]},
        }  # fmt: skip
        assert uuid.UUID(stored[1]).version == 7
        waited = await post(gate, "/v1/span_annotations?sync=true", GOOD["phoenix"][2])
        assert waited.json() == {"data": [{"id": gate.feedback()[-1].feedback_id}]}
        # Ours stands beside Portkey's on the same path.
        ours = await gate.client.post("/v1/feedback", json={"completion_id": "c", "value": 1})
        assert (ours.status_code, ours.json()["status"]) == (202, "accepted")


@pytest.mark.anyio
async def test_authority_limits_and_errors_are_the_same_in_every_format(tmp_path: Path) -> None:
    keys = [{"id": "k", "sha256": sha256("secret"), "requests_per_minute": 2}]
    async with backend() as upstream, door(tmp_path, upstream.url, keys=keys) as gate:
        for form, path, content in GOOD.values():
            wrong = await post(gate, path, content, "another")
            assert wrong.status_code == 401
            told = wrong.text if form is PHOENIX else wrong.json()
            assert told == error(form, 401, "The API key is not valid.")
            broken = await gate.client.post(
                path, content=b"{", headers={"authorization": "Bearer secret"}
            )
            if path != "/v1/feedback":  # of what cannot be read nobody knows whose it is
                assert broken.status_code == form.refused(Refusal(422, ""))[0]
                assert "not JSON" in broken.text
        judged = {"data": [{**SPAN, "result": {"score": 1}, "annotator_kind": "LLM"}]}
        refused = await post(gate, "/v1/span_annotations", judged)
        assert refused.status_code == 403
        assert refused.text.startswith("`annotator_kind`: 'judge' needs a key")
        assert gate.feedback() == []
        for number in range(3):
            last = await post(gate, "/feedback", GOOD["tensorzero"][2])
            assert last.status_code == (429 if number == 2 else 200)
        assert int(last.headers["retry-after"]) >= 1
        assert "Rate limit" in last.json()["error"]


@pytest.mark.anyio
async def test_an_array_of_scores_is_taken_but_for_those_that_are_none(tmp_path: Path) -> None:
    good = [{**SCORE, "id": f"s{number}", "value": number} for number in range(3)]
    bad: list[Any] = [
        {**SCORE, "value": "x", "dataType": "NUMERIC"}, {"name": "a", "value": 1},
        {**SCORE, "value": 1, "id": "x" * 300}, 17,
    ]  # fmt: skip
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        all_good = await post(gate, "/api/public/scores", good)
        assert (all_good.status_code, all_good.json()) == (202, {"message": "Accepted"})
        mixed = await post(gate, "/api/public/scores", [*good, *bad])
        assert mixed.status_code == 207
        assert (mixed.json()["accepted"], mixed.json()["rejected"]) == (3, 4)
        assert [each["message"] for each in mixed.json()["errors"]] == [
            "`value` of a NUMERIC is a number",
            "name one of `traceId`, `observationId` and `sessionId`",
            "`id` has at most 256 characters",
            "a score is an object, not int",
        ]
        # The same again is the same; another value under the same id is a change.
        assert len(gate.feedback()) == 3
        changed = await post(gate, "/api/public/scores", [{**good[0], "value": 7}])
        assert changed.status_code == 202
        assert [event.value_number for event in gate.feedback()] == [0.0, 1.0, 2.0, 7.0]


@pytest.mark.anyio
async def test_the_scores_of_older_clients_are_taken_out_of_their_events(tmp_path: Path) -> None:
    at = "2026-01-01T00:00:00Z"
    score = {"id": "e1", "type": "score-create", "timestamp": at, "body": {**SCORE, "value": 1}}
    batch: list[Any] = [
        {"id": "e0", "type": "trace-create", "timestamp": at, "body": {"id": TRACE}}, score,
        {**score, "id": "e2", "body": {**SCORE}}, 17,
    ]  # fmt: skip
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        got = await post(gate, INGESTION.path, {"batch": batch, "metadata": {"sdk": "python"}})
        assert got.status_code == 207
        assert got.json()["successes"] == [{"id": "e1", "status": 201}]
        errors = [(each["id"], each["status"], each["error"]) for each in got.json()["errors"]]
        assert errors == [(name, 400, "InvalidRequestError") for name in ("e0", "e2", None)]
        assert [event.value_number for event in gate.feedback()] == [1.0]
        assert (await post(gate, INGESTION.path, {"batch": 7})).status_code == 400
        half = rb'{"batch": [{"id": "\ud83d", "type": "score-create", "body": {}}, {"id": 1e999}]}'
        odd = await gate.client.post(INGESTION.path, content=half)
        assert [each["status"] for each in odd.json()["errors"]] == [400, 400]


BAD: list[tuple[str, Any, str]] = [
    ("langfuse", {**SCORE, "value": 2, "dataType": "BOOLEAN"}, "`value` of a BOOLEAN is 1 or 0"),
    ("langfuse", {**SCORE, "value": 1, "dataType": "OTHER"}, "`dataType` is one of"),
    ("langfuse", {**SCORE}, "`value` is missing"),
    ("langfuse", {**SCORE, "value": 1, "metadata": [1]}, "`metadata` is an object"),
    ("langfuse", {**SCORE, "value": 1, "timestamp": "today"}, "`timestamp` is a time"),
    ("tensorzero", {"metric_name": "a", "value": 1}, "exactly one of `inference_id`"),
    ("tensorzero", {"metric_name": "a", "value": [1], "inference_id": "i"}, "`value` is true"),
    ("tensorzero", {"metric_name": "a", "value": 1, "inference_id": 7}, "`inference_id` is a text"),
    ("phoenix", {"data": {}}, "`data` is a list"),
    ("phoenix", {"data": [{**SPAN, "result": {}}]}, "`result` has a `score`"),
    ("phoenix", {"data": [{**SPAN, "result": {"score": "1"}}]}, "`score` is a number"),
    ("phoenix", {"data": [{**SPAN, "result": {"score": 1}, "span_id": ""}]}, "`span_id` is empty"),
    ("helicone", {"rating": 1}, "`rating` is true or false"),
    ("helicone", [], "the body is an object"),
    ("portkey", {"trace_id": "t", "value": 11}, "`value` is a whole number from -10 to 10"),
    ("portkey", [{"trace_id": "t", "value": 1}, {"trace_id": "t"}], "`value` is missing"),
    ("portkey", {"trace_id": "x" * 300, "value": 1}, "`trace_id` has at most 256 characters"),
    ("portkey", [{"trace_id": "t", "value": 1}] * 1001, "1000 are allowed at once"),
]


@pytest.mark.anyio
async def test_what_is_malformed_is_said_in_the_words_of_the_format_and_not_stored(
    tmp_path: Path,
) -> None:
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for name, content, why in BAD:
            form, path, _ = GOOD[name]
            answer = await post(gate, path, content)
            assert answer.status_code == form.refused(Refusal(422, ""))[0], (name, content)
            assert why in answer.text, (name, content, answer.text)
        dry = {**GOOD["tensorzero"][2], "dryrun": True}
        assert uuid.UUID((await post(gate, "/feedback", dry)).json()["feedback_id"])
        assert gate.feedback() == []
