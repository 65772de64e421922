"""The salt of the held-out hash: made once, kept twice, never changed."""

import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from everlearn.errors import ConfigError
from everlearn.installation import KEY, KIND, heldout_salt
from everlearn.state import open_state
from tests.builders import make_service


def test_it_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    salt = heldout_salt(service)
    assert len(salt) == 64
    assert heldout_salt(service) == salt
    for name in (KEY, "state.db"):
        assert stat.S_IMODE((service.data_path / name).stat().st_mode) == 0o600


def test_two_installations_have_two(tmp_path: Path) -> None:
    assert heldout_salt(make_service(tmp_path / "a")) != heldout_salt(make_service(tmp_path / "b"))


@pytest.mark.parametrize("lost", ["state.db", KEY])
def test_either_copy_brings_it_back(tmp_path: Path, lost: str) -> None:
    service = make_service(tmp_path)
    salt = heldout_salt(service)
    (service.data_path / lost).unlink()
    assert heldout_salt(service) == salt
    with closing(open_state(service)) as state:
        assert state.get(KIND, KEY) == ({"salt": salt}, 1)
    assert (service.data_path / KEY).read_text().strip() == salt


@pytest.mark.parametrize("text", ["f" * 64, "", "not hexadecimal"])
def test_another_one_is_refused(tmp_path: Path, text: str) -> None:
    service = make_service(tmp_path)
    salt = heldout_salt(service)
    (service.data_path / KEY).write_text(text)
    with pytest.raises(ConfigError, match=r"back-up"):
        heldout_salt(service)
    with closing(open_state(service)) as state:
        assert state.get(KIND, KEY) == ({"salt": salt}, 1)


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(heldout_salt, [service] * 4))) == 1


def test_a_folder_moved_elsewhere_keeps_it(tmp_path: Path) -> None:
    salt = heldout_salt(make_service(tmp_path / "old"))
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    assert heldout_salt(make_service(tmp_path / "new")) == salt
