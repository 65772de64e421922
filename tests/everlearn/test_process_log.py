"""Lines that processes write about themselves: one form, one id, nothing that was said."""

import asyncio
import json
import logging
import logging.config
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from collector.ship import Shipper
from everlearn import airflow
from everlearn.access_log import AccessLog, Message, Receive, Scope, Send
from everlearn.events import encode
from everlearn.log.bus import Record
from everlearn.process_log import (
    ROWS_TOLD,
    JsonLine,
    Logging,
    TextLine,
    about,
    about_bytes,
    set_up,
    tell_rows,
    uvicorn_settings,
)
from everlearn.stack import processes
from tests.builders import make_completion, make_service
from tests.gateway.backend import Backend, Call, answer, backend, chat_body
from tests.gateway.door import door
from tests.ports import find_free_port

ROOT = Path(__file__).parents[2]
SAID = "my card is 4111-1111"
"""What was asked: it must stand in no line."""
ANSWERED = "so it is, sweetheart"
TOO_MANY = 2**70
"""Tokens, by an upstream that counts wrong: more than a column takes."""


@pytest.fixture
def untouched() -> Iterator[None]:
    """The process's own handlers and levels afterwards."""
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, sys.excepthook
    yield
    root.handlers, sys.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)


def line(message: str, *, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    record = logging.LogRecord("gateway.x", logging.ERROR, "x.py", 1, message, (), None)
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    record.__dict__.update(extra)
    return record


def raised() -> BaseException:
    try:
        try:
            raise ValueError(SAID)
        except ValueError as inner:
            raise KeyError(f"about {SAID}") from inner
    except KeyError as error:
        return error


def test_a_json_line_says_when_who_what_and_of_which_answer() -> None:
    record = line("lost", completion_id="c-1", request_id="order-7", seq=3, prompt=SAID)
    found = json.loads(JsonLine("gateway").format(record))
    time = found.pop("time")
    assert time.endswith("+00:00")
    assert found == {
        **{"level": "error", "process": "gateway", "logger": "gateway.x", "message": "lost"},
        **{"completion_id": "c-1", "request_id": "order-7", "seq": 3},
    }


@pytest.mark.parametrize("form", [JsonLine("gateway"), TextLine()], ids=["json", "text"])
def test_of_an_answers_error_the_type_and_the_place_are_told_and_no_word(
    form: logging.Formatter,
) -> None:
    told = form.format(line("lost", error=raised(), completion_id="c-1"))
    assert SAID not in told
    assert "KeyError" in told
    assert "from ValueError" in told
    assert "in raised" in told


@pytest.mark.parametrize("form", [JsonLine("gateway"), TextLine()], ids=["json", "text"])
def test_of_the_processs_own_error_the_words_are_told(form: logging.Formatter) -> None:
    assert "disk is full" in form.format(line("ends", error=OSError("disk is full")))


@pytest.mark.parametrize("form", [JsonLine("gateway"), TextLine()], ids=["json", "text"])
def test_a_callers_name_of_a_request_cannot_forge_a_line(form: logging.Formatter) -> None:
    told = form.format(line("lost", request_id="a\n2026 INFO all is well \ud800" + "x" * 9999))
    assert "\n" not in told
    assert len(told) < 1000
    told.encode("ascii")


def test_what_cannot_be_read_has_no_name() -> None:
    assert about_bytes(b"\xff\x00junk") == {}
    event = make_completion(completion_id="c-9", request_id="order-9")
    assert about_bytes(encode(event)) == {"completion_id": "c-9", "request_id": "order-9"}


@pytest.mark.usefixtures("untouched")
def test_others_code_is_heard_only_when_it_warns(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Logging(format="json", level="debug"), "evaluate")
    set_up(Logging(format="json", level="debug"), "evaluate")
    logging.getLogger("openai._base_client").debug("Request options: %s", SAID)
    logging.getLogger("httpx").info("HTTP Request: POST http://judge?key=secret")
    logging.getLogger("httpx").warning("slow")
    logging.getLogger("evaluators.run").debug("ours")
    told = [json.loads(each)["message"] for each in capsys.readouterr().err.splitlines()]
    assert told == ["slow", "ours"]


@pytest.mark.usefixtures("untouched")
def test_a_loop_over_rows_tells_some_and_how_many_more(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Logging(), "collector")
    rows = [about(f"c-{number}") for number in range(ROWS_TOLD + 5)]
    tell_rows(logging.getLogger("collector.x"), "not whole", rows)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == ROWS_TOLD + 1
    assert told[0].endswith("WARNING collector.x not whole completion_id=c-0")
    assert told[-1].endswith("not whole: 5 more")


def requested(status: int, *, every: bool) -> None:
    """One request through the access log, of an app that answers `status` (0: it raises)."""

    class Route:
        path_format = "/runs/{name}"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = Route()
        if not status:
            raise RuntimeError
        await send({"type": "http.response.start", "status": status})

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        assert message["status"] == status

    scope: Scope = {
        **{"type": "http", "method": "GET", "path": f"/runs/{SAID}", "client": ("10.1.2.3", 1)},
        **{"query_string": b"token=secret", "headers": [(b"x-request-id", b"order-7")]},
    }
    asyncio.run(AccessLog(app, every=every)(scope, receive, send))


def test_an_access_line_names_the_route_and_neither_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="everlearn"):
        requested(404, every=True)
    (record,) = caplog.records
    found = json.loads(JsonLine("console").format(record))
    assert (found["route"], found["http_status"]) == ("/runs/{name}", 404)
    assert (found["message"], found["request_id"]) == ("GET", "order-7")
    assert not any(word in json.dumps(found) for word in (SAID, "secret", "10.1.2.3"))


