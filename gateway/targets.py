"""Who may answer a request, in order: the assigned arm, the champion after a challenger, then the
fallbacks of the upstream."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from everlearn.events import Arm
from gateway.http.wire import Refusal
from gateway.parts import Parts
from gateway.routes import ArmRoute, TaskRoute
from gateway.upstream import Upstream

CHALLENGER_FAILS = frozenset({404, 408, 429})
"""Beside 5xx: answers of a challenger that make the champion answer instead. 404: its adapter is
not loaded on the replica asked."""


@dataclass(frozen=True)
class Target:
    """One place that may answer."""

    upstream: Upstream
    model: str | None = None
    """Name to ask for; None: as the client wrote it."""
    arm: Arm | None = None
    route: ArmRoute | None = None
    lines: bytes = b""
    """Header lines that tell the client who answered."""

    @property
    def name(self) -> str:
        """What `fallback_from` says when it failed."""
        return self.arm or self.upstream.name

    def fails_with(self, status: int) -> bool:
        """Whether an answer of that status is better replaced by the next target's."""
        return status >= 500 or (self.arm == "challenger" and status in CHALLENGER_FAILS)


class Targets:
    """Chains of targets, worked out once per route table."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._routes: dict[str, TaskRoute] = {}
        self._chains: dict[tuple[str, Arm], list[Target]] = {}

    def of(self, model: str, route: TaskRoute | None, arm: Arm | None) -> list[Target]:
        """Who is asked for `model`; Refusal(404) if it is no task and there is no default."""
        if route is None or arm is None:
            return self._passed_through(model)
        routes = self._parts.table.routes
        if routes is not self._routes:
            self._routes, self._chains = routes, {}
        chain = self._chains.get((model, arm))
        if chain is None:
            chain = self._chains[model, arm] = self._chain(model, route, arm)
        return chain

    def _chain(self, task: str, route: TaskRoute, arm: Arm) -> list[Target]:
        upstream = self._parts.upstreams[self._parts.tasks[task].upstream]
        chain = [_target(upstream, "champion", route.champion)]
        if arm == "challenger" and route.challenger is not None:
            chain.insert(0, _target(upstream, "challenger", route.challenger))
        elif arm == "holdback" and route.holdback is not None:
            chain = [_target(upstream, "holdback", route.holdback)]
        last = chain[-1]
        return chain + [_stand_in(last, other) for other in self._fallbacks(upstream)]

    def _passed_through(self, model: str) -> list[Target]:
        upstream = self._parts.default_upstream
        if upstream is None:
            raise Refusal(
                404, f"The model `{model}` does not exist.", "model_not_found", param="model"
            )
        first = Target(upstream)
        return [first, *(_stand_in(first, other) for other in self._fallbacks(upstream))]

    def _fallbacks(self, upstream: Upstream) -> Iterator[Upstream]:
        seen = {upstream.name}
        name = upstream.settings.fallback
        while name is not None and name not in seen:
            seen.add(name)
            yield self._parts.upstreams[name]
            name = self._parts.upstreams[name].settings.fallback


def _target(upstream: Upstream, arm: Arm, route: ArmRoute) -> Target:
    lines = f"x-everlearn-arm: {arm}\r\nx-everlearn-version: {route.version}\r\n".encode()
    return Target(upstream, route.model, arm, route, lines)


def _stand_in(target: Target, upstream: Upstream) -> Target:
    """The target when another upstream must do; asked for another model it is no arm."""
    if upstream.settings.fallback_model is not None:
        return Target(upstream, upstream.settings.fallback_model)
    return replace(target, upstream=upstream)
