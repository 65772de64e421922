"""Airflow for this machine: its parts as processes of the stack, on loopback, sized to the machine.

Not `airflow standalone`: that listens on every address of the machine, on three ports, and holds 32
idle workers. The parts are the same; logs are read from the disk they share.
"""

import json
import os
import sys
from pathlib import Path

from everlearn.config import Service
from everlearn.errors import ConfigError
from everlearn.process import Process

DAGS = Path(__file__).parents[1] / "dags"
PASSWORDS = "simple_auth_manager_passwords.json.generated"


def processes(service: Service, config: Path) -> list[Process]:
    """The API server first: it makes the tables and the secret that the others share."""
    home = service.data_path / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    address = f"http://{service.airflow.host}:{service.airflow.port}"
    values = environment(service, home, config)
    ready = f"{address}/api/v2/monitor/health"
    migrate = f"{sys.executable} -m airflow db migrate"
    server = ("sh", "-c", f"{migrate} && exec {sys.executable} -m airflow api-server")

    def login() -> str:
        return read_login(home)

    return [
        Process("airflow", server, 3, address, ready, values, setting="airflow.port", login=login),
        _part("airflow-scheduler", values, "scheduler", "--skip-serve-logs"),
        _part("airflow-dags", values, "dag-processor"),
        _part("airflow-triggerer", values, "triggerer", "--skip-serve-logs"),
    ]


def _part(name: str, values: dict[str, str], *words: str) -> Process:
    return Process(name, (sys.executable, "-m", "airflow", *words), 4, environment=values)


def environment(service: Service, home: Path, config: Path) -> dict[str, str]:
    """Airflow's settings; ConfigError where it would listen for strangers."""
    host, port = service.airflow.host, service.airflow.port
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(
            f"airflow.host = {host!r}: the Airflow of `up --stack full` is for this machine, "
            "127.0.0.1; for others to reach it run Airflow's own deployment on the dags/ folder"
        )
    json_logs = {"AIRFLOW__LOGGING__JSON_LOGS": "True"} if service.logging.format == "json" else {}
    return {
        **json_logs,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": f"http://{host}:{port}",
        "AIRFLOW__API__HOST": host,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{host}:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(service.airflow.parallelism),
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        # What a killed scheduler ran is run again after half a minute, not after five.
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "EVERLEARN_CONFIG": str(config),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }


def read_login(home: Path) -> str:
    """Name and password that Airflow made at its first start."""
    try:
        passwords = json.loads((home / PASSWORDS).read_text())
    except (OSError, ValueError):
        return f"see {home / PASSWORDS}"
    return ", ".join(f"{name} / {password}" for name, password in passwords.items())
