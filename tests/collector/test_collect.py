"""The collector: every event once, whatever breaks; the ledger that proves it."""

import os
import threading
import time
from pathlib import Path

import pytest

from collector.collect import LATEST_SECONDS, Collector, Stored, positions
from collector.ledger import ledger, totals
from collector.wal_source import WalSource
from everlearn.config import Collector as Limits
from everlearn.config import Service
from everlearn.events import encode
from everlearn.lake.ducklake import DuckLake, open_lake
from everlearn.log.bus import Record
from everlearn.log.identity import worker_folders
from everlearn.log.segments import pack, segments
from everlearn.log.wal import WalWriter
from tests.builders import make_completion, make_feedback, make_service
from tests.collector.events import collect, column, completions, fill_wal, only_segments

IDS = "SELECT completion_id FROM completions ORDER BY seq"
REASONS = "SELECT reason FROM dead_letters ORDER BY seq"


def nothing(batch: Stored) -> None:
    """Take note of nothing."""


def test_every_event_becomes_its_row_and_feedback_joins(service: Service, lake: DuckLake) -> None:
    events = completions(3)
    gateway = fill_wal(service, [*events, make_feedback(completion_id=events[1].completion_id)])
    (batch,) = collect(service, lake)
    assert (batch.records, batch.rows, batch.repeated, batch.dead_letters) == (4, 4, 0, 0)
    assert column(lake, IDS) == [event.completion_id for event in events]
    assert column(lake, "SELECT completion_id FROM feedback_joined") == [events[1].completion_id]
    assert positions(lake) == {f"wal/{gateway}": 5}


def test_a_second_run_goes_on_where_the_first_ended(service: Service, lake: DuckLake) -> None:
    fill_wal(service, completions(3))
    collect(service, lake)
    fill_wal(service, completions(2))
    assert [batch.rows for batch in collect(service, lake)] == [2]
    assert column(lake, "SELECT count(DISTINCT completion_id) FROM completions") == [5]


def test_several_workers_are_read_side_by_side(service: Service, lake: DuckLake) -> None:
    gateways = [fill_wal(service, completions(2), worker) for worker in range(3)]
    collect(service, lake)
    rows = lake.read("SELECT gateway_id, count(*) AS n FROM completions GROUP BY 1 ORDER BY 1")
    assert rows.to_pylist() == [{"gateway_id": name, "n": 2} for name in sorted(gateways)]


def test_batches_are_bounded_in_rows_and_bytes(service: Service, lake: DuckLake) -> None:
    fill_wal(service, completions(25))
    assert [b.records for b in collect(service, lake, Limits(max_batch_rows=10))] == [10, 10, 5]
    fill_wal(service, completions(6, request=b"{}" + b" " * 1500))
    sizes = [b.records for b in collect(service, lake, Limits(max_batch_bytes=4096))]
    assert sum(sizes) == 6
    assert max(sizes) <= 3


@pytest.mark.parametrize(("share", "apart"), [(100.0, 0.5), (1e-6, LATEST_SECONDS)])
def test_batches_are_closed_their_seconds_apart_and_further_where_commits_are_dear(
    service: Service,
    lake: DuckLake,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    apart: float,
) -> None:
    monkeypatch.setattr("collector.collect.COMMIT_SHARE", share)
    wal = WalWriter(service.wal_path, 0, service.gateway.capture)
    limits = Limits(max_batch_seconds=0.5)
    collector = Collector(WalSource(service.wal_path), lake, limits)
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.02):
            wal.append(encode(make_completion()))

    thread = threading.Thread(target=trickle)
    thread.start()
    batches: list[Stored] = []
    closed: list[float] = []

    def stored(batch: Stored) -> None:
        batches.append(batch)
        closed.append(time.monotonic())
        time.sleep(0.3)  # a slow commit: what comes meanwhile waits 0.3 s less

    for _ in range(4):
        collector.step(5.0, stored)
    stop.set()
    thread.join()
    wal.close()
    assert all(batch.records > 1 for batch in batches[1:])
    assert all(0.0 < batch.oldest_seconds < apart - 0.05 for batch in batches[1:])
    assert closed[-1] - closed[0] > 3 * (apart - 0.1)


def test_segments_are_freed_once_stored_but_never_the_newest(tmp_path: Path) -> None:
    service = make_service(tmp_path, gateway={"capture": {"segment_bytes": 4096}})
    fill_wal(service, completions(30))
    before = [first for first, _ in only_segments(service)]
    assert len(before) > 2
    collect(service, open_lake(service))
    assert [first for first, _ in only_segments(service)] == before[-1:]


def test_a_batch_written_twice_is_stored_once(service: Service, lake: DuckLake) -> None:
    """The collector dies after the commit, before anybody heard of it."""
    fill_wal(service, completions(4))
    first = Collector(WalSource(service.wal_path), lake, service.collector)
    second = Collector(WalSource(service.wal_path), lake, service.collector)
    first.step(0.0, nothing)
    batches: list[Stored] = []
    second.step(0.0, batches.append)
    assert [(batch.rows, batch.repeated) for batch in batches] == [(0, 4)]
    assert column(lake, "SELECT count(*) FROM completions") == [4]


