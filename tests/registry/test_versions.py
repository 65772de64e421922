"""Versions, aliases and states against real MLflow servers: on files, and on Postgres and S3 as
docker-compose.yml runs it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everlearn.errors import InputError, NotFound, RegistryError
from registry.states import VersionState
from registry.versions import Registry
from tests.builders import make_service
from tests.deploy.compose import environment, services
from tests.mlflow_server import mlflow_server
from tests.ports import free_ports
from tests.postgres import Postgres
from tests.registry.conftest import Shelf, make_shelf
from tests.s3 import KEYS, S3


@pytest.fixture(scope="module")
def distributed_address(
    postgres_server: Postgres, s3: S3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """MLflow told as docker-compose.yml tells it, but for hosts, database and keys."""
    words = services()["mlflow"]["command"].split()
    database, artifacts = (
        words[words.index(option) + 1]
        for option in ("--backend-store-uri", "--artifacts-destination")
    )
    driver, bucket = database.split("://")[0], artifacts.split("/")[2]
    s3.bucket(bucket)
    own = postgres_server.url(postgres_server.database()).split("://")[1]
    assert "MLFLOW_S3_ENDPOINT_URL" in environment("mlflow")
    (port,) = free_ports(1)
    with mlflow_server(
        tmp_path_factory.mktemp("mlflow"),
        port,
        database=f"{driver}://{own}",
        artifacts=artifacts,
        environment={**KEYS, "MLFLOW_S3_ENDPOINT_URL": s3.endpoint},
    ) as address:
        yield address


@pytest.fixture(params=["mlflow_address", "distributed_address"])
def shelf(tmp_path: Path, request: pytest.FixtureRequest) -> Shelf:
    return make_shelf(tmp_path, request.getfixturevalue(request.param))


def test_a_registered_version_is_found_with_its_adapter_in_place(shelf: Shelf) -> None:
    made = shelf.put("aaaa")
    found = shelf.registry.get(shelf.task, "1")
    assert found == made
    assert found.state is VersionState.REGISTERED
    assert found.path == shelf.service.data_path / "adapters" / f"{shelf.task}-aaaa"
    assert (
        found.path / "adapter_config.json"
    ).read_text() == '{"digest": "aaaa", "peft_type": "LORA"}'


def test_the_same_digest_is_registered_once(shelf: Shelf) -> None:
    assert shelf.put("aaaa").version == shelf.put("aaaa").version == "1"
    assert shelf.put("bbbb").version == "2"
    assert [version.digest for version in shelf.registry.versions(shelf.task)] == ["aaaa", "bbbb"]


def test_a_missing_adapter_folder_is_fetched_from_the_run(shelf: Shelf) -> None:
    path = shelf.put("aaaa").path
    assert path is not None
    shutil.rmtree(path)
    assert shelf.registry.get(shelf.task, "1").path == path
    assert (path / "adapter_config.json").exists()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_base_model_is_champion_until_somebody_else_is(shelf: Shelf) -> None:
    assert shelf.registry.alias(shelf.task, "champion") is None
    assert shelf.registry.champion(shelf.task).model_name == "base-model"
    made = shelf.put("aaaa")
    shelf.registry.set_alias(shelf.task, "champion", made.version)
    shelf.registry.set_alias(shelf.task, "last_good", "base")
    assert shelf.registry.champion(shelf.task) == made
    assert shelf.registry.aliases(shelf.task) == {"champion": "1", "last_good": "base"}
    shelf.registry.set_alias(shelf.task, "champion", "base")
    assert shelf.registry.aliases(shelf.task) == {"champion": "base", "last_good": "base"}
    shelf.registry.set_alias(shelf.task, "last_good", None)
    assert shelf.registry.aliases(shelf.task) == {"champion": "base"}


def test_an_unknown_alias_or_version_is_refused_with_what_there_is(shelf: Shelf) -> None:
    shelf.put("aaaa")
    with pytest.raises(InputError, match="'winner' is not one of champion, challenger"):
        shelf.registry.set_alias(shelf.task, "winner", "1")
    with pytest.raises(NotFound, match="no version 7; there are: 1"):
        shelf.registry.get(shelf.task, "7")
    with pytest.raises(NotFound, match="versions are numbers, or 'base'"):
        shelf.registry.get(shelf.task, "latest")


def test_state_and_reason_are_kept_and_only_allowed_moves_are_made(shelf: Shelf) -> None:
    shelf.put("aaaa")
    moved = shelf.registry.transition(shelf.task, "1", VersionState.GATED, "gain 0.2 > 0")
    assert (moved.state, moved.reason) == (VersionState.GATED, "gain 0.2 > 0")
    with pytest.raises(InputError, match="from gated to champion"):
        shelf.registry.transition(shelf.task, "1", VersionState.CHAMPION, "by wish")
    assert shelf.registry.get(shelf.task, "1").state is VersionState.GATED


def test_a_server_that_is_away_is_one_error_and_not_a_long_wait(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    registry = Registry(make_service(tmp_path, mlflow={"tracking_uri": address}))
    with pytest.raises(RegistryError, match=f"MLflow: no answer from {address} ") as away:
        registry.versions("text2sql")
    assert "mlflow.tracking_uri" in str(away.value)
    assert "\n" not in str(away.value)
