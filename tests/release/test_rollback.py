"""Back to any former champion, so long as it is there and verifies."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from everlearn.config import Service
from everlearn.errors import InputError, RegistryError, ServingAway, ServingError
from everlearn.state import open_state
from gateway.routes import ArmRoute, read_routes
from serving.fleet import Fleet
from serving.release.book import Book
from serving.release.states import Phase, Traffic, begin, chain, change, revert
from serving.release.verbs import Desk
from tests.release.test_adapters import BASE, NAMES, TASK, arm, stock
from tests.release.world import make_release, make_rules
from tests.serving.conftest import Server, adapters, base, start

__all__ = ["adapters", "base", "start"]
Start = Callable[..., Server]
NOW = 1_800_000_000.0


def after_promotions(*versions: ArmRoute) -> Traffic:
    """A task whose champions these were, one after the other."""
    traffic = Traffic(champion=BASE)
    for place, version in enumerate(versions):
        rules, name = make_rules(watch_seconds=0), f"rel-{place}"
        release = make_release(rules, candidate=version, release_id=name, phase=Phase.LOADING)
        traffic = change(begin(traffic, release), Phase.RAMPING, "loaded", NOW)
        traffic = change(traffic, Phase.PROMOTED, "won", NOW)
    return msgspec.structs.replace(traffic, notes=(), events=())


def versions(traffic: Traffic) -> list[str]:
    return [each.version for each in (traffic.champion, *chain(traffic))]


def test_each_promotion_lengthens_the_chain_and_each_rollback_shortens_it() -> None:
    traffic = after_promotions(arm(0), arm(1), arm(2))
    assert versions(traffic) == ["2", "1", "0", "base"]
    once = revert(traffic, "odd", NOW)
    assert versions(once) == ["1", "0", "base"]
    assert once.last_good == arm(0)
    notes = {(note.kind, note.name): note.version for note in once.notes}
    assert notes[("alias", "last_good")] == "0"
    twice = revert(once, "odd", NOW)
    assert versions(revert(twice, "odd", NOW)) == ["base"]
    assert versions(revert(traffic, "far", NOW, to="0")) == ["0", "base"]


def test_a_version_that_is_crowned_again_stands_in_the_chain_once() -> None:
    assert versions(after_promotions(arm(0), arm(1), arm(0))) == ["0", "1", "base"]
    many = [ArmRoute(version=str(n), model=f"m-{n}") for n in range(30)]
    kept = after_promotions(*many)
    assert len(chain(kept)) == 21
    assert chain(kept)[0].version == "28"


def test_what_never_was_champion_is_refused_with_what_was() -> None:
    traffic = after_promotions(arm(0), arm(1))
    with pytest.raises(InputError, match="version 9 is none of the former champions: 0, base"):
        revert(traffic, "odd", NOW, to="9")
    with pytest.raises(InputError, match="version 1 is none of"):
        revert(traffic, "odd", NOW, to="1")


def write(service: Service, traffic: Traffic) -> Desk:
    Book(open_state(service)).write("sql", traffic)
    return Desk(service, TASK)


def route_of(service: Service) -> str:
    return read_routes(service.routes_path).tasks["sql"].champion.version


def test_a_far_champion_is_loaded_and_verified_before_it_answers(
    tmp_path: Path, start: Start, base: Path, adapters: dict[str, Path]
) -> None:
    server = start()
    service = stock(tmp_path, base, adapters["first"], [server.address])
    desk = write(service, after_promotions(arm(0), arm(1), arm(2)))
    desk.rollback("odd since Monday", to="0")
    assert route_of(service) == "0"
    with Fleet(service.upstreams["local"]) as fleet:
        assert NAMES[0] in fleet.loaded()[server.address]
    # It answers already; what is before it still is.
    desk.rollback("odd still")
    assert route_of(service) == "base"


def test_a_champion_whose_adapter_is_gone_is_refused_and_nothing_moves(
    tmp_path: Path, start: Start, base: Path, adapters: dict[str, Path]
) -> None:
    service = stock(tmp_path, base, adapters["first"], [start().address])
    service = service.model_copy(
        update={
            "mlflow": service.mlflow.model_copy(
                update={"tracking_uri": "http://127.0.0.1:9", "timeout_seconds": 1}
            )
        }
    )
    desk = write(service, after_promotions(arm(0), arm(1)))
    shutil.rmtree(service.data_path / "adapters" / NAMES[0])
    for to in ("0", None):
        with pytest.raises(RegistryError, match="version 0: its adapter is not on this machine"):
            desk.rollback("odd", to=to)
    kept = desk.book.traffic("sql")
    assert kept is not None
    assert kept.champion == arm(1)
    # Further back is still possible.
    desk.rollback("odd", to="base")
    assert route_of(service) == "base"


def test_a_champion_that_does_not_verify_any_more_is_refused(
    tmp_path: Path, start: Start, base: Path, adapters: dict[str, Path]
) -> None:
    service = stock(tmp_path, base, adapters["first"], [start().address])
    for file in adapters["second"].iterdir():
        shutil.copy(file, service.data_path / "adapters" / NAMES[0] / file.name)
    desk = write(service, after_promotions(arm(0), arm(1)))
    with pytest.raises(ServingError, match=r"version 0 cannot be gone back to: .* does not verify"):
        desk.rollback("odd")


def test_a_replica_that_is_away_holds_up_only_a_version_that_was_named(
    tmp_path: Path, start: Start, base: Path, adapters: dict[str, Path]
) -> None:
    addresses = [start().address, "http://127.0.0.1:9/v1"]
    service = stock(tmp_path, base, adapters["first"], addresses)
    desk = write(service, after_promotions(arm(0), arm(1)))
    with pytest.raises(ServingAway, match=r"127\.0\.0\.1:9"):
        desk.rollback("odd", to="0")
    desk.rollback("odd")
    assert route_of(service) == "0"


def test_a_running_release_is_ended_by_name_and_left_behind(
    tmp_path: Path, start: Start, base: Path, adapters: dict[str, Path]
) -> None:
    service = stock(tmp_path, base, adapters["first"], [start().address])
    traffic = after_promotions(arm(0), arm(1))
    candidate = make_release(candidate=arm(2), phase=Phase.LOADING)
    running = change(begin(traffic, candidate), Phase.RAMPING, "loaded", NOW)
    desk = write(service, running)
    moved = desk.rollback("all of it is odd", to="0")
    assert moved.release is not None
    assert (moved.release.phase, moved.champion) == (Phase.ROLLED_BACK, arm(0))
    assert [event.version for event in moved.events[-2:]] == ["2", "1"]