def records(seqs: list[int], start: int) -> list[Record]:
    """The same gateway's events as they come from a log that holds some of them twice."""
    return [
        Record(
            source="topic/0",
            position=start + place,
            gateway_id="gw-a-w0",
            seq=seq,
            payload=encode(make_completion(completion_id=f"c{seq}")),
        )
        for place, seq in enumerate(seqs)
    ]


@pytest.mark.parametrize("restart", [False, True])
def test_events_sent_twice_under_new_positions_are_stored_once(
    service: Service, lake: DuckLake, restart: bool
) -> None:
    def collector() -> Collector:
        return Collector(WalSource(service.wal_path), lake, service.collector)

    one = collector()
    one.store(records([1, 2, 3, 3, 5], start=0))
    two = collector() if restart else one
    done = two.store(records([2, 3, 4, 5, 6], start=5))
    assert (done.rows, done.repeated) == (2, 3)
    assert column(lake, IDS) == [f"c{seq}" for seq in range(1, 7)]


def test_two_collectors_that_race_store_every_event_once(service: Service, lake: DuckLake) -> None:
    fill_wal(service, completions(200))
    limits = Limits(max_batch_rows=7)
    lakes = [lake, open_lake(service)]
    collectors = [Collector(WalSource(service.wal_path), each, limits) for each in lakes]
    threads = [
        threading.Thread(target=collector.run, args=(lambda: True, nothing))
        for collector in collectors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert column(lake, "SELECT count(*) FROM completions") == [200]
    assert column(lake, "SELECT count(DISTINCT seq) FROM completions") == [200]


def test_what_cannot_be_a_row_is_a_dead_letter_and_the_stream_goes_on(
    service: Service, lake: DuckLake
) -> None:
    wal = WalWriter(service.wal_path, 0, service.gateway.capture)
    huge = b'{"choices":[],"usage":{"prompt_tokens":99999999999999999999999}}'
    payloads = [
        encode(make_completion(completion_id="first")),
        b"\xff garbage",
        encode(make_completion(schema_version=99)),
        encode(make_completion(received_at=float("nan"))),
        encode(make_completion(received_at=1e300)),
        encode(make_completion(probability=0.5, stage=2**40, http_status=2**63 - 1)),
        encode(make_completion(completion_id="huge", response=huge)),
        encode(make_completion(completion_id="deep", request=b"[" * 100_000)),
        encode(make_completion(completion_id="last")),
    ]
    for payload in payloads:
        wal.append(payload)
    wal.close()
    collect(service, lake)
    ids = column(lake, IDS)
    assert (ids[0], ids[-2:]) == ("first", ["deep", "last"])
    reasons = column(lake, REASONS)
    assert len(ids) + len(reasons) == len(payloads)
    assert "newer than" in reasons[1]
    assert column(lake, "SELECT raw FROM dead_letters ORDER BY seq")[0] == b"\xff garbage"
    (account,) = ledger(service, lake)
    assert (account.missing, account.duplicates, account.dead_letters) == (0, 0, len(reasons))


def damage_record(path: Path, index: int) -> None:
    """Flip one byte in the payload of the record at `index`."""
    data = bytearray(path.read_bytes())
    offset = 0
    for _ in range(index):
        offset += 16 + int.from_bytes(data[offset : offset + 4], "big")
    data[offset + 20] ^= 0xFF
    path.write_bytes(data)
    # Not written to for a while: what is no record is damaged, not on its way.
    os.utime(path, (0, 0))


def test_a_corrupt_middle_is_one_dead_letter_and_all_else_is_stored(
    service: Service, lake: DuckLake
) -> None:
    events = completions(5)
    fill_wal(service, events)
    damage_record(only_segments(service)[0][1], 2)
    collect(service, lake)
    ids = [event.completion_id for event in events]
    assert column(lake, IDS) == [*ids[:2], *ids[3:]]
    (reason,) = column(lake, REASONS)
    assert "sequence numbers 3 to 3" in reason
    assert ids[2].encode() in column(lake, "SELECT raw FROM dead_letters")[0]


def test_a_lost_tail_of_a_finished_segment_is_reported(service: Service, lake: DuckLake) -> None:
    fill_wal(service, completions(3))
    damage_record(only_segments(service)[0][1], 2)
    fill_wal(service, completions(1))
    collect(service, lake)
    (reason,) = column(lake, REASONS)
    assert "sequence numbers 3 to 3" in reason
    assert column(lake, "SELECT seq FROM completions ORDER BY seq") == [1, 2, 4]


def test_a_torn_tail_is_no_dead_letter(service: Service, lake: DuckLake) -> None:
    fill_wal(service, completions(2))
    path = only_segments(service)[0][1]
    path.write_bytes(path.read_bytes() + pack(3, b"never acknowledged")[:-4])
    fill_wal(service, completions(1))
    collect(service, lake)
    assert column(lake, "SELECT seq FROM completions ORDER BY seq") == [1, 2, 3]
    assert column(lake, REASONS) == []


def test_a_half_written_segment_is_read_on_as_it_grows(service: Service, lake: DuckLake) -> None:
    fill_wal(service, completions(1))
    path = only_segments(service)[0][1]
    record = pack(2, encode(make_completion()))
    with path.open("ab", buffering=0) as file:
        file.write(record[:50])
        collector = Collector(WalSource(service.wal_path), lake, service.collector)
        collector.step(0.0, nothing)
        assert column(lake, "SELECT seq FROM completions") == [1]
        file.write(record[50:])
    collector.step(0.0, nothing)
    assert column(lake, "SELECT seq FROM completions ORDER BY seq") == [1, 2]


def test_in_a_record_that_is_being_written_no_other_is_looked_for(
    service: Service, lake: DuckLake
) -> None:
    fill_wal(service, completions(1))
    path = only_segments(service)[0][1]
    forged = pack(3, encode(make_completion(completion_id="forged")))
    record = pack(2, encode(make_completion(request=forged + b"x" * 100)))
    with path.open("ab", buffering=0) as file:
        file.write(record[:-50])
        # Written just now, however long the collector takes to come.
        os.utime(path, (0, time.time() + 60))
        collector = Collector(WalSource(service.wal_path), lake, service.collector)
        collector.step(0.0, nothing)
        assert column(lake, "SELECT seq FROM completions") == [1]
        file.write(record[-50:])
    collector.step(0.0, nothing)
    assert column(lake, "SELECT seq FROM completions ORDER BY seq") == [1, 2]
    assert "forged" not in column(lake, IDS)
    assert column(lake, REASONS) == []


def test_a_deleted_segment_is_reported_as_missing(service: Service, lake: DuckLake) -> None:
    fill_wal(service, completions(2))
    collect(service, lake)
    fill_wal(service, completions(2))
    fill_wal(service, completions(1))
    only_segments(service)[-2][1].unlink()
    collect(service, lake)
    (account,) = ledger(service, lake)
    assert (account.acknowledged, account.stored, account.missing) == (5, 3, 2)
    (reason,) = column(lake, REASONS)
    assert "sequence numbers 3 to 4 are in no segment" in reason


def test_a_folder_of_another_identity_is_reported_and_left_alone(
    service: Service, lake: DuckLake, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = fill_wal(service, completions(2))
    (folder,) = worker_folders(service.wal_path)
    folder.rename(service.wal_path / "gw-stranger-w0")
    fill_wal(service, completions(1), worker=1)
    collect(service, lake)
    assert column(lake, "SELECT count(*) FROM completions") == [1]
    assert gateway in caplog.text
    assert len(segments(service.wal_path / "gw-stranger-w0")) == 1


def test_a_clock_that_jumps_back_changes_neither_order_nor_count(
    service: Service, lake: DuckLake
) -> None:
    times = [1_800_000_000.0, 1_700_000_000.0, 0.0, -5.0, 1_900_000_000.0]
    fill_wal(service, [make_completion(received_at=time) for time in times])
    collect(service, lake)
    assert column(lake, "SELECT epoch(received_at) FROM completions ORDER BY seq") == times


def test_the_ledger_tells_what_is_on_its_way_from_what_is_missing(
    service: Service, lake: DuckLake
) -> None:
    answered = time.time() - 5
    fill_wal(service, completions(3, received_at=answered, latency_ms=0.0))
    (before,) = ledger(service, lake)
    assert (before.acknowledged, before.stored, before.missing) == (3, 0, 0)
    assert 4.5 < before.lag_seconds < 60
    collect(service, lake)
    (after,) = ledger(service, lake)
    assert (after.stored, after.missing, after.lag_seconds) == (3, 0, 0.0)


def test_the_ledger_shows_loss_and_doubling(service: Service, lake: DuckLake) -> None:
    fill_wal(service, completions(3))
    collect(service, lake)
    lake.commit(lambda transaction: transaction.query("DELETE FROM completions WHERE seq = 2"))
    lake.commit(
        lambda transaction: transaction.query(
            "INSERT INTO completions SELECT * FROM completions WHERE seq = 3"
        )
    )
    total = totals(ledger(service, lake))
    assert (total["missing"], total["duplicates"], total["stored"]) == (1, 1, 2)


def test_the_ledger_counts_drops(tmp_path: Path) -> None:
    service = make_service(tmp_path, gateway={"capture": {"wal_max_bytes": 16384}})
    wal = WalWriter(service.wal_path, 0, service.gateway.capture)
    taken = [wal.append(b"x" * 1000) for _ in range(30)]
    (account,) = ledger(service, open_lake(service))
    assert account.dropped == taken.count(None) > 0
    assert account.acknowledged == 30 - account.dropped
    wal.close()
