"""execution of a command: any program's word counts; its own failure counts against nobody."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluators.graders import command
from evaluators.graders.base import Base
from evaluators.sandbox import sandbox
from evaluators.types import Score
from everlearn.errors import ConfigError
from tests.builders import make_service
from tests.evaluators.graders import make_grader, verdict

pytestmark = pytest.mark.anyio
PYTHON = os.path.realpath(sys.executable)
RUN = {"command": ["sh", "input.sh"], "input_file": "input.sh"}


def make_command(*words: str, folder: Path = Path(), **fields: Any) -> Base[Any]:
    spec = {"command": words, **fields}
    return make_grader(folder, type="execution", language="command", **spec)


async def shell(script: str, **fields: Any) -> Score:
    """The verdict of a tool whose program is the answer."""
    return await verdict(make_command(**{**RUN, **fields}), script)


@pytest.mark.parametrize(
    ("script", "value", "reason"),
    [
        ("exit 0", 1.0, "exit code 0"),
        ("echo fine", 1.0, "exit code 0: fine"),
        ("echo line 3: no such name >&2; exit 1", 0.0, "exit code 1: line 3: no such name"),
    ],
)
async def test_the_exit_code_is_the_score(script: str, value: float, reason: str) -> None:
    assert await shell(script) == Score(value, reason=reason)


async def test_other_exit_codes_can_mean_no() -> None:
    assert (await shell("exit 3", fails=[1, 3])).value == 0.0
    found = await shell("echo usage: tool FILE; exit 2")
    assert found.value is None
    assert "exit code 2, which `fails` does not name: usage: tool FILE" in (found.error or "")


@pytest.mark.parametrize(
    ("script", "value", "error"),
    [
        ("echo 9 of 10; echo 0.9", 0.9, None),
        ("echo 0.9; exit 1", 0.0, None),
        ("echo 9 of 10", None, "the last line is no number: '9 of 10'"),
        ("true", None, "the last line is no number: ''"),
        ("echo nan", None, "the number is nan, not within 0 to 1"),
        ("echo 90", None, "the number is 90, not within 0 to 1"),
    ],
)
async def test_the_last_line_is_the_score(
    script: str, value: float | None, error: str | None
) -> None:
    found = await shell(script, result="number")
    assert (found.value, found.error) == (value, error)


async def test_a_number_has_the_range_and_the_threshold_of_the_grader() -> None:
    found = await shell("echo 7", result="number", range=[0, 10], pass_threshold=8)
    assert (found.value, found.label) == (7.0, "fail")


async def test_the_answer_comes_by_standard_input_and_files_by_their_names() -> None:
    grader = make_command(
        "sh", "-c", 'test "$(cat)" = "$(cat wanted)"',
        fenced=True, files={"wanted": "{{ item.metadata.wanted }}"},
    )  # fmt: skip
    answer = "<think>```\nb\n```</think>Here:\n```sh\na\n```\n"
    assert (await verdict(grader, answer, metadata={"wanted": "a"})).value == 1.0
    assert (await verdict(grader, answer, metadata={"wanted": "b"})).value == 0.0
    found = await verdict(grader, answer, metadata={})
    assert (found.value, found.error) == (None, None)
    assert "item.metadata.wanted" in (found.reason or "")


BROKEN = {
    "while :; do :; done": "took more than 0.2 s of CPU time",
    "sh -c 'kill -SEGV $$'; exit $?": "ended by signal 11",
    "kill -SEGV $$": "ended by signal 11",
    f"exec {PYTHON} -ISc 'import os; os.abort()'": "ended by signal 6",
}


@pytest.mark.parametrize("script", BROKEN)
@pytest.mark.parametrize("runs_answer", [False, True])
async def test_whose_fault_a_crash_is_depends_on_what_the_tool_runs(
    script: str, runs_answer: bool
) -> None:
    found = await shell(script, runs_answer=runs_answer, timeout_seconds=0.2)
    if runs_answer:
        assert found == Score(0.0, reason=f"the answer {BROKEN[script]}")
    else:
        assert found == Score(error=f"sh {BROKEN[script]}")


async def test_what_waits_meets_the_wall_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WAIT_SECONDS", 0.25)
    found = await shell("sleep 600", timeout_seconds=0.01)
    assert found == Score(error="sh waited longer than 0.3 s")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
    sandbox().close()


ESCAPES = {
    "a file of this machine": "open({secret!r})",
    "passwd": "open('/etc/passwd')",
    "the environment": "os.environ['SESAME']",
    "processes": "os.listdir('/proc')",
    "the machine's ports": "__import__('socket').create_connection(('127.0.0.1', {port}), 1)",
    "a folder of programs": "open('/usr/bin/made', 'w')",
    "the root": "os.mkdir('/made')",
    "an old answer": "[n for n in os.listdir('/tmp') if n not in os.getcwd()][0]",
    "more than its files may hold": "open('x', 'wb').write(bytes(40 << 20))",
    "more memory than it may use": "bytearray(64 << 20)",
    "memory that no limit counts": "__import__('mmap').mmap(-1, 1 << 20)",
    "the process that runs it": "c.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 or [][0]",
    "a namespace": "c.CDLL(None).unshare(1 << 28) == 0 or [][0]",
    "a namespace by clone": "c.CDLL(None).syscall(56, 1 << 28 | 17, 0, 0, 0, 0) >= 0 or [][0]",
    "higher limits": "r.setrlimit(r.RLIMIT_DATA, (r.RLIM_INFINITY,) * 2)",
}  # fmt: skip


@pytest.mark.parametrize("what", ESCAPES)
async def test_no_tool_gets_out(
    what: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESAME", "sesame")
    (tmp_path / "secret").write_text("sesame")
    attempt = ESCAPES[what].format(secret=str(tmp_path / "secret"), port=port)
    script = f"import ctypes as c, os, resource as r\n{attempt}\n"
    grader = make_command(PYTHON, "-IS", "-", max_memory_mb=32)
    found = await verdict(grader, script)
    assert (found.value, found.error) == (0.0, None), found
    assert (found.reason or "").startswith("exit code 1: ")


async def test_what_ends_the_process_that_runs_it_gains_nothing() -> None:
    script = f"{PYTHON} -ISc 'import os; os.kill(os.getppid(), 9); os.kill(-1, 9)'"
    assert (await shell(script)).value is None
    assert (await shell(script, runs_answer=True)).value == 0.0


async def test_limits_are_those_of_the_grader() -> None:
    script = (
        "import resource as r; print(r.getrlimit(r.RLIMIT_NPROC)[1], "
        "r.getrlimit(r.RLIMIT_DATA)[1] >> 20)"
    )
    grader = make_command(PYTHON, "-IS", "-", max_processes=7, max_memory_mb=48)
    assert (await verdict(grader, script)).reason == "exit code 0: 7 48"


async def test_a_program_beside_the_task_file_reads_what_it_names(tmp_path: Path) -> None:
    check = tmp_path / "check.sh"
    check.write_text(f"#!/bin/sh\ngrep -q '^a$' {tmp_path}/words/list\n")
    check.chmod(0o755)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "list").write_text("a\n")
    grader = make_command("./check.sh", folder=tmp_path, reads=["words"])
    assert (await verdict(grader, "x")).value == 1.0
    blind = make_command("./check.sh", folder=tmp_path)
    assert (await verdict(blind, "x")).value is None
    before = make_command("./check.sh", folder=tmp_path).version
    check.write_text("#!/bin/sh\nexit 1\n")
    assert make_command("./check.sh", folder=tmp_path).version != before


async def test_without_isolation_it_runs_in_a_folder_that_goes(tmp_path: Path) -> None:
    service = make_service(tmp_path, sandbox={"isolation": "none"})
    spec = {"type": "execution", "language": "command", "command": ["sh", "-c", "pwd; sleep 60 &"]}
    found = await verdict(make_grader(tmp_path, service, **spec), "x")
    assert found.value == 1.0
    assert not Path((found.reason or "").removeprefix("exit code 0: ")).exists()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"command": ["no-such-tool"]}, "command = 'no-such-tool': no program"),
        ({"command": ["/usr"]}, "command = '/usr': no program"),
        ({"command": []}, "command"),
        ({"command": ["true"], "reads": ["gone"]}, "gone': no such file or folder"),
        ({"command": ["true"], "reads": ["/"]}, "name what it needs of it"),
        ({"command": ["true"], "files": {"../x": "y"}}, "a plain file name"),
        ({"command": ["true"], "input_file": "a/b"}, "a plain file name"),
        ({"command": ["true"], "input": "{{ nothing.here }}"}, "input"),
    ],
)
def test_a_definition_that_cannot_work_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_command(**{"command": ["true"], **fields})
