"""Who may answer a request, in order: the assigned arm, the champion, the base model where a
version is not loaded, then the fallbacks of the last arm's upstream."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from everlearn.events import Arm
from gateway.assignment import Assignment
from gateway.http.wire import Refusal
from gateway.parts import Parts
from gateway.routes import ArmRoute, TaskRoute
from gateway.upstream import Upstream

CHALLENGER_FAILS = frozenset({404, 408, 429})
"""Beside 5xx: answers of a challenger that make the champion answer instead."""


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
    for_missing: bool = False
    """Asked only where the one before has not got its model, not where it failed."""

    @property
    def is_version(self) -> bool:
        """Whether a replica may lack the model: versions are given to each, and a 404 says that one
        has not got it (yet, or since it was started again)."""
        return self.route is not None and self.route.version != "base"

    def lacks(self, status: int) -> bool:
        """Whether an answer of that status says that the model is not there."""
        return status == 404 and self.is_version

    def fails_with(self, status: int) -> bool:
        """Whether an answer of that status is better replaced by the next target's."""
        challenged = self.arm == "challenger" and status in CHALLENGER_FAILS
        return status >= 500 or challenged or self.lacks(status)

    @property
    def name(self) -> str:
        """What `fallback_from` says when it failed."""
        return self.arm or self.upstream.name


class Targets:
    """Chains of targets, worked out once per route table."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._routes: dict[str, TaskRoute] = {}
        self._chains: dict[tuple[str, Arm, int], list[Target]] = {}

    def of(self, model: str, route: TaskRoute | None, drawn: Assignment | None) -> list[Target]:
        """Who is asked for `model`; Refusal(404) if it is no task and there is no default."""
        if route is None or drawn is None:
            return self._passed_through(model)
        arm, _, which = drawn
        routes = self._parts.table.routes
        if routes is not self._routes:
            self._routes, self._chains = routes, {}
        chain = self._chains.get((model, arm, which))
        if chain is None:
            chain = self._chains[model, arm, which] = self._chain(model, route, arm, which)
        return chain

    def upstream_of(self, task: str, route: ArmRoute) -> Upstream:
        """Who serves an arm: the one it names, else the task's."""
        return self._parts.upstreams[route.upstream or self._parts.tasks[task].upstream]

    def _chain(self, task: str, route: TaskRoute, arm: Arm, which: int) -> list[Target]:
        champion = self._target(task, "champion", route.champion)
        chain = [champion]
        challenger = route.challengers[which] if route.challengers else route.challenger
        if arm == "challenger" and challenger is not None:
            chain.insert(0, self._target(task, "challenger", challenger))
        elif arm == "holdback" and route.holdback is not None:
            chain = [
                self._target(task, "holdback", route.holdback),
                replace(champion, for_missing=True),
            ]
        first = chain[0] if arm == "holdback" else champion
        if champion.is_version:
            chain.append(self._base(task))
        return chain + [_stand_in(first, other) for other in self._fallbacks(first.upstream)]

    def _target(self, task: str, arm: Arm, route: ArmRoute) -> Target:
        lines = f"x-everlearn-arm: {arm}\r\nx-everlearn-version: {route.version}\r\n".encode()
        return Target(self.upstream_of(task, route), route.model, arm, route, lines)

    def _base(self, task: str) -> Target:
        """Who answered before there were versions, now as no arm."""
        route = self._parts.table.base[task].champion
        lines = b"x-everlearn-version: base\r\n"
        return Target(self.upstream_of(task, route), route.model, None, route, lines, True)

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


def _stand_in(target: Target, upstream: Upstream) -> Target:
    """The target when another upstream must do; asked for another model it is no arm."""
    if upstream.settings.fallback_model is not None:
        return Target(upstream, upstream.settings.fallback_model)
    return replace(target, upstream=upstream)
