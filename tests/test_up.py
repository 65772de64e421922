"""`up --stack full`: the same processes, with a real Kafka broker between gateway and lake."""

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from everlearn.lake.ducklake import open_lake
from everlearn.supervise import Supervisor, processes
from tests.builders import make_service

ONLY = ("kafka", "collector", "shipper", "gateway")


@pytest.mark.slow
def test_events_reach_the_lake_over_kafka(tmp_path: Path, free_port: Callable[[], int]) -> None:
    service = make_service(
        tmp_path,
        data_dir="data",
        gateway={"port": free_port()},
        bus={"bootstrap_servers": [f"127.0.0.1:{free_port()}"], "partitions": 2},
    )
    rows = [
        row for row in processes(service, tmp_path / "everlearn.yaml", "full") if row.name in ONLY
    ]
    assert {row.name for row in rows} == set(ONLY)
    with Supervisor(rows, service.data_path) as supervisor:
        supervisor.start(lambda process: None)
        body = json.dumps({"completion_id": "cmpl_early", "value": "up"}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{service.gateway.port}/v1/feedback",
            body,
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 202
        lake = open_lake(service, read_only=True)
        deadline = time.monotonic() + 30
        while lake.read("SELECT count(*) FROM feedback").column(0)[0].as_py() != 1:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        sources = lake.read("SELECT source FROM offsets").column(0).to_pylist()
        lake.close()
    assert any(source.startswith(service.bus.topic) for source in sources)
    assert not any(source.startswith("wal/") for source in sources)
