"""A data folder that was copied or moved opens, with every row in it."""

import shutil
from pathlib import Path

import pytest

from collector.compact import SMALL_BYTES, compact
from everlearn.config import LakeConfig
from everlearn.errors import LakeError
from everlearn.lake.ducklake import INLINE_ROWS, DuckLake


def fill(lake: DuckLake, *, start: int, rows: int) -> None:
    completions = [{"completion_id": f"c{start + number}"} for number in range(rows)]
    lake.commit(lambda transaction: transaction.append("completions", completions))


def ids(lake: DuckLake) -> list[str]:
    found: list[str] = lake.read("SELECT completion_id FROM completions").column(0).to_pylist()
    return sorted(found)


@pytest.mark.parametrize("rows", [INLINE_ROWS, 5 * INLINE_ROWS], ids=["inlined", "in a file"])
def test_a_copy_answers_as_the_original_and_goes_its_own_way(tmp_path: Path, rows: int) -> None:
    original = DuckLake(LakeConfig(), tmp_path / "here")
    fill(original, start=0, rows=rows)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    before = ids(original)
    copy = DuckLake(LakeConfig(), tmp_path / "there", read_only=True)
    assert ids(copy) == before
    copy.close()
    written = DuckLake(LakeConfig(), tmp_path / "there")
    fill(written, start=1000, rows=2 * INLINE_ROWS)
    assert compact(written, SMALL_BYTES)
    assert len(ids(written)) == rows + 2 * INLINE_ROWS
    assert ids(original) == before


def test_a_moved_folder_opens_without_the_old_one(tmp_path: Path) -> None:
    lake = DuckLake(LakeConfig(), tmp_path / "here")
    fill(lake, start=0, rows=100)
    before = ids(lake)
    lake.close()
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert ids(DuckLake(LakeConfig(), tmp_path / "there")) == before
    assert not (tmp_path / "here").exists()


def test_files_that_moved_alone_are_found_where_the_config_says(tmp_path: Path) -> None:
    catalog = f"sqlite:{tmp_path / 'catalog.sqlite'}"
    lake = DuckLake(LakeConfig(catalog=catalog, data_path=str(tmp_path / "here")), tmp_path)
    fill(lake, start=0, rows=100)
    before = ids(lake)
    lake.close()
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = LakeConfig(catalog=catalog, data_path=str(tmp_path / "there"))
    assert ids(DuckLake(moved, tmp_path)) == before


def test_a_folder_without_the_catalogs_files_is_refused(tmp_path: Path) -> None:
    catalog = f"sqlite:{tmp_path / 'catalog.sqlite'}"
    DuckLake(LakeConfig(catalog=catalog, data_path=str(tmp_path / "here")), tmp_path).close()
    (tmp_path / "empty").mkdir()
    wrong = LakeConfig(catalog=catalog, data_path=str(tmp_path / "empty"))
    with pytest.raises(LakeError, match="does not match existing data path"):
        DuckLake(wrong, tmp_path)
