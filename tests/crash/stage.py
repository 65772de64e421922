"""The processes under test, users that note what they received, and the account at the end."""

import asyncio
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collector.ledger import GatewayLedger, ledger
from everlearn.config import Service
from everlearn.lake.ducklake import DuckLake
from tests.gateway.backend import Backend, plain
from tests.kafka.broker import answers

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("EVERLEARN_KILLS", "200"))
"""kill -9 of the embedded form; the Kafka form gets a fifth of it."""
SEED = int(os.environ.get("EVERLEARN_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


class Nursery:
    """Children of `tests.crash.nursery`, by name."""

    def __init__(self, service: Service) -> None:
        self._logs = service.data_path / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "tests.crash.nursery"),
            *(str(service.root / "everlearn.yaml"), str(self._logs)),
        ]
        self._parent = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == "ready"
        self.pids: dict[str, int] = {}

    def start(self, verb: str, name: str = "") -> None:
        """Start a verb's process; `name` tells several of one verb apart."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{verb}\n")
        self._parent.stdin.flush()
        self.pids[name or verb] = int(self._read())

    def kill(self, verb: str) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(verb, signal.SIGKILL)

    def stop(self, verb: str) -> None:
        """SIGTERM, and wait until it is gone."""
        self.signal(verb, signal.SIGTERM)

    def signal(self, verb: str, number: int) -> None:
        """Send a signal that ends the process; one that died by itself is a failure."""
        pid = self.pids.pop(verb)
        try:
            os.kill(pid, number)
        except ProcessLookupError as error:
            raise AssertionError(f"{verb} had died:\n{self.log(verb)}") from error
        deadline = time.monotonic() + 30
        while _lives(pid):
            assert time.monotonic() < deadline, f"{verb} does not end"
            time.sleep(0.002)

    def log(self, verb: str) -> str:
        """The last lines that a verb has written."""
        file = self._logs / f"{verb}.log"
        return file.read_text(errors="replace")[-3000:] if file.exists() else ""

    def close(self) -> None:
        """Kill all."""
        for verb in list(self.pids):
            os.kill(self.pids.pop(verb), signal.SIGKILL)
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(10)
        self._parent.stdout.close()

    def _read(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline().strip()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def upstream() -> Iterator[Backend]:
    """A model server in a thread of the test."""
    loop = asyncio.new_event_loop()
    server = Backend(plain)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Users:
    """Threads that ask and rate, and note every answer that they received whole."""

    def __init__(self, port: int, threads: int, seed: int, pause_seconds: float = 0.004) -> None:
        self.received: list[str] = []
        """Completion ids of whole answers: the truth."""
        self.rated: list[str] = []
        """Feedback ids that were answered 202."""
        self.refused = 0
        """Answers other than 200, and connections that broke."""
        self._port, self._pause = port, pause_seconds
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(random.Random(seed + number),))
            for number in range(threads)
        ]

    def __enter__(self) -> "Users":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _ask_on(self, dice: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        while not self._stop.wait(self._pause):
            try:
                name = self._ask(connection, stream=dice.random() < 0.3)
                if name is not None and dice.random() < 0.2:
                    self._rate(connection, name)
            except (OSError, http.client.HTTPException):
                self.refused += 1
                connection.close()
                self._stop.wait(0.02)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, *, stream: bool) -> str | None:
        body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": stream}
        status, text, name = self._post(connection, "/v1/chat/completions", body)
        if status != 200 or (stream and not text.endswith(b"data: [DONE]\n\n")):
            self.refused += 1
            return None
        assert name is not None
        self.received.append(name)
        return name

    def _rate(self, connection: http.client.HTTPConnection, name: str) -> None:
        body = {"completion_id": name, "value": "up", "author_id": name}
        status, text, _ = self._post(connection, "/v1/feedback", body)
        if status == 202:
            self.rated.append(json.loads(text)["feedback_id"])

    def _post(
        self, connection: http.client.HTTPConnection, path: str, body: object
    ) -> tuple[int, bytes, str | None]:
        headers = {"content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("x-everlearn-id")


def await_gateway(service: Service, nursery: Nursery) -> None:
    """Wait until the gateway answers: only then are the processes worth killing."""
    deadline = time.monotonic() + 30
    while not answers(service.gateway.port):
        assert time.monotonic() < deadline, nursery.log("gateway")
        time.sleep(0.005)


def wait_until_stored(service: Service, lake: DuckLake, seconds: float) -> list[GatewayLedger]:
    """The ledger once nothing is on its way; what it is after `seconds` otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        accounts = ledger(service, lake)
        if time.monotonic() > deadline or not any(item.pending for item in accounts):
            return accounts
        time.sleep(0.2)


def check_account(accounts: list[GatewayLedger], lake: DuckLake, users: Users) -> None:
    """Nothing that a user received is lost, nothing is there twice, and the ledger says so."""
    stored = lake.read("SELECT completion_id AS id FROM completions")["id"].to_pylist()
    rated = lake.read("SELECT feedback_id AS id FROM feedback")["id"].to_pylist()
    assert set(users.received) - set(stored) == set(), "received and not stored"
    assert set(users.rated) - set(rated) == set(), "feedback accepted and not stored"
    assert len(stored) == len(set(stored)), "completions stored twice"
    assert len(rated) == len(set(rated)), "feedback stored twice"
    for account in accounts:
        assert (account.missing, account.duplicates, account.pending) == (0, 0, 0), account
        assert (account.dead_letters, account.dropped) == (0, 0), account
    assert sum(account.acknowledged for account in accounts) == len(stored) + len(rated)
