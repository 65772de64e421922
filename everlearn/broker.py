"""A one-node Apache Kafka broker for this machine: what `everlearn up --stack full` runs.

The same broker as in production, without a container: Maven fetches its jars once (44 MB), KRaft
needs no second process. For more than one machine name a cluster of your own in the config.
"""

import fcntl
import shutil
import subprocess
from pathlib import Path

from everlearn.config import Service
from everlearn.errors import ConfigError, EverlearnError

POM = Path(__file__).parents[1] / "deploy" / "kafka" / "pom.xml"
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
HEAP = ("-Xmx384m", "-Xms64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def install(libs: Path) -> Path:
    """The folder of the broker's jars, fetched by Maven if it is empty, by one caller at a time."""
    for program, package in (("java", "default-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None:
            raise EverlearnError(
                f"{program} is missing and Kafka needs it: apt-get install {package}"
            )
    libs.mkdir(parents=True, exist_ok=True)
    with (libs.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(libs.glob("kafka_2.13-*.jar")):
            command = [
                *("mvn", "-q", "-f", str(POM), "dependency:copy-dependencies"),
                *(f"-DoutputDirectory={libs}", "-DincludeScope=runtime"),
            ]
            subprocess.run(command, check=True, timeout=600)
    return libs


def settings(folder: Path, port: int, controller_port: int) -> list[str]:
    """Lines of server.properties for one node that is broker and controller."""
    return [
        "process.roles=broker,controller",
        "node.id=1",
        f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}",
        f"controller.quorum.voters=1@127.0.0.1:{controller_port}",
        "controller.listener.names=CONTROLLER",
        f"log.dirs={folder / 'data'}",
        "offsets.topic.replication.factor=1",
        "offsets.topic.num.partitions=1",
        "transaction.state.log.replication.factor=1",
        "transaction.state.log.min.isr=1",
        "group.initial.rebalance.delay.ms=0",
        "auto.create.topics.enable=false",
    ]


def java(libs: Path, main_class: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs one of Kafka's programs."""
    return ("java", *HEAP, "-cp", f"{libs}/*", main_class, *arguments)


def prepare(service: Service) -> tuple[str, ...]:
    """Fetch, configure and format the broker of the config; the command that runs it."""
    host, _, port = service.bus.bootstrap_servers[0].rpartition(":")
    if host not in ("127.0.0.1", "localhost"):
        raise ConfigError(
            f"bus.bootstrap_servers = {service.bus.bootstrap_servers[0]!r}: `up --stack full` "
            "runs a broker on 127.0.0.1; for another one use `up` with bus.kind kafka"
        )
    folder = service.data_path / "kafka"
    libs = install(Path.home() / ".cache" / "everlearn" / "kafka" / "libs")
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text("\n".join(settings(folder, int(port), int(port) + 1)) + "\n")
    formatting = java(
        libs, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c"
    )
    subprocess.run([*formatting, str(properties)], check=True, capture_output=True, timeout=60)
    return java(libs, "kafka.Kafka", str(properties))
