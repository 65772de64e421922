"""The write-ahead log: what was appended is there after kills, power losses and full disks."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.wal_source import WalSource
from everlearn.config import Capture
from everlearn.log import group_commit
from everlearn.log.identity import read_counts
from everlearn.log.segments import Damage, Entry, entries, pack, segments
from everlearn.log.wal import BLOCK, RETRY_SECONDS, WalWriter
from tests.disks import DiskMaker, disk_maker, fill


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[DiskMaker]:
    with disk_maker(tmp_path) as make:
        yield make


def open_wal(root: Path, worker: int = 0, **capture: Any) -> WalWriter:
    return WalWriter(root, worker, Capture(**capture))


def read_all(root: Path) -> list[tuple[int, bytes]]:
    """(seq, payload) of every good record of every worker."""
    return [
        (item.seq, item.payload)
        for folder in sorted(root.glob("gw-*"))
        for first, path in segments(folder)
        for item in entries(path.read_bytes(), 0, first - 1)
        if isinstance(item, Entry)
    ]


def folder_of(wal: WalWriter, root: Path) -> Path:
    return root / wal.gateway_id


def forget_boot(folder: Path) -> None:
    """Make the counters look as if another boot of the machine had written them."""
    counters = folder / "counters"
    raw = bytearray(counters.read_bytes())
    raw[40:80] = b"another-boot".ljust(40, b"\0")
    counters.write_bytes(raw)


def kill_after(root: Path, script: str, durability: str = "write") -> None:
    """Run a script with an open `wal`, which ends by killing itself with SIGKILL."""
    code = f"""
    import os, signal
    from pathlib import Path
    from everlearn.config import Capture
    from everlearn.log.wal import WalWriter
    root = Path({str(root)!r})
    wal = WalWriter(root, 0, Capture(durability={durability!r}))
    """
    code = textwrap.dedent(code) + textwrap.dedent(script) + "\nos.kill(os.getpid(), 9)\n"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


def test_records_come_back_in_order_with_their_numbers(tmp_path: Path) -> None:
    wal = open_wal(tmp_path)
    assert [wal.append(payload) for payload in (b"a", b"", b"c" * 5000)] == [1, 2, 3]
    assert read_all(tmp_path) == [(1, b"a"), (2, b""), (3, b"c" * 5000)]
    wal.close()


def test_a_worker_keeps_its_identity_and_counts_on_after_a_clean_stop(tmp_path: Path) -> None:
    first = open_wal(tmp_path)
    first.append(b"a")
    first.close()
    second = open_wal(tmp_path)
    assert (second.gateway_id, second.append(b"b")) == (first.gateway_id, 2)
    assert second.stats().skipped == 0
    second.close()


def test_workers_and_gateways_on_one_machine_each_have_their_own_folder(tmp_path: Path) -> None:
    writers = [open_wal(tmp_path, worker) for worker in (0, 1, 0, 10)]
    names = {writer.gateway_id for writer in writers}
    assert len(names) == 4
    assert all(name.startswith("gw-") for name in names)
    for writer in writers:
        writer.close()
    again = [open_wal(tmp_path, worker) for worker in (0, 1, 0, 10)]
    assert {writer.gateway_id for writer in again} == names
    for writer in again:
        writer.close()


def test_segments_are_named_by_their_first_number(tmp_path: Path) -> None:
    wal = open_wal(tmp_path, segment_bytes=4096)
    for _ in range(20):
        wal.append(b"x" * 1000)
    found = segments(folder_of(wal, tmp_path))
    assert [first for first, _ in found] == [1, 6, 11, 16]
    assert [seq for seq, _ in read_all(tmp_path)] == list(range(1, 21))
    wal.close()


def test_killed_without_warning_nothing_appended_is_lost_and_no_number_skipped(
    tmp_path: Path,
) -> None:
    kill_after(tmp_path, "for k in range(500): wal.append(b'%d' % k)")
    wal = open_wal(tmp_path)
    assert len(read_all(tmp_path)) == 500
    assert wal.append(b"next") == 501
    assert wal.stats().skipped == 0
    wal.close()


def test_a_record_written_but_not_counted_before_the_kill_keeps_its_number(tmp_path: Path) -> None:
    kill_after(
        tmp_path,
        "from everlearn.log.segments import pack\n"
        "wal.append(b'a')\nos.write(wal._fd, pack(2, b'b'))",
    )
    wal = open_wal(tmp_path)
    assert wal.append(b"c") == 3
    wal.close()


def test_a_torn_tail_is_left_out_and_everything_before_it_kept(tmp_path: Path) -> None:
    kill_after(
        tmp_path,
        "wal.append(b'a'); wal.append(b'b')\nos.pwrite(wal._fd, b'\\0\\0\\0\\x09to', wal._size)",
    )
    wal = open_wal(tmp_path)
    assert wal.append(b"c") == 3
    assert read_all(tmp_path) == [(1, b"a"), (2, b"b"), (3, b"c")]
    wal.close()


@pytest.mark.parametrize("survived", [1, 3])
def test_after_a_power_loss_no_number_is_used_twice(tmp_path: Path, survived: int) -> None:
    """Under `write` the newest pages are gone: records, and the count of the numbers used."""
    wal = open_wal(tmp_path)
    folder = folder_of(wal, tmp_path)
    for k in range(survived):
        wal.append(b"%d" % k)
    on_disk = {path: path.read_bytes() for path in (folder / "counters", segments(folder)[0][1])}
    used = {wal.append(b"lost") for _ in range(100)}
    wal.close()
    for path, content in on_disk.items():
        path.write_bytes(content)
    forget_boot(folder)

    again = open_wal(tmp_path)
    assert again.append(b"after") not in used
    assert again.stats().skipped == BLOCK - survived
    assert again.stats().acknowledged == survived + 1
    again.close()


def test_numbers_are_reserved_on_disk_before_they_are_used(tmp_path: Path) -> None:
    wal = open_wal(tmp_path)
    wal.append(b"a")
    counts = read_counts(folder_of(wal, tmp_path))
    assert counts.reserved == 1 + BLOCK
    wal.close()
    assert read_counts(folder_of(wal, tmp_path)).reserved == 2


def test_damaged_counters_are_made_anew_above_every_number(tmp_path: Path) -> None:
    wal = open_wal(tmp_path)
    wal.append(b"a")
    wal.close()
    (folder_of(wal, tmp_path) / "counters").write_bytes(b"rubbish")
    again = open_wal(tmp_path)
    assert again.append(b"b") == 2 + BLOCK
    assert again.stats().acknowledged == 2
    again.close()


def test_a_copied_folder_is_never_written_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wal = open_wal(tmp_path)
    wal.append(b"a")
    wal.close()
    folder_of(wal, tmp_path).rename(tmp_path / "gw-stranger-w0")
    again = open_wal(tmp_path)
    assert again.gateway_id not in ("gw-stranger-w0", wal.gateway_id)
    assert wal.gateway_id in caplog.text
    again.close()


@pytest.mark.anyio
async def test_fsync_is_shared_by_all_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = open_wal(tmp_path, durability="fsync", segment_bytes=4096)
    calls: list[int] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def counted(handle: int, real: Callable[[int], None] = real) -> None:
            calls.append(handle)
            real(handle)

        monkeypatch.setattr(os, name, counted)

    async def write(k: int) -> None:
        seq = wal.append(b"%d" % k * 100)
        assert seq is not None
        await wal.durable(seq)

    await asyncio.gather(*(write(k) for k in range(50)))
    assert len(calls) < 25
    calls.clear()
    await wal.durable(50)
    assert calls == []
    wal.close()
    assert len(read_all(tmp_path)) == 50


@pytest.mark.anyio
@pytest.mark.parametrize("durability", ["write", "off"])
async def test_without_fsync_durable_returns_at_once(tmp_path: Path, durability: str) -> None:
    wal = open_wal(tmp_path, durability=durability)
    seq = wal.append(b"a")
    assert seq == 1
    await asyncio.wait_for(wal.durable(seq), 0.05)
    wal.close()


def test_over_its_limit_the_newest_are_dropped_and_counted_exactly(tmp_path: Path) -> None:
    wal = open_wal(tmp_path, wal_max_bytes=16384)
    taken = [wal.append(b"x" * 1000) for _ in range(100)]
    kept = [seq for seq in taken if seq is not None]
    assert kept == list(range(1, len(kept) + 1))
    assert (len(kept), wal.stats().dropped) == (16, 84)
    assert wal.accepting
    wal.close()


def test_dropping_ends_when_the_reader_has_freed_segments(tmp_path: Path) -> None:
    wal = open_wal(tmp_path, wal_max_bytes=16384)
    for _ in range(30):
        wal.append(b"x" * 1000)
    dropped = wal.stats().dropped
    assert dropped > 0
    for _, path in segments(folder_of(wal, tmp_path))[:-1]:
        path.unlink()
    wal._retry_at = 0.0
    assert wal.append(b"y") is not None
    assert wal.stats().dropped == dropped
    wal.close()


def test_reject_says_so_before_anything_is_dropped_and_recovers(tmp_path: Path) -> None:
    wal = open_wal(tmp_path, wal_max_bytes=16384, on_full="reject")
    while wal.accepting:
        assert wal.append(b"x" * 1000) is not None
    assert wal.append(b"in flight") is not None
    assert wal.stats().dropped == 0
    wal._retry_at = 0.0
    assert not wal.accepting
    for _, path in segments(folder_of(wal, tmp_path))[:-1]:
        path.unlink()
    wal._retry_at = 0.0
    assert wal.accepting
    wal.close()


@pytest.mark.parametrize("on_full", ["drop_newest", "reject"])
def test_a_full_disk_never_raises_and_the_count_is_exact(
    small_disk: DiskMaker, on_full: str
) -> None:
    root = small_disk(512) / "wal"
    wal = open_wal(root, on_full=on_full)
    results = [wal.append(b"x" * 1000) for _ in range(1000)]
    kept = [seq for seq in results if seq is not None]
    assert 0 < len(kept) < 1000
    assert wal.stats().dropped == 1000 - len(kept)
    assert wal.accepting is (on_full == "drop_newest")
    assert [seq for seq, _ in read_all(root)] == kept
    wal.close()
    assert damages(root) == []


def damages(root: Path) -> list[Damage]:
    return [
        item
        for folder in root.glob("gw-*")
        for first, path in segments(folder)
        for item in entries(path.read_bytes(), 0, first - 1)
        if isinstance(item, Damage)
    ]


def test_the_count_of_drops_survives_a_kill_on_a_full_disk(small_disk: DiskMaker) -> None:
    root = small_disk(512) / "wal"
    kill_after(
        root,
        """
        kept = sum(wal.append(b"x" * 1000) is not None for _ in range(1000))
        (root / "kept").symlink_to(str(kept))
    """,
    )
    kept = int(os.readlink(root / "kept"))
    wal = open_wal(root)
    assert wal.stats().dropped == 1000 - kept
    assert wal.stats().acknowledged == kept
    wal.close()


def test_a_writer_starts_on_a_full_disk_and_captures_once_there_is_room(
    small_disk: DiskMaker,
) -> None:
    disk = small_disk(256)
    filler = fill(disk)
    wal = open_wal(disk / "wal")
    assert [wal.append(b"x") for _ in range(3)] == [None, None, None]
    assert wal.stats().dropped == 3
    filler.unlink()
    wal._retry_at = 0.0
    assert wal.append(b"y") == 1
    assert (wal.stats().dropped, read_counts(folder_of(wal, disk / "wal")).dropped) == (3, 3)
    wal.close()


def test_a_known_worker_starts_on_a_full_disk_and_goes_on_counting(small_disk: DiskMaker) -> None:
    disk = small_disk(256)
    first = open_wal(disk / "wal")
    first.append(b"a")
    first.close()
    filler = fill(disk)
    wal = open_wal(disk / "wal")
    assert wal.gateway_id == first.gateway_id
    results = [wal.append(b"x" * 5000) for _ in range(5)]
    assert results[-1] is None
    filler.unlink()
    wal._retry_at = 0.0
    assert wal.append(b"b") == 2 + sum(result is not None for result in results)
    wal.close()


def records(payloads: list[bytes]) -> bytes:
    return b"".join(pack(seq, payload) for seq, payload in enumerate(payloads, start=1))


def test_a_corrupt_middle_is_reported_and_reading_goes_on_after_it() -> None:
    payloads = [b"first", b"second" * 10, b"third"]
    data = bytearray(records(payloads))
    start = len(pack(1, b"first"))
    data[start + 20] ^= 0xFF
    first, damage, third = list(entries(bytes(data), 0, 0))
    assert first == Entry(1, b"first", start)
    assert isinstance(damage, Damage)
    assert damage.raw == bytes(data[start : damage.end])
    assert isinstance(third, Entry)
    assert (third.seq, third.payload) == (3, b"third")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    payloads=st.lists(st.binary(max_size=60), min_size=1, max_size=12),
    damage=st.binary(min_size=1, max_size=40),
    place=st.floats(0, 1),
)
def test_whatever_bytes_are_overwritten_all_untouched_records_are_read(
    payloads: list[bytes], damage: bytes, place: float
) -> None:
    data = bytearray(records(payloads))
    start = int(place * (len(data) - 1))
    data[start : start + len(damage)] = damage[: len(data) - start]
    end = min(len(data), start + len(damage))
    read = {
        (item.seq, item.payload) for item in entries(bytes(data), 0, 0) if isinstance(item, Entry)
    }
    offset = 0
    for seq, payload in enumerate(payloads, start=1):
        after = offset + len(pack(seq, payload))
        if after <= start or offset >= end:
            assert (seq, payload) in read
        offset = after
    assert read <= set(enumerate(payloads, start=1))


def test_a_growing_record_hides_what_a_client_wrote_into_it() -> None:
    forged = pack(2, b"forged")
    whole = pack(1, b"x" * 10 + forged + b"y" * 10)
    cut = whole[:-5]
    assert list(entries(cut, 0, 0, growing=True)) == []
    assert [item.seq for item in entries(whole, 0, 0) if isinstance(item, Entry)] == [1]


@pytest.mark.anyio
async def test_a_disk_that_hangs_holds_nobody_up_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = open_wal(tmp_path, durability="fsync")
    works = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda handle: works.wait(20))
    monkeypatch.setattr(group_commit, "FORCE_SECONDS", 0.2)
    seq = wal.append(b"a")
    assert seq == 1
    waits = asyncio.ensure_future(wal.durable(seq))
    await asyncio.sleep(0.05)
    wal.release_overdue()
    await asyncio.sleep(0)
    assert not waits.done()
    await asyncio.sleep(0.2)
    wal.release_overdue()
    await asyncio.wait_for(waits, 1)
    works.set()
    wal.close()
    assert read_all(tmp_path) == [(1, b"a")]


@pytest.mark.anyio
async def test_forced_segments_are_prepared_and_cut_to_what_they_hold(tmp_path: Path) -> None:
    wal = open_wal(tmp_path, durability="fsync", segment_bytes=8192)
    for number in range(40):
        seq = wal.append(b"%d" % number * 400)
        assert seq == number + 1
        await asyncio.wait_for(wal.durable(seq), 5)
    folder = folder_of(wal, tmp_path)
    *left, (_, newest) = segments(folder)
    assert len(left) >= 2
    assert newest.stat().st_size == 8192  # room that is not used yet
    assert [seq for seq, _ in read_all(tmp_path)] == list(range(1, 41))
    held = wal.stats().bytes
    wal.close()
    assert sum(path.stat().st_size for _, path in segments(folder)) == held
    assert [seq for seq, _ in read_all(tmp_path)] == list(range(1, 41))


def test_a_prepared_segment_is_read_while_it_grows_and_after_a_kill(tmp_path: Path) -> None:
    wal = open_wal(tmp_path, durability="fsync")
    source = WalSource(tmp_path)
    assert source.poll(10, 10**6, 0.0) == []
    for number in range(1, 4):
        wal.append(b"x" * 100)
        assert [record.seq for record in source.poll(10, 10**6, 1.0)] == [number]
    kill_after(tmp_path, "wal.append(b'from another worker')", durability="fsync")
    again = open_wal(tmp_path, durability="fsync")
    assert again.append(b"y") == 2
    wal.append(b"z")
    found: list[tuple[str, int]] = []
    for _ in range(5):
        found += [(r.gateway_id, r.seq) for r in source.poll(10, 10**6, 0.1) if r.error is None]
    assert sorted(found) == sorted(
        [(again.gateway_id, 1), (again.gateway_id, 2), (wal.gateway_id, 4)]
    )
    wal.close()
    again.close()


def test_a_disk_without_room_for_a_spare_segment_still_takes_events(
    small_disk: DiskMaker,
) -> None:
    root = small_disk(2048)
    wal = open_wal(root, durability="fsync", segment_bytes=4 * 2**20)
    assert wal.append(b"a" * 1000) == 1
    assert [seq for seq, _ in read_all(root)] == [1]
    wal.close()


def test_many_at_once_are_kept_or_dropped_each_by_itself(tmp_path: Path) -> None:
    wal = open_wal(tmp_path, wal_max_bytes=8192, segment_bytes=4096)
    small, large = b"s" * 100, b"l" * 9000
    assert wal.append_all([small, small, small]) == 3
    assert wal.append_all([small, large, small]) == 4  # and full for a moment
    time.sleep(RETRY_SECONDS)
    assert wal.append_all([small] * 600) > 4
    stats = wal.stats()
    assert stats.dropped > 2
    assert stats.acknowledged + stats.dropped == 606
    assert stats.acknowledged == len(read_all(tmp_path))
    wal.close()
