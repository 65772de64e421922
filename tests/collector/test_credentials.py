"""Wrong credentials of the lake, its files and the state store: a clear error that names no secret,
and nothing lost. Kafka's are in test_kafka.py."""

import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from moto.core import set_initial_no_auth_action_count

from collector.collect import Collector
from collector.ship import Announcer
from collector.wal_source import WalSource
from everlearn.cli import group
from everlearn.config import Service
from everlearn.errors import ConfigError, LakeError, StateError
from everlearn.lake.ducklake import open_lake
from everlearn.redact import without_passwords
from everlearn.state import open_state
from tests.builders import make_service
from tests.collector.events import column, completions, fill_wal
from tests.postgres import Postgres, postgres
from tests.s3 import KEYS, S3

WRONG = "wrong-and-secret"
RIGHT = "right-and-secret"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Postgres]:
    """A server that asks for a password."""
    with postgres() as server:
        server.database()
        server.demand(RIGHT)
        yield server


def stores(server: Postgres, password: str) -> dict[str, Any]:
    """Lake and state of the config."""
    url = server.url("test1").replace("everlearn@", f"everlearn:{password}@")
    return {
        "lake": {"catalog": f"{server.catalog('test1')} password={password}"},
        "state": {"url": url},
    }


def shown(error: pytest.ExceptionInfo[Exception]) -> str:
    """Everything that a log would hold of it."""
    return "".join(traceback.format_exception(error.value))


def test_a_wrong_password_of_the_lake_is_a_clear_error(tmp_path: Path, guarded: Postgres) -> None:
    with pytest.raises(LakeError, match="password authentication failed") as error:
        open_lake(make_service(tmp_path, **stores(guarded, WRONG)))
    assert WRONG not in shown(error)


def test_a_wrong_password_of_the_state_is_a_clear_error(tmp_path: Path, guarded: Postgres) -> None:
    with pytest.raises(StateError, match="password authentication failed") as error:
        open_state(make_service(tmp_path, **stores(guarded, WRONG)))
    assert WRONG not in shown(error)


def test_the_right_password_opens_both(tmp_path: Path, guarded: Postgres) -> None:
    service = make_service(tmp_path, **stores(guarded, RIGHT))
    lake, state = open_lake(service), open_state(service)
    assert state.put("kind", "key", {}) == 1
    assert column(lake, "SELECT count(*) FROM completions") == [0]
    state.close()
    lake.close()


@pytest.mark.parametrize("url", ["mysql://everlearn:wrong-and-secret@h/d", "no address"])
def test_an_address_that_cannot_be_one_of_a_state_store(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"state\.url.*postgresql\+psycopg://") as error:
        open_state(make_service(tmp_path, state={"url": url}))
    assert WRONG not in shown(error)


def test_the_resolved_config_shows_no_password(tmp_path: Path, guarded: Postgres) -> None:
    bus = {"kind": "kafka", "client": {"sasl_plain_password": RIGHT, "security_protocol": "SSL"}}
    make_service(tmp_path, **stores(guarded, RIGHT), bus=bus)
    done = CliRunner().invoke(group, ["config", "check", str(tmp_path / "everlearn.yaml")])
    assert done.exit_code == 0, done.output
    assert RIGHT not in done.output
    assert done.output.count("***") == 3


@pytest.fixture
def on_s3(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Service:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    lake = {"data_path": s3.bucket("guarded"), "s3_endpoint": s3.endpoint, "s3_use_ssl": False}
    return make_service(tmp_path, lake=lake)


def test_what_s3_refuses_is_stored_once_it_no_longer_does(on_s3: Service) -> None:
    lake = open_lake(on_s3)
    fill_wal(on_s3, completions(3000))
    collector = Collector(WalSource(on_s3.wal_path), lake, on_s3.collector)
    with pytest.raises(LakeError, match="403") as error:
        set_initial_no_auth_action_count(0)(collector.step)(0.0, lambda batch: None)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in shown(error)
    while collector.step(0.0, lambda batch: None):
        pass
    assert column(lake, "SELECT count(DISTINCT completion_id) FROM completions") == [3000]
    assert column(lake, "SELECT count(*) FROM completions") == [3000]
    lake.close()


def test_counts_are_told_once_the_state_store_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.ship.AWAY_SECONDS", 0.1)
    with postgres() as server:
        service = make_service(tmp_path, state={"url": server.url(server.database())})
        state = open_state(service)
        gateway = fill_wal(service, completions(4))
        server.stop()
        announcer = Announcer(service)
        eventually(lambda: "not told" in caplog.text)
        server.start()
        eventually(lambda: state.get("gateway", gateway) is not None)
        fill_wal(service, completions(3))
        announcer.close()
        found = state.get("gateway", gateway)
        assert found is not None
        assert found[0]["acknowledged"] == 7
        state.close()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@given(st.text("ABC123!$%&*+-_.", min_size=4))
def test_a_password_is_hidden_however_it_is_written(password: str) -> None:
    for text in (
        f"host=h password={password} dbname=d",
        f"host=h password='{password}' dbname=d",
        f"ATTACH 'ducklake:postgres:host=h password=''{password}'' dbname=d'",
        f"postgresql+psycopg://user:{password}@host/d",
        f"sasl_plain_password: {password}\nnext: d",
        f'{{"password": "{password}", "d": 1}}',
    ):
        hidden = without_passwords(text)
        assert "***" in hidden
        assert password not in hidden
        assert "d" in hidden.rpartition("***")[2]
