"""What an answer of each arm costs: the price of the upstream that serves it."""

from everlearn.config import Price, Service
from everlearn.task import Task
from serving.release.states import Rate, Traffic


def rates(service: Service, task: Task, traffic: Traffic) -> dict[str, Rate]:
    """By arm, of those whose upstream has a price."""
    release = traffic.release
    routes = {"champion": traffic.champion}
    if release is not None:
        routes["challenger"] = release.candidate
    found = {}
    for arm, route in routes.items():
        price = service.upstreams[route.upstream or task.upstream].price
        if price is not None:
            found[arm] = rate(price)
    return found


def rate(price: Price) -> Rate:
    """The price as a linear function of tokens and time."""
    return Rate(price.of(1, 0, 0), price.of(0, 1, 0), price.of(0, 0, 1))
