"""Which processes a config asks for on one machine, in which order: nothing is started here."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from everlearn import airflow
from everlearn.broker import prepare
from everlearn.config import Service
from everlearn.process import Process
from everlearn.process_log import uvicorn_settings


def processes(service: Service, config: Path, stack: str) -> tuple[Process, ...]:
    """What runs for this config.

    `stack` is `local`, or `full`: the events then go over a Kafka broker on this machine, and
    Airflow and the console run too.
    """
    rows = [_mlflow(service), _verb("collector", "collect", config, wave=1)]
    if service.model_server.model:
        address = f"http://{service.model_server.host}:{service.model_server.port}"
        server = _verb("model-server", "serve", config, wave=0, address=address, ready="/health")
        seconds = service.model_server.start_timeout_seconds
        rows.append(replace(server, start_timeout_seconds=seconds))
    address = f"http://{service.gateway.host}:{service.gateway.port}"
    rows.append(_verb("gateway", "gateway", config, wave=2, address=address, ready="/ready"))
    rows.append(_verb("releases", "releases", config, "run", wave=3))
    if stack == "full":
        broker = service.bus.bootstrap_servers[0]
        command = prepare(service)
        rows.append(
            Process("kafka", command, 0, broker, f"tcp://{broker}", setting="bus.bootstrap_servers")
        )
        rows.append(_console(service, config))
        rows += airflow.processes(service, config)
    if stack == "full" or service.bus.kind == "kafka":
        rows.append(_verb("shipper", "ship", config, wave=1))
    if stack == "full":
        rows = [_over_kafka(row) for row in rows]
    return tuple(sorted(rows, key=lambda process: process.wave))


def _console(service: Service, config: Path) -> Process:
    address = f"http://{service.console.host}:{service.console.port}"

    def login() -> str:
        return f"{address}/?token={(service.data_path / 'console.token').read_text()}"

    row = _verb("console", "console", config, wave=3, address=address, ready="/health")
    return replace(row, login=login)


def _over_kafka(process: Process) -> Process:
    return replace(process, environment={**process.environment, "EVERLEARN_BUS__KIND": "kafka"})


def _verb(
    name: str,
    verb: str,
    config: Path,
    *more: str,
    wave: int,
    address: str | None = None,
    ready: str | None = None,
) -> Process:
    command = (sys.executable, "-m", "everlearn", verb, *more, "--config", str(config))
    ready_url = f"{address}{ready}" if address and ready else None
    setting = f"{name.replace('-', '_')}.port" if address else None
    return Process(name, command, wave, address, ready_url, setting=setting)


def _mlflow(service: Service) -> Process:
    folder = (
        service.root / (service.mlflow.artifacts_path or service.data_path / "mlflow")
    ).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    host, _, port = service.mlflow.tracking_uri.split("//", 1)[1].partition(":")
    command: tuple[str, ...] = (
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port or "5000"),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    )
    if service.logging.format == "json":
        settings = service.data_path / "run" / "mlflow-log.json"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(json.dumps(uvicorn_settings("mlflow")))
        command += ("--uvicorn-opts", f"--log-config {shlex.quote(str(settings))}")
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    address = service.mlflow.tracking_uri
    ready = f"{address}/health"
    return Process("mlflow", command, 0, address, ready, quiet, setting="mlflow.tracking_uri")
