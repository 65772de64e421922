"""kill -9 of gateway and collector at random under load: nothing is lost, nothing doubled."""

import random
import time
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
from tests.ports import free_ports


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (port,) = free_ports(1)
    with upstream() as server:
        yield make_service(
            tmp_path,
            upstreams={"local": {"base_url": server.url}},
            gateway={"port": port, "capture": {"segment_bytes": 65536}},
            collector={"max_batch_seconds": 0.05},
        )


@pytest.mark.alone
@pytest.mark.timeout(max(300, 2 * KILLS))
def test_nothing_is_lost_or_doubled_over_kills_of_gateway_and_collector(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(SEED)
    lake = open_lake(service)
    nursery = Nursery(service)
    started = time.monotonic()
    try:
        nursery.start("gateway")
        nursery.start("collect")
        with Users(service.gateway.port, threads=3, seed=SEED) as users:
            for _ in range(KILLS):
                victim = dice.choice(["gateway", "collect"])
                await_gateway(service, nursery)
                time.sleep(dice.random() * 0.15)
                nursery.kill(victim)
                nursery.start(victim)
            await_gateway(service, nursery)
            time.sleep(0.3)
        accounts = wait_until_stored(service, lake, 60)
        check_account(accounts, lake, users)
        assert users.received
        nursery.stop("gateway")
        nursery.stop("collect")
    finally:
        nursery.close()
        with capsys.disabled():
            seconds = time.monotonic() - started
            print(f"\n{KILLS} kills in {seconds:.0f} s (EVERLEARN_SEED={SEED}): ", end="")
            print(f"{len(users.received)} answers, {len(users.rated)} ratings received whole")
        lake.close()
    assert len(accounts) == 1, "the gateway kept its identity"
