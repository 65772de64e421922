"""The example's model server and gateway, as processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from everlearn.supervise import url_answers
from tests.ports import find_free_port

ROOT = Path(__file__).parents[2]


@contextmanager
def running(verb: str, env: dict[str, str], log: Path, ready: str) -> Iterator[None]:
    """`everlearn VERB` until the block ends."""
    command = [sys.executable, "-m", "everlearn", verb]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while not url_answers(ready):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a gateway (up to /v1) in front of a server of the example's base model."""
    folder = tmp_path_factory.mktemp("example")
    door, models = find_free_port(), find_free_port()
    env = {
        **os.environ,
        "EVERLEARN_CONFIG": str(ROOT / "everlearn.yaml"),
        "EVERLEARN_DATA_DIR": str(folder / "data"),
        "EVERLEARN_GATEWAY__PORT": str(door),
        "EVERLEARN_MODEL_SERVER__PORT": str(models),
        "EVERLEARN_MODEL_SERVER__THREADS": "1",
        "EVERLEARN_UPSTREAMS__LOCAL__BASE_URL": f"http://127.0.0.1:{models}/v1",
    }
    with ExitStack() as stack:
        for verb, port, path in (("serve", models, "health"), ("gateway", door, "ready")):
            ready = f"http://127.0.0.1:{port}/{path}"
            stack.enter_context(running(verb, env, folder / f"{verb}.log", ready))
        yield f"http://127.0.0.1:{door}/v1"
