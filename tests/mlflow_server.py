"""A real MLflow server, for tests of what stands on it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from everlearn.supervise import url_answers

QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@contextmanager
def mlflow_server(
    folder: Path,
    port: int,
    *,
    database: str | None = None,
    artifacts: str | None = None,
    environment: Mapping[str, str] = {},
) -> Iterator[str]:
    """Its address; database and artifacts stand in `folder` unless told; stopped with its workers
    at the end.

    The first start lays the tables out: about 10 s on two cores, minutes on a busy machine.
    """
    address = f"http://127.0.0.1:{port}"
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", database or f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", artifacts or str(folder / "artifacts")),
    )
    log = (folder / "mlflow.log").open("w")
    told = {**os.environ, **QUIET, **environment}
    server = subprocess.Popen(command, stdout=log, stderr=log, env=told, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not url_answers(f"{address}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "mlflow.log").read_text()[-2000:])
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait()
        log.close()
