"""Records as Arrow: chunk by chunk, in order, and what no column takes is buried alone."""

from typing import Any

import pyarrow as pa

from collector.batch import CHUNK, Batch
from everlearn.events import Completion, Feedback, encode
from everlearn.log.bus import Record
from tests.builders import make_completion, make_feedback


def records(*events: Completion | Feedback | bytes) -> list[Record]:
    payloads = [event if isinstance(event, bytes) else encode(event) for event in events]
    return [Record("s", seq, "gw", seq, item) for seq, item in enumerate(payloads, start=1)]


def read(batch: Batch) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table, read as the lake reads them."""
    found = {}
    for name, rows in batch.tables():
        table = rows.read_all() if isinstance(rows, pa.RecordBatchReader) else rows
        found[name] = table.to_pylist()
    return found


def test_what_is_longer_than_a_chunk_keeps_its_order() -> None:
    events = [make_completion(completion_id=str(n)) for n in range(CHUNK + 3)]
    batch = Batch(records(*events))
    found = read(batch)
    assert [row["seq"] for row in found["completions"]] == list(range(1, CHUNK + 4))
    assert [row["completion_id"] for row in found["completions"]] == [
        event.completion_id for event in events
    ]
    assert (batch.rows, batch.dead_letters) == (CHUNK + 3, 0)


def test_every_record_comes_to_one_row_or_one_dead_letter() -> None:
    late = make_completion(received_at=1e300)
    batch = Batch(
        records(
            *(make_completion(), b"garbage", make_feedback()),
            *(late, make_feedback(value_number=0.5), make_completion()),
        )
    )
    found = read(batch)
    assert [row["seq"] for row in found["completions"]] == [1, 6]
    assert [row["seq"] for row in found["feedback"]] == [3, 5]
    buried = {row["seq"]: row for row in found["dead_letters"]}
    assert buried[2]["raw"] == b"garbage"
    assert buried[4]["reason"].startswith("completions: ")
    assert late.response in buried[4]["raw"]
    assert (batch.rows, batch.dead_letters) == (4, 2)


def test_a_view_of_what_was_read_is_a_row_or_is_buried_as_its_bytes() -> None:
    kept = encode(make_completion(completion_id="kept"))
    window = memoryview(kept + b"garbage")
    payloads = window[: len(kept)], window[len(kept) :]
    batch = Batch([Record("s", seq, "gw", seq, item) for seq, item in enumerate(payloads, start=1)])
    found = read(batch)
    assert [row["completion_id"] for row in found["completions"]] == ["kept"]
    assert [(row["seq"], row["raw"]) for row in found["dead_letters"]] == [(2, b"garbage")]


def test_a_value_that_no_column_takes_costs_that_value() -> None:
    huge = b'{"choices":[{"message":{"content":"four"}}],"usage":{"prompt_tokens":%d}}' % 2**70
    ids = b'{"choices":[{"message":{"content":"four"},"token_ids":[%d]}]}' % 2**64
    batch = Batch(records(*(make_completion(response=body) for body in (huge, ids))))
    found = read(batch)["completions"]
    assert [row["response_text"] for row in found] == ["four", "four"]
    assert (found[0]["prompt_tokens"], found[1]["completion_token_ids"]) == (None, None)
    assert (batch.rows, batch.dead_letters) == (2, 0)


def test_a_nul_in_a_name_is_replaced_and_kept_in_a_text() -> None:
    completion = make_completion(unit="u\0x", response=b'{"choices":[{"text":"a\\u0000b"}]}')
    feedback = make_feedback(completion_id="\0", kind="correction", value_text="c\0")
    found = read(Batch(records(completion, feedback)))
    (row,), (said,) = found["completions"], found["feedback"]
    assert (row["unit"], row["response_text"]) == ("u\ufffdx", "a\0b")
    assert (said["completion_id"], said["value_text"]) == ("\ufffd", "c\0")


def test_a_row_holds_the_columns_by_name() -> None:
    completion = make_completion(task="t", unit="u", received_at=12.5)
    feedback = make_feedback(occurred_at=3.25, received_at=4.5, tags={"a": "b"})
    found = read(Batch(records(completion, feedback)))
    (row,), (given,) = found["completions"], found["feedback"]
    assert (row["task"], row["unit"], row["gateway_id"]) == ("t", "u", "gw")
    assert (row["raw_request"], row["raw_response"]) == (completion.request, completion.response)
    assert row["received_at"].timestamp() == 12.5
    assert (given["occurred_at"].timestamp(), given["received_at"].timestamp()) == (3.25, 4.5)
    assert (given["tags"], given["seq"]) == ('{"a":"b"}', 2)


def test_no_records_are_no_rows() -> None:
    assert read(Batch([])) == {"completions": [], "feedback": [], "dead_letters": []}
