"""The routes that carry traffic: chat, completions, embeddings, responses.

A request walks: key -> body -> task and arm -> upstream -> capture -> last byte. A challenger that
fails before the first byte is replaced by the champion, an upstream by its fallback.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from everlearn.events import Arm, Status
from everlearn.ids import new_id
from gateway import shadow
from gateway.assignment import assign
from gateway.body import read_body, with_model
from gateway.capture import Draft
from gateway.channel import Answer, UpstreamFailure
from gateway.keys import Holder
from gateway.metrics import (
    DURATION,
    FALLBACKS,
    FIRST_TOKEN,
    REQUESTS,
    SECONDS,
    TOKEN_USAGE,
    TOKENS,
)
from gateway.parts import Parts
from gateway.routes import ArmRoute, TaskRoute
from gateway.server import Client, Request
from gateway.stream import Outcome, Relay
from gateway.upstream import Upstream
from gateway.wire import NOT_TO_CLIENT, Refusal, header_lines

ENDPOINTS = {
    b"/v1/chat/completions": "chat/completions",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
    b"/v1/responses": "responses",
}
OPERATIONS = {
    "chat/completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "responses": "chat",
}
CHALLENGER_FAILS = frozenset({404, 408, 429})
"""Beside 5xx: answers of a challenger that make the champion answer instead. 404: its adapter is
not loaded on the replica asked."""
_UNIT = b"x-everlearn-unit"
_CONVERSATION = b"x-everlearn-conversation"
_USAGE = re.compile(rb'"(prompt|completion|input|output)_tokens"\s*:\s*(\d{1,9})')


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
        return "challenger" if self.arm == "challenger" else self.upstream.name

    def fails_with(self, status: int) -> bool:
        """Whether an answer of that status is better replaced by the next target's."""
        return status >= 500 or (self.arm == "challenger" and status in CHALLENGER_FAILS)


