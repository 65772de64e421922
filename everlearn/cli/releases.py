"""`everlearn releases run`: the release controller, a long process."""

import click

from everlearn.cli import config_option


@click.group("releases")
def command() -> None:
    """Run the release controller."""


@command.command()
@config_option
def run(config_path: str | None) -> None:
    """Move the traffic of every task by evidence until SIGTERM."""
    import fcntl
    import signal
    import threading

    from everlearn.config import load
    from everlearn.errors import InputError
    from everlearn.metrics import answer_prometheus
    from everlearn.process_log import set_up
    from serving.release.leading import run as run_all

    service = load(config_path)
    set_up(service.logging, "releases")
    service.data_path.mkdir(parents=True, exist_ok=True)
    with (service.data_path / "releases.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{lock.name}: another release controller runs already") from error
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        answer_prometheus(service, "releases.metrics_port", service.releases.metrics_port)
        run_all(service, stop)
