"""An adapter is found by its name only where its content is what the name says."""

from pathlib import Path

import pytest

from serving.vllm_resolver import find
from trainer.adapter import content_digest


def make(home: Path, task: str) -> str:
    part = home / "part"
    part.mkdir(parents=True)
    (part / "adapter_model.safetensors").write_bytes(b"weights")
    (part / "adapter_config.json").write_text("{}")
    name = f"{task}-{content_digest(part)[:12]}"
    part.rename(home / name)
    return name


def test_an_adapter_is_found_by_the_trainers_own_name(tmp_path: Path) -> None:
    name = make(tmp_path, "sql-pro")
    found = find(tmp_path, name)
    assert found == (tmp_path / name, content_digest(tmp_path / name))


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_other_content_under_the_name_is_not_loaded(tmp_path: Path, file: str) -> None:
    name = make(tmp_path, "sql")
    (tmp_path / name / file).write_bytes(b"{ }")
    assert find(tmp_path, name) is None
    (tmp_path / name / file).unlink()
    assert find(tmp_path, name) is None


@pytest.mark.parametrize("name", ["gpt-x", "../sql-0123456789ab", "sql-0123456789AB", "", "sql"])
def test_a_name_that_is_none_of_ours_is_not_looked_for(tmp_path: Path, name: str) -> None:
    assert find(tmp_path / "home", name) is None
