"""The Kafka form with a real broker: shipper, collector, delay, and an outage of 60 s."""

import argparse
import threading
import time
from typing import Any

from benchmarks.delay import RATE, p99_seconds
from benchmarks.figures import figure
from benchmarks.traffic import event, fill, temporary_service
from collector.collect import Collector, Stored
from collector.ledger import ledger
from collector.process import LAKE_THREADS, open_source, settle_memory
from collector.ship import Shipper
from collector.topic import ensure_topic
from everlearn.config import Service
from everlearn.lake.ducklake import open_lake
from everlearn.log.wal import WalWriter
from tests.kafka.broker import Broker, temporary_broker

EVENTS = 60_000


def bus(broker: Broker, topic: str) -> dict[str, Any]:
    return {"kind": "kafka", "bootstrap_servers": [broker.address], "topic": topic}


def rates(service: Service) -> None:
    """Shipper and collector, each alone, per second of its own processor time."""
    ensure_topic(service.bus, lambda: False)
    fill(service, EVENTS)
    shipper = Shipper(service.wal_path, service.bus)
    shipper.step(0.1)
    started, clock, shipped = time.process_time(), time.monotonic(), 0
    while count := shipper.step(0.1):
        shipped += count
    figure(
        *("shipper", shipped / (time.process_time() - started), "events/s/core"),
        goal=10_000,
        wall=round(shipped / (time.monotonic() - clock)),
    )
    shipper.close()
    lake = open_lake(service, threads=LAKE_THREADS)
    source = open_source(service, lake)
    collector = Collector(source, lake, service.collector)
    best, total = 0.0, 0
    while total < EVENTS:
        stored: list[Stored] = []
        started = time.process_time()
        if collector.step(5.0, stored.append):
            total += stored[0].records
            best = max(best, stored[0].rows / (time.process_time() - started))
    figure("collector_kafka", best, "events/s/core")
    # A member that reads no more would hold up the group.
    source.close()
    lake.close()


def outage(service: Service, broker: Broker, seconds: float) -> None:
    """A broker killed under load and back: what is lost, and how long until nothing waits."""
    ensure_topic(service.bus, lambda: False)
    lake = open_lake(service)
    stop = threading.Event()
    source = open_source(service, lake)
    collector = Collector(source, lake, service.collector)
    shipper = Shipper(service.wal_path, service.bus)
    wal = WalWriter(service.wal_path, 0, service.gateway.capture)

    def load() -> None:
        while not stop.wait(0.01):
            for _ in range(3):
                wal.append(event())

    def ship() -> None:
        while not stop.is_set():
            shipper.step(0.2)

    threads = [
        threading.Thread(target=load),
        threading.Thread(target=ship),
        threading.Thread(target=collector.run, args=(stop.is_set, lambda batch: None)),
    ]
    for thread in threads:
        thread.start()
    time.sleep(5)
    broker.kill()
    time.sleep(seconds)
    broker.start()
    back = time.monotonic()
    while max(item.lag_seconds for item in ledger(service, lake)) > 2:
        time.sleep(0.2)
    recovered = time.monotonic() - back
    stop.set()
    for thread in threads:
        thread.join(60)
    while shipper.step(0.1):
        pass
    while any(item.pending for item in ledger(service, lake)):
        collector.step(1.0, lambda batch: None)
    (account,) = ledger(service, lake)
    source.close()
    wal.close()
    figure(
        *("broker_outage_lost", account.missing, "events"),
        goal=0,
        duplicates=account.duplicates,
        stored=account.stored,
        outage_seconds=seconds,
        seconds_until_lag_under_2=round(recovered, 1),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outage-seconds", type=float, default=60.0)
    options = parser.parse_args()
    settle_memory()
    broker = temporary_broker()
    try:
        with temporary_service(bus=bus(broker, "rates")) as service:
            rates(service)
        with temporary_service(bus=bus(broker, "delay")) as service:
            figure(
                *("answer_to_queryable_p99_kafka", p99_seconds(service, ["ship", "collect"]), "s"),
                goal=2,
                requests_per_second=RATE,
            )
        with temporary_service(bus=bus(broker, "outage")) as service:
            outage(service, broker, options.outage_seconds)
    finally:
        broker.kill()


if __name__ == "__main__":
    main()
