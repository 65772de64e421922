"""An erasure leaves no word and no name in the lake, its files or the label queue, and no hole."""

import json
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from collector.compact import expunge, maintain
from collector.tally import keep
from collector.wal_source import holding
from evaluators.quarantine import forget as forget_rater
from evaluators.quarantine import release, released
from evaluators.queue import Candidate, Queue, forget
from everlearn.config import Service
from everlearn.errors import InputError, NotFound
from everlearn.events import encode
from everlearn.lake.ducklake import DuckLake
from everlearn.lake.erase import TOUCHED, Subject, answers, erase, must_be_known
from everlearn.state import open_state
from everlearn.task import Task
from tests.builders import make_completion
from tests.collector.conftest import lake, service
from tests.collector.events import column, fill_wal

__all__ = ["lake", "service"]

SECRET = "12 Elm Street, Springfield"
ANN, BOB = "ann@example.org", "bob"
AT = datetime(2026, 11, 1, tzinfo=UTC)


def asked(number: int, unit: str, text: str) -> dict[str, Any]:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "user": unit})
    return {
        **{"completion_id": f"cmpl_{number:03d}", "gateway_id": "gw", "seq": number},
        **{"request_id": f"r{number}", "task": "text2sql", "unit": unit, "status": "ok"},
        **{"received_at": AT, "messages": [{"role": "user", "content": text}]},
        **{"response_text": f"you said {text}", "raw_request": body.encode()},
    }


def said(number: int, **fields: Any) -> dict[str, Any]:
    ordinary = {"kind": "binary", "name": "thumbs", "author": "end_user", "received_at": AT}
    return {**ordinary, "feedback_id": f"fb_{number}", "gateway_id": "gw", "seq": 100 + number} | {
        **fields
    }


def filled(lake: DuckLake) -> dict[str, str]:
    """Two people's traffic, feedback, verdicts and rows; ids by what they are."""
    mine = [asked(number, ANN, f"where is {SECRET}? {number}") for number in (1, 2)]
    others = [asked(number, BOB, f"how many orders? {number}") for number in range(3, 33)]
    first, second, other = "cmpl_001", "cmpl_002", "cmpl_003"
    words = [
        said(1, completion_id=first, kind="comment", value_text=f"not {SECRET}"),
        said(2, completion_id=other, author_id=ANN, value_text=SECRET, kind="correction"),
        said(3, completion_id=other, author_id=BOB, value_bool=True),
        said(4, completion_id=other, other_completion_id=second, kind="preference"),
        said(5, request_id="never", value_text="an orphan of nobody", kind="label"),
    ]

    def traffic(transaction: Any) -> None:
        transaction.append("completions", [mine[0], *others, mine[1]])
        transaction.append("feedback", words)

    lake.commit(traffic)

    def rows(transaction: Any) -> None:
        for unit, name in ((ANN, first), (BOB, other)):
            row = {"completion_id": name, "unit": unit, "task": "text2sql", "created_at": AT}
            text = SECRET if unit == ANN else "orders"
            score = {"completion_id": name, "task": "text2sql", "value": 1.0, "reason": text}
            transaction.append("scores", [{**score, "evaluator": "thumbs", "created_at": AT}])
            frozen = {"snapshot_id": "snap_1", "completion_id": name, "unit": unit}
            transaction.append("snapshot_rows", [{**frozen, "completion": text}])
            transaction.append("lessons", [{**row, "round_id": "one", "revised": text}])
            transaction.append("best_of", [{**row, "best": text}])
            counted = {"release_id": "rel_1", "metric": "thumbs", "unit": unit, "stage": 0}
            transaction.append("release_units", [{**counted, "position": 1, "value": 1.0}])
        # Another's answer that was to learn by her comment.
        lesson = {"completion_id": other, "unit": BOB, "task": "text2sql", "comments": ["fb_1"]}
        transaction.append("lessons", [{**lesson, "scores": {"rules": [f"Never say {SECRET}"]}}])
        weighed = {"snapshot_id": "snap_1", "completion_id": other, "unit": BOB}
        transaction.append("snapshot_rows", [{**weighed, "rules": [f"Never say {SECRET}"]}])
        ruled = {"feedback_id": "fb_1", "completion_id": first, "task": "text2sql"}
        transaction.append("comments", [{**ruled, "rule": f"Never say {SECRET}"}])
        torn = encode(make_completion(unit=ANN, error=SECRET))[:-3]
        transaction.append("dead_letters", [{"gateway_id": "gw", "seq": 7, "raw": torn}])
        transaction.append("dead_letters", [{"gateway_id": "gw", "seq": 8, "raw": b"nobody's"}])

    lake.commit(rows)
    return {"first": first, "second": second, "other": other}


def found(service: Service, text: str) -> list[str]:
    """Files of the data folder with these bytes, but for the event log."""
    files = [path for path in service.data_path.rglob("*") if path.is_file()]
    outside = [path for path in files if service.wal_path not in path.parents]
    return [str(path) for path in outside if text.encode() in path.read_bytes()]


def test_no_word_and_no_name_stays_in_any_table_or_file(service: Service, lake: DuckLake) -> None:
    filled(lake)
    keep(lake)
    erase(lake, Subject(unit=ANN))
    told = expunge(lake, TOUCHED, at_once=True)
    assert told["files_waiting"] == 0
    for table in TOUCHED:
        rows = lake.read(f"SELECT * FROM {table}").to_pylist()
        assert not [row for row in rows if SECRET in str(row) or ANN in str(row)], table
    assert [found(service, text) for text in (SECRET, ANN)] == [[], []]


