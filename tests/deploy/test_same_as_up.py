"""docker-compose.yml and `everlearn up --stack full` start the same processes in the same way.

No Docker engine is needed: both read deploy/everlearn.yaml, and there is no list of exceptions. A
difference is a failure, but for what a rule below explains: where a service answers (its own name
instead of this machine's address), and the stores that the config names in place of files.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml

from everlearn import airflow, broker
from everlearn.cli import group
from everlearn.config import Service, load
from everlearn.process import Process
from everlearn.stack import processes
from everlearn.supervise import STOP_SECONDS
from tests.deploy.compose import (
    CONFIG,
    ROOT,
    environment,
    images,
    of_everlearn,
    ours,
    plain,
    services,
)

IN_CONTAINER = "/etc/everlearn/everlearn.yaml"
PYTHON = f"{sys.executable} -m "


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in of_everlearn(dict(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Process]:
    """What `up --stack full` starts, by name; it takes a broker on this machine only."""
    with monkeypatch.context() as patch:
        patch.setenv("EVERLEARN_DATA_DIR", str(tmp_path))
        patch.setenv("EVERLEARN_BUS__BOOTSTRAP_SERVERS", "127.0.0.1:9092")
        rows = processes(load(CONFIG), Path(IN_CONTAINER), "full")
    return {row.name: row for row in rows}


def settings(values: dict[str, str]) -> dict[str, Any]:
    """Every setting as a process with these variables resolves the config."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in of_everlearn(values).items():
            patch.setenv(name, value)
        return load(CONFIG).model_dump()


def words(command: list[str] | tuple[str, ...]) -> str:
    """What is run, in whichever Python and shell."""
    return re.sub(r"^(sh|bash) -c ", "", " ".join(command)).replace(PYTHON, "")


def stores(service: Service) -> set[str]:
    """Hosts that keep what one machine keeps in files."""
    place = re.search(r"host=(\S+)", service.lake.catalog)
    assert place is not None
    addresses = (service.lake.s3_endpoint or "", service.state.url)
    hosts = {urlsplit(address).hostname for address in addresses} | {place[1]}
    return {host for host in hosts if host}


def test_the_same_processes_run_and_the_stores_that_the_config_names(
    started: dict[str, Process],
) -> None:
    assert plain().keys() == started.keys() | stores(load(CONFIG))
    assert not stores(load(CONFIG)) & started.keys()


def test_they_are_started_by_the_same_words(started: dict[str, Process]) -> None:
    for name in ours().keys() & started.keys():
        assert words(started[name].command) == words(services()[name]["command"]), name


def test_every_setting_is_the_same(started: dict[str, Process]) -> None:
    for name in ours().keys() & started.keys():
        assert settings(started[name].environment) == settings(environment(name)), name


def test_nothing_is_told_by_the_environment_but_secrets_and_where_the_files_are() -> None:
    for name in ours():
        assert of_everlearn(environment(name)).keys() == {
            "EVERLEARN_CONFIG", "EVERLEARN_TASKS_DIR",
        }  # fmt: skip


