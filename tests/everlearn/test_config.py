"""The config and the task files: what resolves, and the one line per problem for what does not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.config import load
from everlearn.errors import ConfigError, NotFound
from everlearn.task import load_task, load_tasks
from tests.builders import make_service

TASK: dict[str, Any] = {
    "task": "support",
    "base_model": "model",
    "upstream": "local",
    "graders": [{"type": "feedback", "name": "thumbs"}],
}


def write_task(folder: Path, name: str = "support.yaml", **overrides: Any) -> None:
    (folder / "tasks" / name).write_text(yaml.safe_dump({**TASK, **overrides}))


def check(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "everlearn", "config", "check"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_an_unknown_key_is_exit_2_and_one_line(tmp_path: Path) -> None:
    make_service(tmp_path)
    (tmp_path / "everlearn.yaml").write_text("gateway: {prot: 8001}\n")
    done = check(tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "everlearn: everlearn.yaml: gateway.prot: unknown key; did you mean 'port'?"
    ]


def test_a_locale_of_ascii_alone_reads_and_writes_what_people_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    (folder / "tasks").mkdir(parents=True)
    make_service(folder)
    grader = {"type": "string_check", "name": "g", "operation": "eq", "input": "grün 绿",
              "reference": "\U0001f7e2"}  # fmt: skip
    content = yaml.safe_dump({**TASK, "graders": [*TASK["graders"], grader]}, allow_unicode=True)
    (folder / "tasks" / "support.yaml").write_text(content, encoding="utf-8")
    done = check(folder, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "grün 绿" in done.stdout


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "everlearn.yaml").write_text("gateway: {port: 70000, workers: 0}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "everlearn.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "gateway.port = 70000: Input should be less than or equal to 65535" in lines[0]
    assert "gateway.workers = 0" in lines[1]


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERLEARN_GATEWAY__PORT", "8123")
    monkeypatch.setenv("EVERLEARN_UPSTREAMS__LOCAL__BASE_URL", "http://other/v1")
    service = make_service(tmp_path, gateway={"port": 8001, "workers": 2})
    assert (service.gateway.port, service.gateway.workers) == (8123, 2)
    assert service.upstreams["local"].base_url == "http://other/v1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list\n", "expected a mapping of keys, found list"),
        ("a: [\n", "not YAML"),
        ("state: x\nlake: {}\nstate: y\n", "line 3, column 1: not YAML: the key 'state' stands"),
        ("gateway:\n  port: 1\n  host: a\n  port: 2\n", "the key 'port' stands there twice"),
        ("default_upstream: no\n", "default_upstream = False"),
        ("default_upstream: 2026-01-31\n", "put it in quotes"),
        ("default_upstream: nobody\n", "default_upstream 'nobody' is not an upstream"),
        ("upstreams: {a: {base_url: 'ftp://x'}}\n", "an address starts with http:// or https://"),
        (
            "upstreams: {a: {base_url: 'http://x', fallback: b}}\n",
            "upstreams.a.fallback 'b' is not an upstream: a",
        ),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "everlearn.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"everlearn\.yaml") as caught:
        load(tmp_path / "everlearn.yaml")
    assert said in str(caught.value)


def test_a_section_may_be_used_again_by_its_anchor(tmp_path: Path) -> None:
    text = "upstreams:\n  a: &a {base_url: 'http://x', kind: vllm}\n  b: {<<: *a, kind: openai}\n"
    (tmp_path / "everlearn.yaml").write_text(text)
    found = load(tmp_path / "everlearn.yaml").upstreams
    assert (found["a"].kind, found["b"].kind) == ("vllm", "openai")


def test_a_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; name one with --config"):
        load(tmp_path / "everlearn.yaml")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"upstream": "nobody"}, "upstream = 'nobody': not an upstream of the config: local"),
        ({"task": "No Spaces"}, "task = 'No Spaces'"),
        ({"release": {"primary": "wins"}}, "release.primary 'wins' is not a grader of the task"),
        ({"heldout": {"grader": "wins"}}, "heldout.grader 'wins' is not a grader of the task"),
        ({"release": {"steps": [5, 1, 100]}}, "steps rise strictly from above 0 to 100"),
        ({"release": {"steps": [1, 50]}}, "steps rise strictly from above 0 to 100"),
        ({"graders": [{"type": "guess", "name": "g"}]}, "does not match any of the expected tags"),
        ({"heldout": {"never_trained_on": False}}, "heldout.never_trained_on = False"),
        ({"graders": TASK["graders"] * 2}, "name used twice: thumbs"),
    ],
)
def test_a_bad_task_says_what_is_wrong(
    tmp_path: Path, overrides: dict[str, Any], said: str
) -> None:
    service = make_service(tmp_path)
    write_task(tmp_path, **overrides)
    with pytest.raises(ConfigError, match=r"support\.yaml") as caught:
        load_tasks(service)
    assert said in str(caught.value)


def test_a_rule_over_a_section_names_key_and_value_without_the_whole_of_it(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    write_task(tmp_path, release={"primary": "wins"})
    with pytest.raises(ConfigError) as caught:
        load_tasks(service)
    file = service.tasks_path / "support.yaml"
    said = f"{file}: release.primary 'wins' is not a grader of the task; there are: thumbs"
    assert str(caught.value) == said
    write_task(tmp_path, release={"primary": "thumbs", "steps": [5, 1, 100]})
    with pytest.raises(ConfigError, match=r"support\.yaml: release(\.steps = .*)?: .*steps rise"):
        load_tasks(service)


def test_two_files_cannot_declare_one_task(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    write_task(tmp_path)
    write_task(tmp_path, "again.yaml")
    with pytest.raises(ConfigError, match="already declared by another file"):
        load_tasks(service)


def test_a_task_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    write_task(tmp_path)
    assert load_task(service, "support").base_name == "model"
    with pytest.raises(NotFound, match="task 'sales' does not exist; there are: support"):
        load_task(service, "sales")


def test_a_grader_is_found_by_name_the_reward_too(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    write_task(tmp_path, reward={"type": "multi", "calculate_output": "thumbs"})
    task = load_task(service, "support")
    assert [task.grader(name).name for name in ("thumbs", "reward")] == ["thumbs", "reward"]
    with pytest.raises(NotFound, match="no grader 'wins'; there are: thumbs"):
        task.grader("wins")