def test_without_all_requests_only_those_that_failed_here_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="everlearn"):
        requested(200, every=False)
        requested(404, every=False)
        requested(503, every=False)
        with pytest.raises(RuntimeError):
            requested(0, every=False)
    assert [record.__dict__["http_status"] for record in caplog.records] == [503, 500]


@pytest.mark.usefixtures("untouched")
def test_a_server_that_is_not_ours_tells_of_its_requests_in_the_same_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.config.dictConfig(uvicorn_settings("mlflow"))
    access = logging.getLogger("uvicorn.access")
    access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", "/health", "1.1", 200)
    found = json.loads(capsys.readouterr().err)
    assert (found["process"], found["logger"]) == ("mlflow", "uvicorn.access")
    assert found["message"] == '127.0.0.1:5 - "GET /health HTTP/1.1" 200'


def test_the_shipper_names_the_answer_that_the_topic_does_not_take(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    event = make_completion(completion_id="c-9", request_id="order-9", request=SAID.encode())
    (tmp_path / "wal" / "g").mkdir(parents=True)
    shipper = Shipper(tmp_path / "wal", make_service(tmp_path).bus)
    shipper._refuse(Record("wal/g", 1, "g", 7, encode(event)))
    shipper.close()
    (record,) = [each for each in caplog.records if each.name == "collector.ship"]
    found = json.loads(JsonLine("shipper").format(record))
    assert (found["completion_id"], found["request_id"]) == ("c-9", "order-9")
    assert (found["gateway_id"], found["seq"]) == ("g", 7)
    assert SAID not in json.dumps(found)


@pytest.mark.anyio
async def test_what_failed_upstream_is_told_unasked_and_what_went_well_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = False

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"{}", 500) if broken else answer(chat_body(ANSWERED)))

    caplog.set_level(logging.INFO, logger="gateway")
    never = {"max_retries": 0}
    async with backend(reply) as upstream, door(tmp_path, upstream.url, settings=never) as gate:
        await gate.chat({"x-request-id": "order-6"})
        broken = True
        failed = await gate.chat({"x-request-id": "order-7"})
        assert failed.status_code >= 500
    (record,) = [each for each in caplog.records if each.name == "gateway.capture"]
    found = json.loads(JsonLine("gateway").format(record))
    assert (found["level"], found["status"]) == ("warning", "upstream_error")
    assert found["request_id"] == "order-7"
    assert found["completion_id"] == failed.headers["x-everlearn-id"]