def test_airflow_is_told_the_same(started: dict[str, Process]) -> None:
    folder = Path(settings({})["data_dir"]) / "airflow"
    here = airflow.environment(load(CONFIG), folder, Path(IN_CONTAINER))
    for name in ("airflow", "airflow-scheduler", "airflow-dags", "airflow-triggerer"):
        told = {key for key in environment(name) if key.startswith("AIRFLOW")}
        assert told - here.keys() == {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"}
        assert here.keys() - environment(name).keys() == {"PATH"}, "each has its own"
        for key in told & here.keys():
            value, there = here[key], environment(name)[key]
            if key == "AIRFLOW__CORE__DAGS_FOLDER":
                assert f"\nCOPY dags {Path(value).name}" in images()["airflow"].text
                assert there == "/app/dags"
            else:
                assert there in (value, value.replace("127.0.0.1", "airflow")), key
    database = environment("airflow")["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert urlsplit(database).hostname in stores(load(CONFIG))


def test_airflow_has_every_setting_that_it_is_told() -> None:
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    assert spec.origin is not None
    known = yaml.safe_load((Path(spec.origin).parent / "config_templates/config.yml").read_text())
    for key in airflow.environment(load(CONFIG), Path("home"), Path(IN_CONTAINER)):
        if key.startswith("AIRFLOW__"):
            section, option = key.removeprefix("AIRFLOW__").lower().split("__")
            assert option in known[section]["options"], key


def test_health_is_asked_where_the_process_says_that_it_answers(
    started: dict[str, Process],
) -> None:
    service = load(CONFIG)
    ports = {
        "shipper": service.bus.metrics_port,
        "collector": service.collector.metrics_port,
        "releases": service.releases.metrics_port,
    }
    asked = {name: str(one["healthcheck"]) for name, one in services().items()}
    for name, row in started.items():
        if row.ready is not None:
            own = row.ready.replace("127.0.0.1", name).removeprefix("tcp://")
            assert own in asked[name], name
        elif name in ports:
            assert f"http://localhost:{ports[name]}'" in asked[name]
        else:
            parts = {"airflow-scheduler": "scheduler", "airflow-dags": "dag_processor"}
            part = {**parts, "airflow-triggerer": "triggerer"}[name]
            state = (started["airflow"].ready or "").replace("127.0.0.1", "airflow")
            assert f"{state}'))['{part}']['status'] == 'healthy'" in asked[name]


def test_who_is_called_by_a_name_listens_on_it() -> None:
    for name in ("gateway", "console", "model-server", "airflow", "mlflow"):
        assert services()[name]["hostname"] == name


def test_they_are_given_as_long_to_stop() -> None:
    for name, service in ours().items():
        assert service["stop_grace_period"] == f"{STOP_SECONDS}s", name


@pytest.mark.parametrize("name", [name for name in ours() if not name.startswith("airflow")])
def test_the_command_line_understands_each_command(name: str) -> None:
    service = services()[name]
    entry = re.search(r"^ENTRYPOINT (.+)$", images()[service["build"]["target"]].text, re.M)
    given = [*(["everlearn"] if entry else []), *service["command"]]
    assert given[0] == "everlearn"
    understood(given[1:])


def test_a_command_that_is_none_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        understood(["releases", "walk", "--config", IN_CONTAINER])
    with pytest.raises(click.UsageError):
        understood(["collect", "--confg", IN_CONTAINER])


def understood(arguments: list[str]) -> None:
    """Parse them as the program would, and run nothing."""
    command: click.Command = group
    above: click.Context | None = None
    if arguments == ["--help"]:
        return
    while isinstance(command, click.Group):
        above = command.make_context(command.name, list(arguments), parent=above)
        name, found, arguments = command.resolve_command(above, arguments)
        assert found is not None, name
        command = found
    command.make_context(command.name, list(arguments), parent=above)


def test_airflow_understands_its_commands(tmp_path: Path) -> None:
    lines = [
        part.removeprefix("exec ").removeprefix("airflow ").split()
        for name in ("airflow", "airflow-scheduler", "airflow-dags", "airflow-triggerer")
        for part in words(services()[name]["command"]).split(" && ")
    ]
    assert ["db", "migrate"] in lines
    text = (
        "from airflow.cli.cli_parser import get_parser\n"
        f"for line in {lines!r}: assert callable(get_parser().parse_args(line).func)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]


def test_the_broker_is_set_up_alike(tmp_path: Path) -> None:
    here = dict(line.split("=", 1) for line in broker.settings(tmp_path, 9092, 9093))
    there = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environment("kafka").items()
    }
    both = here.keys() & there.keys()
    assert {"process.roles", "node.id", "auto.create.topics.enable", "listeners"} <= both
    for name in both - {"log.dirs"}:
        assert hostless(here[name]) == hostless(there[name]), name
    assert f"kafka:{there['log.dirs']}" in services()["kafka"]["volumes"]
    assert there["advertised.listeners"] == f"PLAINTEXT://{load(CONFIG).bus.bootstrap_servers[0]}"


def hostless(value: str) -> str:
    """An address without whose it is."""
    return re.sub(r"(//|@)[^:,]*:", r"\1:", value)


def test_mlflow_keeps_its_runs_and_artifacts_alike(started: dict[str, Process]) -> None:
    here, there = list(started["mlflow"].command), services()["mlflow"]["command"].split()
    here = here[here.index("mlflow") :]
    assert here[:2] == there[:2] == ["mlflow", "server"]
    assert here[here.index("--port") + 1] == there[there.index("--port") + 1] == "5000"
    for option, file, kept in (
        ("--backend-store-uri", "sqlite:///", "postgresql+psycopg://everlearn@postgres/mlflow"),
        ("--artifacts-destination", "/", "s3://mlflow/"),
    ):
        assert here[here.index(option) + 1].startswith(file)
        assert there[there.index(option) + 1].startswith(kept)
    assert "mlflow" in (ROOT / "deploy" / "postgres" / "databases.sql").read_text()
    assert "/data/mlflow" in services()["s3"]["entrypoint"][-1]
    lines = (ROOT / "requirements" / "mlflow.txt").read_text().splitlines()
    distributions = {line.split("==")[0] for line in lines}
    assert {"psycopg", "psycopg-binary", "boto3"} <= distributions
