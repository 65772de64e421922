"""A real Apache Kafka broker (KRaft, one node) without Docker: its jars come from Maven once."""

import fcntl
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBS = ROOT / ".cache" / "kafka" / "libs"
START_SECONDS = 60.0


def install() -> Path:
    """The folder of the broker's jars, fetched by Maven if it is empty."""
    for program, package in (("java", "default-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None:
            raise RuntimeError(f"{program} is missing: apt-get install {package} (Kafka's tests)")
    LIBS.mkdir(parents=True, exist_ok=True)
    with (LIBS.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(LIBS.glob("kafka_2.13-*.jar")):
            command = [
                *("mvn", "-q", "-f", str(Path(__file__).with_name("pom.xml"))),
                *("dependency:copy-dependencies", f"-DoutputDirectory={LIBS}"),
                "-DincludeScope=runtime",
            ]
            subprocess.run(command, check=True, timeout=600)
    return LIBS


class Broker:
    """One broker on a port of its own; it can be killed and started again on the same data."""

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        install()
        self._folder = folder
        self._port, controller = free_ports(2)
        self.address = f"127.0.0.1:{self._port}"
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        base = [
            "process.roles=broker,controller",
            "node.id=1",
            f"listeners=PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{controller}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self._port}",
            f"controller.quorum.voters=1@127.0.0.1:{controller}",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={folder / 'data'}",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            "auto.create.topics.enable=false",
            "log.cleaner.enable=false",
        ]
        lines = [line.replace("{port}", str(self._port)) for line in settings]
        self._properties.write_text("\n".join([*base, *lines]) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self._java("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c")

    def start(self) -> None:
        """Start, and return once it answers."""
        with (self._folder / "broker.log").open("ab") as log:
            command = self._command("kafka.Kafka", str(self._properties))
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not answers(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self._folder / "broker.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"Kafka did not start:\n{tail}")
            time.sleep(0.1)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def _java(self, name: str, *arguments: str) -> None:
        command = [*self._command(name, *arguments), str(self._properties)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def _command(self, name: str, *arguments: str) -> list[str]:
        options = ["-Xmx384m", "-Xms64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        return ["java", *options, "-cp", f"{LIBS}/*", name, *arguments]


def answers(port: int) -> bool:
    """Whether somebody listens on a port here."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def temporary_broker() -> Broker:
    """A started broker on a folder under /tmp; the caller kills it and removes the folder."""
    broker = Broker(Path(tempfile.mkdtemp(prefix="everlearn-kafka-")))
    broker.start()
    return broker
