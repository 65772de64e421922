"""What a model or a grader's author writes does not get out, stay, hold up, or speak for others."""

import os
import socket
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from evaluators import isolation
from evaluators.run import evaluate
from evaluators.sandbox import require, sandbox
from evaluators.types import Score
from everlearn.config import Sandbox as Rules
from everlearn.errors import ConfigError
from tests.builders import make_service
from tests.evaluators.graders import make_database, make_grader, make_task, verdict
from tests.evaluators.lake import Rows

pytestmark = pytest.mark.anyio
ESCAPES = yaml.safe_load(Path(__file__).with_name("escapes.yaml").read_text())
PYTHON, SQL = ESCAPES["python"], ESCAPES["sql"]
HEAD = "import os, socket, sys\nSECRET, PORT = {secret!r}, {port}\ndef grade(sample, item):\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A file, a variable and a listening socket of this machine, and two databases."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "secret").write_text("sesame")
    make_database(folder)
    with duckdb.connect(str(folder / "other.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 'sesame' AS x")
    os.environ["SESAME"] = "sesame"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        yield {"folder": folder, "secret": str(folder / "secret"), "port": port, "server": server}
    del os.environ["SESAME"]
    sandbox().close()


def test_there_are_enough_of_them() -> None:
    assert len(PYTHON) + len(SQL) >= 60


@pytest.mark.parametrize("what", PYTHON)
async def test_no_python_gets_out(host: dict[str, Any], what: str) -> None:
    source = HEAD.format(**host) + textwrap.indent(PYTHON[what], "    ")
    grader = make_grader(type="python", source=source, timeout_seconds=0.3)
    started = time.monotonic()
    found = await verdict(grader, "x")
    assert found.value in (None, 0.0), found
    assert time.monotonic() - started < 30
    with pytest.raises(BlockingIOError):
        host["server"].accept()


@pytest.mark.parametrize("what", SQL)
async def test_no_sql_gets_out(host: dict[str, Any], what: str) -> None:
    text = SQL[what].replace("SECRET", host["secret"]).replace("PORT", str(host["port"]))
    text = text.replace("OTHER", str(host["folder"] / "other.duckdb"))
    before = (host["folder"] / "orders.duckdb").read_bytes()
    found = await verdict(sql(host["folder"]), text)
    assert found.value == 0.0 or (what, found.reason) == ("which secrets", "ran: 0 rows"), found
    assert (host["folder"] / "orders.duckdb").read_bytes() == before
    assert not list(Path("/tmp").glob("everlearn-out*"))


def sql(folder: Path, **fields: Any) -> Any:
    spec = {"type": "execution", "language": "sql", "database": "orders.duckdb"}
    return make_grader(folder, **{**spec, "timeout_seconds": 0.2, **fields})


LEFTOVERS = {
    "a name": "import builtins; builtins.left = 1",
    "a thread": "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
    "limits": "import resource as r; r.prlimit(os.getppid(), r.RLIMIT_CPU, (1, 1))",
    "a patched module": "import json; json.dumps = lambda *_, **__: '{\"value\": 1.0}'",
    "a patched program": (
        "from evaluators.children import python as p; p._checked = lambda _: {'value': 1.0}"
    ),
    "replies into every descriptor": (
        "[os.write(n, b'{\"value\": 1.0, \"key\": \"\"}\\n') for n in range(3, 64) if alive(n)]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFTOVERS)
async def test_nothing_of_one_answer_reaches_the_next(what: str) -> None:
    source = (
        "import os\n"
        "def alive(n):\n    try: os.fstat(n); return True\n    except OSError: return False\n"
        "def grade(sample, item):\n    import builtins\n"
        f"    if sample['output_text'] == 'evil':\n        {LEFTOVERS[what]}\n        return 0.25\n"
        "    return 1.0 if hasattr(builtins, 'left') else 0.5\n"
    )
    grader = make_grader(type="python", source=source, timeout_seconds=2)
    for _ in range(3):
        await verdict(grader, "evil")
        assert (await verdict(grader, "honest")).value == 0.5


async def test_a_reply_to_another_request_is_none(host: dict[str, Any]) -> None:
    """The process that grades has no way to the parent's pipe: it writes into its own alone."""
    source = (
        "import os\ndef grade(sample, item):\n"
        '    os.write(3, b\'{"value": 1.0, "key": "x"}\\n{"value": 1.0}\')\n    os._exit(0)\n'
    )
    found = await verdict(make_grader(type="python", source=source, timeout_seconds=1), "x")
    assert (found.value, "not JSON" in (found.error or "")) == (None, True)


async def test_graders_with_different_sources_share_no_process() -> None:
    source = "import os\nleft = []\ndef grade(sample, item):\n    return float(os.getppid())\n"
    one = await verdict(make_grader(type="python", source=source), "x")
    two = await verdict(make_grader(type="python", source=source + "#"), "x")
    assert one.value == two.value == 2.0  # each in a container of its own: both see number 2


async def test_a_trivial_call_is_quick() -> None:
    grader = make_grader(type="python", source="def grade(sample, item):\n    return 1.0\n")
    await verdict(grader, "x")
    times = []
    for _ in range(100):
        started = time.perf_counter()
        await verdict(grader, "x")
        times.append(time.perf_counter() - started)
    assert min(times) < 0.005  # what it costs, not what else the machine was doing


class Missing:
    """A machine on which nothing can be isolated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bwrap: str | None) -> None:
        monkeypatch.setattr(isolation, "bubblewrap", lambda: bwrap)
        isolation._trial.cache_clear()
        isolation._mounts.cache_clear()


@pytest.fixture(params=["not installed", "forbidden"])
def missing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    sandbox().close()
    broken = tmp_path / "bwrap"
    broken.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2; exit 1"
    )
    broken.chmod(0o755)
    Missing(monkeypatch, None if request.param == "not installed" else str(broken))
    yield "not installed" if request.param == "not installed" else "No permissions to create"
    isolation._trial.cache_clear()


async def test_without_isolation_nothing_runs(missing: str, host: dict[str, Any]) -> None:
    source = "def grade(sample, item):\n    return 1.0\n"
    refused = [
        await verdict(make_grader(type="python", source=source), "x"),
        await verdict(sql(host["folder"]), "SELECT 1"),
    ]
    for found in refused:
        assert found.value is None
        assert missing in (found.error or "")
        assert "apt install bubblewrap" in (found.error or "")
    with pytest.raises(ConfigError, match="isolation: none"):
        require(Rules())


def test_evaluate_refuses_at_once_with_what_to_install(missing: str, tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    make_database(tmp_path)
    spec = {"name": "runs", "type": "execution", "language": "sql", "database": "orders.duckdb"}
    with pytest.raises(ConfigError, match=missing):
        evaluate(rows.service, make_task(tmp_path, spec), rows.lake)
    rows.lake.close()


@pytest.mark.usefixtures("missing")
async def test_without_isolation_by_config_code_runs(tmp_path: Path) -> None:
    service = make_service(tmp_path, sandbox={"isolation": "none"})
    source = "def grade(sample, item):\n    return 1.0\n"
    grader = make_grader(tmp_path, service, type="python", source=source)
    assert await verdict(grader, "x") == Score(1.0)
    make_database(tmp_path)
    spec = {"type": "execution", "language": "sql", "database": "orders.duckdb"}
    assert (await verdict(make_grader(tmp_path, service, **spec), "SELECT 1")).value == 1.0
    require(service.sandbox)
    sandbox().close()


async def test_packages_are_those_that_were_named(tmp_path: Path) -> None:
    source = "import numpy\ndef grade(sample, item):\n    return float(numpy.ones(2).sum())\n"
    named = make_grader(type="python", source=source)
    assert (await verdict(named, "x")).value == 2.0
    service = make_service(tmp_path, sandbox={"packages": ["rapidfuzz"]})
    other = make_grader(tmp_path, service, type="python", source=source)
    assert "No module named 'numpy'" in ((await verdict(other, "x")).error or "")
    unknown = make_service(tmp_path, sandbox={"packages": ["no_such_package"]})
    found = await verdict(make_grader(tmp_path, unknown, type="python", source=source), "x")
    assert "sandbox.packages: 'no_such_package'" in (found.error or "")
