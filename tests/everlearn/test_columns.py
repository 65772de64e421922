"""Column specs, what is rendered from them, and the events they take."""

from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from collector.decode import COMPLETION_FIELDS, FEEDBACK_FIELDS, completion_row, feedback_row
from everlearn.events import SCHEMA_VERSION, Completion, Feedback, decode, encode
from everlearn.lake.columns import COMPLETIONS, FEEDBACK, FOUND, TABLES, Column, TableSpec
from everlearn.lake.schema import arrow_schema, ddl, docs
from tests.builders import make_completion, make_feedback

ROOT = Path(__file__).parents[2]


def test_the_docs_page_is_rendered_from_the_columns() -> None:
    assert (ROOT / "docs" / "lake.md").read_text() == docs(), (
        "run: python -m everlearn.lake.schema > docs/lake.md"
    )


def test_ddl_and_arrow_schema_come_from_the_same_columns() -> None:
    spec = TableSpec("t", "", (Column("a", "text", ""), Column("b", "floats", "")))
    assert ddl(spec) == 'CREATE TABLE IF NOT EXISTS t ("a" VARCHAR, "b" DOUBLE[])'
    assert arrow_schema(spec) == pa.schema([("a", pa.string()), ("b", pa.list_(pa.float64()))])


@pytest.mark.parametrize("spec", TABLES, ids=lambda spec: spec.name)
def test_every_column_says_what_it_is(spec: TableSpec) -> None:
    assert len(set(spec.names)) == len(spec.names)
    assert all(column.doc for column in spec.columns)


def test_a_decoded_event_fills_every_column() -> None:
    completion = completion_row(make_completion(), "gw", 7)
    feedback = feedback_row(make_feedback(), "gw", 7)
    assert set(COMPLETION_FIELDS) >= set(COMPLETIONS.names)
    assert set(FEEDBACK_FIELDS) >= set(FEEDBACK.names) - set(FOUND)
    assert dict(zip(COMPLETION_FIELDS, completion, strict=True))["seq"] == 7
    assert dict(zip(FEEDBACK_FIELDS, feedback, strict=True))["seq"] == 7


@pytest.mark.parametrize("event", [make_completion(), make_feedback(tags={"a": "b"})])
def test_an_event_survives_the_wire(event: Completion | Feedback) -> None:
    assert decode(encode(event)) == event


def test_a_field_from_the_future_is_passed_over_but_a_newer_schema_is_refused() -> None:
    known = msgspec.msgpack.decode(encode(make_completion(completion_id="c")))
    later = msgspec.msgpack.encode({**known, "invented_later": 1})
    assert decode(later).schema_version == SCHEMA_VERSION
    newer = msgspec.msgpack.encode({**known, "schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(ValueError, match="upgrade the collector"):
        decode(newer)
