"""What people wrote into a YAML file stays; what is added stands where it should."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.errors import ConfigError
from everlearn.yaml_edit import add, replace_file

ITEM = {"name": "new", "reference": 'a: b # c\n"é"'}
FILES = {
    "block list": "# mine\ntask: a\ngraders:\n  - name: old  # kept\n    type: x\nend: 1\n",
    "block list at the margin": "graders:\n- {name: a}\n- {name: b}  # kept\n\n# later\nx: 1\n",
    "flow list": "graders: [{name: old}]  # kept\nx: 1\n",
    "flow list over lines": "graders: [\n  {name: old},\n]\nx: 1\n",
    "an empty list": "graders: []\n",
    "no list": "task: a  # kept\n",
    "no newline at the end": "graders:\n  - name: old",
    "a literal at the end": "graders:\n  - source: |\n      a\n      b\n\n# after\nx: 1\n",
    "a literal and nothing more": "graders:\n  - source: |\n      a\n      b\n",
    "nested": "graders:\n  - input:\n      - role: user\n        content: hi\nx: {y: 1}\n",
    "a folded text": "graders:\n  - name: old\n    text: one\n      two\nx: 1\n",
    "a document mark": "---\ngraders:\n  - 'it''s'\n",
}


@pytest.mark.parametrize("what", FILES)
def test_an_item_comes_last_and_nothing_else_changes(what: str) -> None:
    before = FILES[what]
    after = add(before, ("graders",), ITEM)
    content = yaml.safe_load(before)
    assert yaml.safe_load(after) == {**content, "graders": [*content.get("graders", []), ITEM]}
    kept = [line for line in before.splitlines() if "#" in line]
    assert [line for line in kept if line.partition("#")[2] in after] == kept
    twice = add(after, ("graders",), "again")
    assert yaml.safe_load(twice)["graders"][-2:] == [ITEM, "again"]


@pytest.mark.parametrize(
    ("before", "judges"),
    [
        ("x: 1\n", {"drafted": ["n"]}),
        ("judges:\n  trusted: [m]  # ours\nx: 1\n", {"trusted": ["m"], "drafted": ["n"]}),
        ("judges: {min_agreement: 0.8}\n", {"min_agreement": 0.8, "drafted": ["n"]}),
        ("judges: {}\n", {"drafted": ["n"]}),
        ("judges: {drafted: [m]}\n", {"drafted": ["m", "n"]}),
        ("judges:\n  drafted:\n    - m\n", {"drafted": ["m", "n"]}),
    ],
)  # fmt: skip
def test_a_list_within_a_mapping_is_found_or_made(before: str, judges: dict[str, Any]) -> None:
    after = add(before, ("judges", "drafted"), "n")
    assert yaml.safe_load(after) == {**yaml.safe_load(before), "judges": judges}


@pytest.mark.parametrize(
    "text", ["graders: null\n", "graders: one\n", "- a\n", "", "a: &x [1]\ngraders: *x\n"]
)
def test_what_cannot_be_added_to_alone_is_left_as_it_is(text: str) -> None:
    with pytest.raises(ConfigError):
        add(text, ("graders",), "n")


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("a: 1\n")
    path.chmod(0o640)
    replace_file(path, "a: 2\n")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("a: 2\n", 0o640)
    assert list(tmp_path.iterdir()) == [path]