def test_a_stack_tells_the_form_to_the_servers_that_are_not_ours(tmp_path: Path) -> None:
    config = tmp_path / "everlearn.yaml"
    text = make_service(tmp_path)
    usual = {row.name: row for row in processes(text, config, "local")}
    assert "--uvicorn-opts" not in usual["mlflow"].command
    assert "AIRFLOW__LOGGING__JSON_LOGS" not in airflow.environment(text, tmp_path, config)
    service = make_service(tmp_path, logging={"format": "json"})
    (mlflow,) = [row for row in processes(service, config, "local") if row.name == "mlflow"]
    options = shlex.split(mlflow.command[mlflow.command.index("--uvicorn-opts") + 1])
    assert options[0] == "--log-config"
    assert json.loads(Path(options[1]).read_text()) == uvicorn_settings("mlflow")
    assert airflow.environment(service, tmp_path, config)["AIRFLOW__LOGGING__JSON_LOGS"] == "True"


GRADER = {"type": "endpoint", "name": "right"}


def configured(folder: Path, upstream: Backend, port: int) -> Path:
    make_service(
        folder,
        upstreams={"local": {"base_url": upstream.url, "kind": "vllm"}},
        gateway={"port": port, "drain_seconds": 5},
        logging={"format": "json", "requests": True},
    )
    grader = {**GRADER, "url": f"http://127.0.0.1:{upstream.port}/score"}
    task = {
        **{"task": "support", "base_model": "base", "upstream": "local", "graders": [grader]},
        **{"heldout": {"grader": "right"}, "release": {"primary": "right"}},
    }
    (folder / "tasks" / "support.yaml").write_text(yaml.safe_dump(task))
    return folder / "everlearn.yaml"


async def started(config: Path, *words: str) -> "asyncio.subprocess.Process":
    command = (sys.executable, "-m", "everlearn", *words, "--config", str(config))
    with (config.parent / f"{words[0]}.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stderr=log, stdout=subprocess.DEVNULL
        )


@pytest.mark.anyio
async def test_one_request_has_one_name_in_the_lines_of_every_process(tmp_path: Path) -> None:
    """Its answer has a value that no column takes, and its grader answers what is no score."""

    async def reply(call: Call, writer: asyncio.StreamWriter) -> None:
        if call.path == "/score":
            writer.write(answer(b"<html>" + SAID.encode(), kind="text/html"))
        else:
            writer.write(answer(chat_body(ANSWERED, usage={"prompt_tokens": TOO_MANY})))

    upstream = Backend(reply)
    await upstream.start()
    port = find_free_port()
    config = configured(tmp_path, upstream, port)
    gateway = await started(config, "gateway")
    try:
        ours = await asked(port)
    finally:
        gateway.terminate()
        assert await gateway.wait() == 0
    for words in (("collect", "--once"), ("evaluate", "support")):
        assert await (await started(config, *words)).wait() == 0
    await upstream.stop()
    for verb, process in (
        ("gateway", "gateway"),
        ("collect", "collector"),
        ("evaluate", "evaluate"),
    ):
        text = (tmp_path / f"{verb}.log").read_text()
        assert SAID not in text
        assert "sweetheart" not in text
        lines = [json.loads(each) for each in text.splitlines()]
        of_it = [each for each in lines if each.get("request_id") == "order-7"]
        assert of_it, text
        assert {each["completion_id"] for each in of_it} == {ours}
        assert {each["process"] for each in lines} == {process}


async def asked(port: int) -> str:
    """Ask once it listens; our name of the request."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        async with asyncio.timeout(60):
            while True:
                try:
                    await client.get("/health")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        said = await client.post(
            "/v1/chat/completions",
            json={"model": "support", "messages": [{"role": "user", "content": SAID}]},
            headers={"x-request-id": "order-7"},
        )
    assert said.status_code == 200
    return said.headers["x-everlearn-id"]


def test_the_reason_why_a_process_ends_is_a_line_too(tmp_path: Path) -> None:
    make_service(tmp_path, logging={"format": "json"})
    done = subprocess.run(
        [sys.executable, "-m", "everlearn", "ship", "--config", str(tmp_path / "everlearn.yaml")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    (found,) = [json.loads(each) for each in done.stderr.splitlines()]
    assert (found["level"], found["process"]) == ("critical", "shipper")
    assert "bus.kind = 'wal'" in found["message"]