class Hot:
    """Answers the hot routes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._chains: dict[tuple[str, str], list[Target]] = {}
        """By task and arm, of the route table in force."""
        self._chained: dict[str, TaskRoute] = {}
        self.shadows: set[asyncio.Task[None]] = set()

    async def answer(self, request: Request, client: Client, endpoint: str) -> None:
        """Answer one request and capture it."""
        draft = begin(request, endpoint)
        holder: Holder | None = None
        self._parts.in_flight += 1
        tokens = 0
        try:
            targets, holder = self._plan(draft)
            route = self._chained.get(draft.task) if draft.task is not None else None
            if route is not None and route.shadow_share > 0:
                self._cast_shadow(draft, route, targets[0])
            answer = await self._ask(draft, targets, holder)
            if answer.channel is None:
                tokens = await self._whole(draft, answer, client)
            else:
                tokens = await self._stream(draft, answer, client)
        except Refusal as refusal:
            lines = self.refuse(draft, refusal)
            client.respond(refusal.status, lines, refusal.body())
        except UpstreamFailure as failure:
            await self._no_answer(draft, failure, client)
        except asyncio.CancelledError:
            # 499 is what nginx logs for a client that went away; nothing was sent before.
            if not draft.recorded:
                self._record(draft, "client_abort", 499, b"")
            raise
        finally:
            self._parts.in_flight -= 1
            if holder is not None:
                holder.leave(tokens)

    def refuse(self, draft: Draft, refusal: Refusal) -> bytes:
        """Capture a refusal; the header lines of its answer."""
        draft.error = refusal.message
        self._record(draft, "rejected", refusal.status, refusal.body())
        return refusal.lines() + _identity(draft)

    def _plan(self, draft: Draft) -> tuple[list[Target], Holder | None]:
        """Who is asked, in order; Refusal if nobody is."""
        parts, request = self._parts, draft.request
        known = request.known
        holder = parts.keyring.holder(known)
        if holder is not None:
            draft.key_id = holder.key.id
        body = read_body(request.body)
        draft.model_requested, draft.stream = body.model, bool(body.stream)
        draft.trainable = body.store is not False
        if _CONVERSATION in known:
            draft.conversation_id = known[_CONVERSATION].decode("utf-8", "replace")
        draft.unit = (
            known.get(_UNIT, b"").decode("utf-8", "replace")
            or _string(body.safety_identifier)
            or _string(body.user)
            or draft.conversation_id
            or draft.request_id
            or draft.completion_id
        )
        targets = self._of_task(draft, body.model) or self._passed_through(body.model)
        if holder is not None:
            parts.keyring.enter(holder, draft.task)
        return targets, holder

    def _of_task(self, draft: Draft, model: str) -> list[Target]:
        """The assigned arm of a task, and the champion after a challenger."""
        routes = self._parts.table.routes
        route = routes.get(model)
        if route is None:
            return []
        if routes is not self._chained:
            self._chained, self._chains = routes, {}
        assert draft.unit is not None
        draft.task, draft.release, draft.stage = model, route.release, route.stage
        arm, draft.probability = assign(route, model, draft.unit)
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

    async def _ask(self, draft: Draft, targets: list[Target], holder: Holder | None) -> Answer:
        """The first answer worth giving; UpstreamFailure if the last target gives none."""
        request = draft.request
        suffix = request.path[3:]
        if request.query:
            suffix += b"?" + request.query
        for target in targets:
            last = target is targets[-1]
            _aim(draft, target)
            body = request.body if target.model is None else with_model(request.body, target.model)
            lines = target.upstream.request_lines(request.headers, own_key=holder is not None)
            try:
                answer = await target.upstream.send(suffix, lines, body)
            except UpstreamFailure as failure:
                if last:
                    raise
                self._replaced(draft, target, failure)
                continue
            if last or not target.fails_with(answer.status):
                return answer
            if answer.channel is not None:
                answer.channel.abort()
            self._replaced(draft, target, answer)
        raise AssertionError("no target")

    def _replaced(self, draft: Draft, target: Target, what: UpstreamFailure | Answer) -> None:
        """The next target is asked. A challenger's failure gets an event of its own, so that it
        counts against the challenger; the user's answer is the next target's."""
        self._parts.metrics.count(FALLBACKS, target.name)
        if target.arm == "challenger":
            failed = draft.again(new_id("cmpl"))
            if isinstance(what, Answer):
                failed.error = f"answered {what.status}; the champion answered instead"
                self._record(failed, "upstream_error", what.status, what.body)
            else:
                failed.error = f"{what}; the champion answered instead"
                self._record(failed, _status(what), shadow.failure_code(what), b"")
        draft.fallback_from = target.name

    def _cast_shadow(self, draft: Draft, route: TaskRoute, first: Target) -> None:
        _aim(draft, first)
        if not shadow.wanted(route, draft) or len(self.shadows) >= shadow.MAX_IN_FLIGHT:
            return
        upstream = self._parts.upstreams[self._parts.tasks[draft.task or ""].upstream]
        run = self._shadow(shadow.copy_of(draft, route), upstream, draft.key_id is not None)
        task = asyncio.get_running_loop().create_task(run)
        self.shadows.add(task)
        task.add_done_callback(self.shadows.discard)

    async def _shadow(self, draft: Draft, upstream: Upstream, own_key: bool) -> None:
        """Ask the challenger what the user asked, and keep its answer to ourselves."""
        request = draft.request
        code, response = 200, b""
        try:
            body = with_model(request.body, draft.model_served or "")
            lines = upstream.request_lines(request.headers, own_key=own_key)
            answer = await upstream.send(request.path[3:], lines, body)
            code = answer.status
            response = await shadow.whole(answer)
        except UpstreamFailure as failure:
            code, draft.error = shadow.failure_code(failure), str(failure)
        self._record(draft, "shadow", code, response)

    async def _whole(self, draft: Draft, answer: Answer, client: Client) -> int:
        """Give an answer that is all there; the tokens it cost."""
        status: Status = "ok" if answer.status < 400 else "upstream_error"
        number = self._record(draft, status, answer.status, answer.body)
        lines = header_lines(answer.headers, NOT_TO_CLIENT) + _identity(draft)
        if number and self._parts.recorder.forced:
            await self._parts.recorder.durable(number)
        client.respond(answer.status, lines, answer.body)
        return self._usage(draft, answer.body)

    async def _stream(self, draft: Draft, answer: Answer, client: Client) -> int:
        """Hand a stream on until its end; the tokens it cost."""
        channel = answer.channel
        assert channel is not None
        used = 0

        def first() -> None:
            draft.first_token_ms = draft.request.elapsed_ms()

        def record(outcome: Outcome, response: bytes, error: str | None) -> int:
            nonlocal used
            draft.error = error
            status = "upstream_error" if outcome == "ok" and answer.status >= 400 else outcome
            used = self._usage(draft, response)
            return self._record(draft, status, answer.status, response)

        draft.stream = True
        recorder = self._parts.recorder
        relay = Relay(
            client,
            channel,
            record=record,
            durable=recorder.durable if recorder.forced else None,
            first=first,
        )
        client.start(answer.status, header_lines(answer.headers, NOT_TO_CLIENT) + _identity(draft))
        try:
            channel.stream_to(relay)
            await relay.done
        except asyncio.CancelledError:
            relay.abort()
            raise
        return used

    async def _no_answer(self, draft: Draft, failure: UpstreamFailure, client: Client) -> None:
        """No target answered."""
        draft.error = str(failure)
        wait = 1.0 if failure.kind == "unavailable" else None
        message = f"The upstream gave no answer: {failure}."
        refusal = Refusal(
            shadow.failure_code(failure), message, failure.kind, retry_after_seconds=wait
        )
        number = self._record(draft, _status(failure), refusal.status, refusal.body())
        await self._parts.recorder.durable(number)
        client.respond(refusal.status, refusal.lines() + _identity(draft), refusal.body())

    def _record(self, draft: Draft, status: Status, code: int, response: bytes) -> int:
        draft.recorded = True
        metrics = self._parts.metrics
        endpoint, task, arm = draft.endpoint, draft.task or "", draft.arm or ""
        operation = OPERATIONS.get(endpoint, "")
        metrics.count(REQUESTS, endpoint, task, arm, status, str(code))
        metrics.observe(draft.request.elapsed_ms() / 1000, SECONDS, DURATION, operation, task, arm)
        if draft.first_token_ms is not None:
            seconds = draft.first_token_ms / 1000
            metrics.observe(seconds, SECONDS, FIRST_TOKEN, operation, task, arm)
        return self._parts.recorder.complete(draft, status, code, response)

    def _usage(self, draft: Draft, response: bytes) -> int:
        """Tokens as the upstream counts them at the end of its answer."""
        at = response.rfind(b'"usage"')
        if at < 0:
            return 0
        task, arm = draft.task or "", draft.arm or ""
        total = 0
        for name, value in dict(_USAGE.findall(response, at, at + 1024)).items():
            kind = "input" if name in (b"prompt", b"input") else "output"
            self._parts.metrics.observe(int(value), TOKENS, TOKEN_USAGE, kind, task, arm)
            total += int(value)
        return total


def begin(request: Request, endpoint: str) -> Draft:
    """A draft with its identity."""
    draft = Draft(request, endpoint, new_id("cmpl"))
    if b"x-request-id" in request.known:
        draft.request_id = request.known[b"x-request-id"].decode("utf-8", "replace")
    return draft


def _target(upstream: Upstream, arm: Arm, route: ArmRoute) -> Target:
    lines = f"x-everlearn-arm: {arm}\r\nx-everlearn-version: {route.version}\r\n".encode()
    return Target(upstream, route.model, arm, route, lines)


def _stand_in(target: Target, upstream: Upstream) -> Target:
    """The target when another upstream must do; asked for another model it is no arm."""
    if upstream.settings.fallback_model is not None:
        return Target(upstream, upstream.settings.fallback_model)
    return replace(target, upstream=upstream)


def _aim(draft: Draft, target: Target) -> None:
    draft.upstream = target.upstream.name
    draft.model_served = target.model or draft.model_requested
    draft.lines, draft.arm = target.lines, target.arm
    route = target.route
    if route is not None:
        draft.version, draft.adapter_digest = route.version, route.adapter_digest
        draft.template_hash = route.template_hash
    else:
        draft.version = draft.adapter_digest = draft.template_hash = None


def _identity(draft: Draft) -> bytes:
    """Header lines that say which completion, task, arm and version this is."""
    lines = (
        f"x-everlearn-id: {draft.completion_id}\r\n"
        f"x-request-id: {draft.request_id or draft.completion_id}\r\n"
    )
    if draft.task is not None:
        lines += f"x-everlearn-task: {draft.task}\r\n"
    return lines.encode() + draft.lines


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _status(failure: UpstreamFailure) -> Status:
    return "timeout" if failure.kind == "timeout" else "upstream_error"
