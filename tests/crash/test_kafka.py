"""The same over a real Kafka: kill -9 of gateway, shipper, collectors and broker; an outage."""

import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlearn.config import Service
from everlearn.lake.ducklake import open_lake
from tests.builders import make_service
from tests.crash.stage import (
    KILLS,
    SEED,
    Nursery,
    Users,
    await_gateway,
    check_account,
    upstream,
    wait_until_stored,
)
from tests.kafka.broker import Broker
from tests.ports import free_ports

KAFKA_KILLS = max(10, KILLS // 5)
BROKER_KILLS = max(1, KAFKA_KILLS // 20)


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may kill."""
    broker = Broker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def service(tmp_path: Path, own_broker: Broker) -> Iterator[Service]:
    (port,) = free_ports(1)
    bus = {
        "kind": "kafka",
        "bootstrap_servers": [own_broker.address],
        "topic": f"events-{uuid.uuid4().hex[:8]}",
        "partitions": 4,
    }
    with upstream() as server:
        yield make_service(
            tmp_path,
            upstreams={"local": {"base_url": server.url}},
            gateway={"port": port, "capture": {"segment_bytes": 65536}},
            collector={"max_batch_seconds": 0.1},
            bus=bus,
        )


@pytest.mark.alone
@pytest.mark.timeout(max(300, 10 * KAFKA_KILLS))
def test_nothing_is_lost_or_doubled_over_kills_of_everything(
    service: Service, own_broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(SEED)
    lake = open_lake(service)
    nursery = Nursery(service)
    verbs = {"gateway": "gateway", "ship": "ship", "one": "collect", "two": "collect"}
    victims = ["broker"] * BROKER_KILLS
    victims += [dice.choice(list(verbs)) for _ in range(KAFKA_KILLS - BROKER_KILLS)]
    dice.shuffle(victims)
    started = time.monotonic()
    try:
        for name, verb in verbs.items():
            nursery.start(verb, name)
        with Users(service.gateway.port, threads=2, seed=SEED, pause_seconds=0.01) as users:
            for victim in victims:
                await_gateway(service, nursery)
                time.sleep(dice.random() * 0.4)
                if victim == "broker":
                    own_broker.kill()
                    own_broker.start()
                else:
                    nursery.kill(victim)
                    nursery.start(verbs[victim], victim)
            await_gateway(service, nursery)
            time.sleep(0.3)
        check_account(wait_until_stored(service, lake, 120), lake, users)
        assert users.received
    finally:
        nursery.close()
        with capsys.disabled():
            seconds = time.monotonic() - started
            print(f"\n{len(victims)} kills, {BROKER_KILLS} of the broker, in {seconds:.0f} s ")
            print(f"(EVERLEARN_SEED={SEED}): {len(users.received)} answers received whole")
        lake.close()


def test_users_do_not_notice_a_broker_that_is_away(service: Service, own_broker: Broker) -> None:
    lake = open_lake(service)
    nursery = Nursery(service)
    try:
        for verb in ("gateway", "ship", "collect"):
            nursery.start(verb)
        await_gateway(service, nursery)
        with Users(service.gateway.port, threads=1, seed=SEED, pause_seconds=0.01) as users:
            time.sleep(1)
            own_broker.kill()
            before = len(users.received)
            time.sleep(4)
            assert len(users.received) > before
            own_broker.start()
            time.sleep(1)
        assert users.refused == 0
        check_account(wait_until_stored(service, lake, 60), lake, users)
        for verb in ("ship", "collect"):
            nursery.stop(verb)
    finally:
        nursery.close()
        lake.close()
