"""`everlearn up`: every process of the config on this machine, until Ctrl-C."""

import click

from everlearn.cli import config_option


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
    from everlearn.supervise import Process, Supervisor, processes
    from everlearn.task import load_tasks

    service = load(config_path)
    tasks = load_tasks(service)
    rows = processes(service, config_file(config_path).resolve(), stack)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    def ready(process: Process) -> None:
        click.echo(f"  {process.name:<14}{process.address or 'running'}")

    with Supervisor(rows, service.data_path) as supervisor:
        click.echo(f"everlearn: starting {len(rows)} processes (logs: {supervisor.logs})")
        supervisor.start(ready, stopped.is_set)
        click.echo(f"everlearn: up; tasks: {', '.join(tasks) or 'none'}; Ctrl-C stops all")
        starts = {name: info["start"] for name, info in supervisor.states().items()}
        while not stopped.wait(2.0):
            for name, info in supervisor.states().items():
                if info["start"] != starts[name]:
                    starts[name] = info["start"]
                    click.echo(f"everlearn: {name} had stopped and was started again")
        click.echo("everlearn: stopping")
