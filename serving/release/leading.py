"""The controller as a process: every task of the config in threads of its own, while it leads.

Of several on one state store one leads by a lease, the others follow its routes. What may pass is
said and tried again; an error that nobody foresaw stops all.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial

from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.state import open_state
from everlearn.task import running_tasks, tasks_stamp
from serving.release.controller import TaskLoop
from serving.release.lease import Lease, holder
from serving.release.metrics import FAILED, LEADS, ROUND

log = logging.getLogger(__name__)

RESCAN_SECONDS = 5.0
GLANCE_SECONDS = 0.5
"""Between two looks at failures alone; a look at none costs a few milliseconds."""


def run(service: Service, stop: threading.Event) -> None:
    """Every task of the config, each in its own thread, until `stop`; new files are taken in.

    Of several controllers on one state store one leads, the others follow its routes. An error that
    nobody foresaw stops all and is raised: a supervisor starts the process again.
    """
    threads: dict[str, threading.Thread] = {}
    crashes: list[Exception] = []
    seen: tuple[object, ...] | None = None
    state = open_state(service)
    lease = Lease(state, holder(service))
    while not stop.is_set():
        if not lease.try_renew():
            log.info("%s leads", lease.leader)
        LEADS.set(lease.held)
        stamp = tasks_stamp(service)
        if stamp != seen:
            seen = stamp
            for name, task in running_tasks(service).items():
                if name not in threads:
                    arguments = (partial(TaskLoop, service, task), lease, stop, crashes)
                    threads[name] = threading.Thread(target=_forever, args=arguments, name=name)
                    threads[name].start()
        stop.wait(RESCAN_SECONDS)
    for thread in threads.values():
        thread.join()
    lease.give_up()
    state.close()
    if crashes:
        raise crashes[0]


def _forever(
    make: Callable[[], TaskLoop],
    lease: Lease,
    stop: threading.Event,
    crashes: list[Exception],
) -> None:
    """Tick until `stop`; what may pass is said and tried again."""
    try:
        loop = make()
        arguments = (loop, lease, stop, crashes)
        glances = threading.Thread(target=_glances, args=arguments, name=f"{loop.name} failures")
        glances.start()
        while not stop.is_set():
            try:
                loop.reload()
                loop.tick() if lease.held else loop.follow()
                ROUND.labels(loop.name).set_to_current_time()
            except (EverlearnError, OSError) as error:
                FAILED.labels(loop.name).inc()
                log.error("%s: %s", loop.name, error)
            stop.wait(loop.tick_seconds)
        glances.join()
        loop.close()
    except Exception as error:
        crashes.append(error)
        stop.set()


def _glances(loop: TaskLoop, lease: Lease, stop: threading.Event, crashes: list[Exception]) -> None:
    """Look at failures until `stop`, whatever a round waits for: a judge, the registry."""
    try:
        while not stop.wait(GLANCE_SECONDS):
            try:
                if lease.held:
                    loop.glance()
            except (EverlearnError, OSError) as error:
                log.error("%s: %s", loop.name, error)
    except Exception as error:
        crashes.append(error)
        stop.set()