def test_what_others_asked_and_said_stays(lake: DuckLake) -> None:
    ids = filled(lake)
    done = erase(lake, Subject(unit=ANN))
    expunge(lake, TOUCHED, at_once=True)
    assert done == {
        "completions": 2,
        "feedback": 3,
        "dead_letters": 1,
        "scores": 1,
        "snapshot_rows": 1,
        "comments": 1,
        "lessons": 1,
        "best_of": 1,
        "release_units": 1,
        "rules": 2,
    }
    assert column(lake, "SELECT count(*) FROM completions WHERE unit = 'bob'") == [30]
    assert column(lake, "SELECT completion_id FROM feedback_joined") == [ids["other"]]
    states = "SELECT state, count(*)::INT AS n FROM feedback_state GROUP BY state ORDER BY state"
    assert lake.read(states).to_pylist() == [
        {"state": "joined", "n": 1},
        {"state": "orphan", "n": 1},
    ]
    for table, rows in (("scores", 1), ("snapshot_rows", 2), ("lessons", 1), ("best_of", 1)):
        assert column(lake, f"SELECT completion_id FROM {table}") == [ids["other"]] * rows, table
    # The evidence of a release keeps its numbers, under a name that leads to nobody.
    names = column(lake, "SELECT unit FROM release_units ORDER BY unit")
    assert names[0] == BOB
    assert names[1].startswith("erased_")
    assert column(lake, "SELECT reason FROM dead_letters ORDER BY seq") == ["erased", None]


def test_what_was_counted_stays_counted(lake: DuckLake) -> None:
    """The ledger of captured events has no hole, and what is delivered again finds its place."""
    filled(lake)
    seqs = "SELECT gateway_id, seq FROM completions UNION ALL SELECT gateway_id, seq FROM feedback"
    before = sorted(map(str, lake.read(seqs).to_pylist()))
    erase(lake, Subject(unit=ANN))
    assert sorted(map(str, lake.read(seqs).to_pylist())) == before
    left = lake.read("SELECT * FROM completions WHERE status = 'erased'").to_pylist()
    kept = {name for row in left for name, value in row.items() if value is not None}
    assert kept == {"completion_id", "gateway_id", "seq", "received_at", "status"}


def test_a_second_time_finds_nothing(lake: DuckLake) -> None:
    filled(lake)
    assert erase(lake, Subject(unit=ANN))
    assert erase(lake, Subject(unit=ANN)) == {}
    assert erase(lake, Subject(unit="whom nobody knows")) == {}


def test_one_answer_goes_alone(lake: DuckLake) -> None:
    ids = filled(lake)
    subject = Subject(completion_id=ids["first"])
    must_be_known(lake, subject)
    done = erase(lake, subject)
    assert (done["completions"], done["feedback"], done["comments"]) == (1, 1, 1)
    assert column(lake, f"SELECT completion_id FROM completions WHERE unit = '{ANN}'") == [
        ids["second"]
    ]
    assert column(lake, "SELECT unit FROM release_units ORDER BY unit") == [ANN, BOB]
    must_be_known(lake, subject)
    assert erase(lake, subject) == {}


def test_a_completion_that_never_was_is_refused(lake: DuckLake) -> None:
    filled(lake)
    with pytest.raises(NotFound, match="no such completion"):
        must_be_known(lake, Subject(completion_id="cmpl_nobody"))


def test_a_name_is_a_name_and_no_query(lake: DuckLake) -> None:
    filled(lake)
    for name in ("' OR 1=1 --", "%", "ann", "a" * 5000, "安"):
        assert erase(lake, Subject(unit=name)) == {}, name
    assert column(lake, "SELECT count(*) FROM completions WHERE status = 'erased'") == [0]


def test_what_names_nobody_is_refused() -> None:
    for names in ({}, {"unit": ""}, {"unit": "a\0b"}, {"unit": "a", "completion_id": "b"}):
        with pytest.raises(InputError):
            Subject(**names)


def test_old_files_wait_for_those_who_read_them_unless_told(
    service: Service, lake: DuckLake
) -> None:
    filled(lake)
    erase(lake, Subject(unit=ANN))
    told = expunge(lake, TOUCHED, at_once=False)
    assert told["files_waiting"] > 0
    maintain(lake, 0.0)
    assert lake.waiting_files() == 0
    assert found(service, SECRET) == []


def test_the_event_log_names_the_segments_that_hold_the_name(service: Service) -> None:
    import msgspec

    fill_wal(service, [make_completion(unit=ANN), make_completion(unit=f"{ANN}.au")])
    for name, number in ((ANN, 1), ("ann", 0), ("example.org", 0)):
        assert len(holding(service.wal_path, msgspec.msgpack.encode(name))) == number


def test_the_queue_and_the_quarantine_forget_too(service: Service, lake: DuckLake) -> None:
    ids = filled(lake)
    task = Task.model_validate(
        {"task": "text2sql", "base_model": "base", "upstream": "local"}
        | {"graders": [{"name": "thumbs", "type": "feedback"}]}
    )
    with closing(open_state(service)) as state:
        queue = Queue(state, task)
        queue.offer(
            [
                Candidate(ids[which], which, "random", "by chance", place, 0.5)
                for place, which in enumerate(("first", "other"))
            ]
        )
        queue.hold(ids["first"], "expert")
        assert queue.label(ids["first"], "expert", f"wrong: {SECRET}")
        assert forget(state, answers(lake, Subject(unit=ANN))) == 1
        assert [item.completion_id for item in queue.items(9)] == [ids["other"]]
    assert found(service, f"wrong: {SECRET}") == []
    release(service, "text2sql", ANN)
    assert forget_rater(service, "text2sql", ANN)
    assert not forget_rater(service, "text2sql", ANN)
    assert released(service, "text2sql") == frozenset()
