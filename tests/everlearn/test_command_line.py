"""What people script against: verbs, options and exit codes; every documented line is one."""

import json
import os
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import click
import pytest
from click.testing import CliRunner

from everlearn.cli import group
from everlearn.errors import ConfigError
from everlearn.redact import shown

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.M | re.S)
LINE = re.compile(r"(?:^    |`)everlearn ([a-z][^`\n]*?)(?=`|$| && |  +#| \| )", re.M)

STAYS = (
    "up --stack local", "up --stack full", "demo --fast", "gateway", "ship", "collect", "serve",
    "releases run", "console", "status --json", "sql QUERY --json",
    "evaluate TASK --grader NAME --since T --limit 3 --json", "grade FILE --item I --sample S",
    "grade validate FILE", "snapshot TASK --json", "train TASK --method hindsight --json",
    *(f"train TASK --method {name}" for name in ("auto", "sft", "dpo", "kto", "rft")),
    "train TASK --snapshot ID --dry-run", "gate TASK VERSION --json",
    "release start TASK VERSION", "release show TASK --json", "release abort TASK",
    "rollback TASK", "labels next TASK --json", "labels put TASK ID up", "labels list TASK --json",
    "labels agreement TASK --json", "labels fill TASK", "judges TASK --json", "drift TASK --json",
    "grader draft TASK --rubric FILE", "keys create --role client --name N --task T", "keys list",
    "keys revoke N", "lineage VERSION --json", "lineage --unit U --json", "erase --unit U",
    *(f"import FILE --format {name}" for name in ("openai", "langfuse", "tensorzero", "parquet")),
    "config check FILE",
)  # fmt: skip
"""Command lines that scripts of other people hold: none of them ever stops working."""

ACTS = {
    "up", "demo", "gateway", "ship", "collect", "serve", "releases run", "console",
    "labels put", "labels skip", "labels undo", "keys revoke", "config reference",
}  # fmt: skip
"""What runs, writes or is a page, and answers nothing to be read by a program."""


def commands(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with its words."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        found = command.get_command(context, word)
        assert found is not None
        yield from commands(found, f"{name} {word}".strip())


def documented() -> list[str]:
    """What stands in code, in a line or in blocks."""
    texts = [page.read_text() for page in PAGES]
    texts += [indent(block, "    ") for text in texts for block in FENCED.findall(text)]
    return sorted({line.strip() for text in texts for line in LINE.findall(text)})


def understood(line: str) -> str:
    """What the command line says to it; --help is answered before anything is missed or done."""
    words = re.sub(r"[\[\]]|\\$", "", line).split(" > ")[0]
    done = CliRunner().invoke(group, [*shlex.split(words), "--help"])
    return "" if done.exit_code == 0 else f"{line}: {done.output}"


def test_every_command_takes_a_config_and_what_is_read_can_be_json() -> None:
    options = {
        name: {option for each in command.params for option in each.opts}
        for name, command in commands(group)
    }
    assert [name for name, has in options.items() if "--config" not in has] == ["config reference"]
    assert {name for name, has in options.items() if "--json" not in has} == ACTS


def test_what_scripts_hold_is_understood() -> None:
    assert [found for line in STAYS if (found := understood(line))] == []


def test_every_documented_command_is_understood() -> None:
    lines = documented()
    assert len(lines) > 60
    assert [found for line in lines if (found := understood(line))] == []
    assert "No such option" in understood("status --colour")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("evalute TASK", "Did you mean 'evaluate'?"),
        ("maintain --keep-hours -1", "-1.0 is not in the range"),
        ("status --config nowhere.yaml", "nowhere.yaml: no such file"),
        ("evaluate support --limit 0", "--limit"),
        ("train support --method best", "'best' is not one of"),
        ("up --stack small", "'small' is not one of"),
        ("keys create --role king --name a", "'king' is not one of"),
        ("grade validate nowhere.yaml", "'nowhere.yaml' does not exist"),
        ("import nowhere --format openai", "'nowhere' does not exist"),
        ("import everlearn.yaml --format csv", "'csv' is not one of"),
        ("gate support", "Missing argument 'VERSION'"),
        ("labels put support cmpl_1 maybe", "'maybe' is not one of"),
    ],
)
def test_bad_usage_is_exit_2_and_names_what_was_wrong(words: str, told: str) -> None:
    done = CliRunner().invoke(group, shlex.split(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        # `main` prints it and ends with its code.
        assert getattr(done.exception, "exit_code", None) == 2
        assert told in str(done.exception)
    else:
        assert done.exit_code == 2
        assert told in done.output


@pytest.mark.parametrize(("verb", "section"), [("console", "console"), ("serve", "model_server")])
def test_a_port_that_is_taken_is_said_before_anything_slow(
    tmp_path: Path, verb: str, section: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "everlearn.yaml"
        file.write_text(f"console: {{port: {port}}}\nmodel_server: {{port: {port}, model: here}}\n")
        refused = CliRunner().invoke(group, [verb, "--config", str(file)]).exception
    assert isinstance(refused, ConfigError)
    assert f"{section}.port = {port}: taken by process {os.getpid()}" in str(refused)


def test_the_resolved_config_is_json_too_and_shows_no_password(tmp_path: Path) -> None:
    file = tmp_path / "everlearn.yaml"
    client = {"sasl_plain_password": 'a "b" c', "sasl_plain_username": "me"}
    file.write_text(json.dumps({"bus": {"kind": "kafka", "client": client}, "data_dir": "here"}))
    done = CliRunner().invoke(group, ["config", "check", str(file), "--json"])
    assert done.exit_code == 0, done.output
    resolved = json.loads(done.stdout)
    assert resolved["bus"]["client"] == {**client, "sasl_plain_password": "***"}
    assert (resolved["data_dir"], resolved["tasks"]) == ("here", {})


def test_passwords_are_hidden_wherever_they_stand() -> None:
    held = {"url": "postgresql://me:pw@db/x", "hosts": ["amqp://a:pw@b"], "secret": "", "port": 3}
    assert shown(held) == {
        **held, "url": "postgresql://me:***@db/x", "hosts": ["amqp://a:***@b"],
    }  # fmt: skip


def test_a_grader_is_checked_with_what_the_config_at_hand_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVERLEARN_CONFIG", raising=False)
    judge = {
        "type": "score_model", "name": "j", "model": "m", "upstream": "elsewhere",
        "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
    }  # fmt: skip
    (tmp_path / "grader.json").write_text(json.dumps(judge))
    (tmp_path / "other.yaml").write_text("data_dir: here\n")
    asked = ["grade", "validate", str(tmp_path / "grader.json"), "--json"]
    alone = CliRunner().invoke(group, asked)
    assert json.loads(alone.stdout) == {
        "file": asked[2], "type": "score_model", "name": "j", "valid": True,
    }  # fmt: skip
    refused = CliRunner().invoke(group, [*asked, "--config", "other.yaml"])
    assert "elsewhere" in str(refused.exception)
    assert getattr(refused.exception, "exit_code", None) == 2
