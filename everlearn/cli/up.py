"""`everlearn up`: every process of the config on this machine, until Ctrl-C."""

from typing import TYPE_CHECKING

import click

from everlearn.cli import config_option

if TYPE_CHECKING:
    import threading

    from everlearn.supervise import Supervisor


@click.command("up")
@click.option(
    "--stack",
    type=click.Choice(["local", "full"]),
    default="local",
    show_default=True,
    help="full: Kafka, Airflow and the console too.",
)
@config_option
def command(stack: str, config_path: str | None) -> None:
    """Start and supervise every process; Ctrl-C stops all, losing nothing."""
    import signal
    import threading

    from everlearn.config import config_file, load
    from everlearn.process import Process
    from everlearn.stack import processes
    from everlearn.supervise import Supervisor, alone
    from everlearn.task import running_tasks

    service = load(config_path)
    tasks = running_tasks(service)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    def ready(process: Process) -> None:
        line = f"  {process.name:<18}{process.address or 'running'}"
        click.echo(f"{line}   {process.login()}" if process.login else line)
        with notes.open("a") as file:
            file.write(f"{line}\n")

    def waiting(process: Process, seconds: float) -> None:
        click.echo(f"  {process.name:<18}... not yet, after {seconds:.0f} s")

    with alone(service.data_path) as notes:
        rows = processes(service, config_file(config_path).resolve(), stack)
        with Supervisor(rows, service.data_path) as supervisor:
            click.echo(f"everlearn: starting {len(rows)} processes (logs: {supervisor.logs})")
            supervisor.start(ready, stopped.is_set, waiting)
            click.echo(f"everlearn: up; tasks: {', '.join(tasks) or 'none'}; Ctrl-C stops all")
            _watch(supervisor, stopped)
            click.echo("everlearn: stopping")


def _watch(supervisor: "Supervisor", stopped: "threading.Event") -> None:
    """Say what died and was started again, until `stopped`."""
    starts = {name: info["start"] for name, info in supervisor.states().items()}
    while not stopped.wait(2.0):
        for name, info in supervisor.states().items():
            if info["start"] != starts[name]:
                starts[name] = info["start"]
                click.echo(f"everlearn: {name} had stopped and was started again")
