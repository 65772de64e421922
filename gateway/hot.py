"""The routes that carry traffic: chat, completions, embeddings, responses.

A request walks: key -> body -> task and arm -> upstream -> capture -> last byte. A challenger that
fails before the first byte is replaced by the champion, an upstream by its fallback.

What needs no waiting happens in the callbacks of the two connections: a request goes out in the
turn of the event loop in which it came, and so do its answer and every chunk of a stream. All else
(a new connection, another attempt) is a task.
"""

import asyncio
from codecs import BOM_UTF8
from collections.abc import Callable
from functools import partial

from everlearn.events import Completion, Status
from everlearn.ids import marked, new_id
from everlearn.telemetry import OPERATIONS
from gateway import shadow
from gateway.assignment import Assignment, assign, draw
from gateway.caller import Caller, request_id
from gateway.dialect import Undo, tokens_of
from gateway.http.body import Body, names_one_model, read_body, with_model
from gateway.http.channel import Answer, Channel, UpstreamFailure
from gateway.http.client import Client, Work
from gateway.http.heads import Request
from gateway.http.stream import Outcome, Relay
from gateway.http.wire import Refusal
from gateway.keys import Holder
from gateway.metrics import FALLBACKS
from gateway.parts import Parts
from gateway.routes import TaskRoute
from gateway.targets import Target, Targets
from gateway.upstream import Asked, Upstream, suffix_of

ENDPOINTS = {f"/v1/{name}".encode(): name for name in OPERATIONS}
_NO_BODY = Body("")


class Hot:
    """Answers the hot routes."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.targets = Targets(parts)
        self.shadows: set[asyncio.Task[None]] = set()

    def answer(self, request: Request, client: Client, endpoint: str) -> Work | None:
        """Answer one request and capture it."""
        return Exchange(self, request, client, endpoint).start()

    def refuse(self, request: Request, client: Client, endpoint: str, refusal: Refusal) -> None:
        """Send and capture a refusal that was decided before the request was looked at."""
        Exchange(self, request, client, endpoint).refuse(refusal)


class Exchange:
    """One request on its way."""

    __slots__ = (
        "_begun", "_body", "_client", "_draft", "_entered", "_holder", "_hot", "_lines", "_parts",
        "_recorded", "_request", "_targets", "_tokens", "_undo",
    )  # fmt: skip

    def __init__(self, hot: Hot, request: Request, client: Client, endpoint: str) -> None:
        self._hot, self._parts = hot, hot.parts
        self._request, self._client = request, client
        self._draft = Completion(
            completion_id=new_id("cmpl"),
            received_at=request.received_at,
            endpoint=endpoint,
            status="ok",
            http_status=0,
            latency_ms=0.0,
        )
        self._draft.request_id = request_id(request.head)
        self._holder: Holder | None = None
        self._entered = False
        self._targets: list[Target] = []
        self._begun: Channel | None = None
        self._lines = b""
        """Header lines that tell the client who answered."""
        self._recorded = False
        self._body = _NO_BODY
        self._undo: Undo | None = None
        """What the client did not ask for, and must not see in its answer."""
        self._tokens = 0
        """Used by the answer, once it is whole."""

    def start(self) -> Work | None:
        """Send the request on at once if that is possible, else the work that does it."""
        self._enter()
        try:
            self._targets = self._plan()
            target = self._targets[0]
            self._aim(target)
            body = self._body_for(target)
            own_key = self._holder is not None
            self._begun = target.upstream.begin(
                self._request.head, body, self._came, own_key=own_key, stream=self._draft.stream
            )
        except Refusal as refusal:
            self.refuse(refusal)
            return None
        except Exception:
            self._leave()
            raise
        if self._begun is None:
            return self._in_task(None)
        self._client.left = self._left
        return None

    def _enter(self) -> None:
        self._parts.in_flight += 1
        self._entered = True

    def refuse(self, refusal: Refusal) -> None:
        """Send and capture a refusal."""
        self._draft.error = refusal.message
        body = refusal.body()
        self._client.left = self._left
        self._record(
            self._draft, "rejected", refusal.status, body,
            partial(self._give, refusal.status, refusal.lines(), body),
        )  # fmt: skip

    # What came of the first attempt.

    def _came(self, outcome: Answer | UpstreamFailure) -> None:
        client, begun = self._client, self._begun
        assert begun is not None
        self._begun = None
        try:
            stale = type(outcome) is not Answer and outcome.stale  # type: ignore[union-attr]
            if not stale:
                self._targets[0].upstream.settle(begun.replica, outcome)
            if type(outcome) is Answer and outcome.channel is None and outcome.status < 400:
                give = partial(self._give, outcome.status, outcome.head.lines, outcome.body)
                self._record(self._draft, "ok", outcome.status, outcome.body, give)
            elif type(outcome) is Answer and outcome.status < 400:
                self._stream(outcome)
            else:
                client.left = None
                client.run(self._in_task(None if stale else (begun.replica, outcome)))
        except Exception:
            self._leave()
            client.failed()

    def _left(self) -> None:
        """The client went away while the upstream works."""
        if self._begun is not None:
            self._begun.abort()
        self._aborted()
        self._leave()

    def _give(self, status: int, lines: bytes, body: bytes) -> None:
        """Send an answer that has been captured: the end of a request."""
        client = self._client
        client.respond(status, lines + self._identity(), self._restored(body))
        self._count(body)
        self._leave()
        client.finished()

    # A stream.

    def _stream(self, answer: Answer) -> None:
        """Hand a stream on until its end, in callbacks."""
        client, channel = self._client, answer.channel
        assert channel is not None
        self._draft.stream = True
        legible = answer.status < 400 and not answer.head.encoded
        client.start(answer.status, answer.head.lines + self._identity())
        relay = Relay(
            client, channel,
            record=partial(self._record_stream, answer.status), first=self._first,
            done=self._streamed, undo=self._undo,
            endpoint=self._draft.endpoint if legible else "",
        )  # fmt: skip
        if client.gone:
            self._stream_left(relay)
        else:
            client.go_on(partial(self._stream_left, relay))
            channel.stream_to(relay)

    def _first(self) -> None:
        self._draft.first_token_ms = self._request.elapsed_ms()

    def _record_stream(
        self, code: int, outcome: Outcome, response: bytes, error: str | None,
        then: Callable[[], None],
    ) -> None:  # fmt: skip
        self._draft.error = error
        self._count(response)
        if self._tokens == 0 and self._counted:
            self._tokens = tokens_of(response, self._request.body)
        status = "upstream_error" if outcome == "ok" and code >= 400 else outcome
        self._record(self._draft, status, code, response, then)

    def _streamed(self) -> None:
        self._leave()
        self._client.finished()

    def _stream_left(self, relay: Relay) -> None:
        """The client went away before the end."""
        relay.abort()
        self._leave()

    # The same in a task.

    async def _in_task(self, begun: tuple[int, Answer | UpstreamFailure] | None) -> bool:
        """Ask whoever is next, and give the answer; whether it is a stream, which goes on."""
        goes_on = False
        try:
            answer = await self._ask(begun)
            if answer.channel is not None:
                self._stream(answer)
                goes_on = True
            else:
                await self._whole(answer)
        except UpstreamFailure as failure:
            await self._no_answer(failure)
        except Refusal as refusal:
            await self._refused(refusal)
        except asyncio.CancelledError:
            self._aborted()
            raise
        finally:
            if not goes_on:
                self._leave()
        return goes_on

    async def _whole(self, answer: Answer) -> None:
        """Give an answer that is all there."""
        status: Status = "ok" if answer.status < 400 else "upstream_error"
        await self._captured(status, answer.status, answer.body)
        shown = self._restored(answer.body)
        self._client.respond(answer.status, answer.head.lines + self._identity(), shown)
        self._count(answer.body)

    async def _captured(self, status: Status, code: int, response: bytes) -> None:
        done = asyncio.get_running_loop().create_future()
        self._record(
            self._draft, status, code, response,
            lambda: None if done.done() else done.set_result(None),
        )  # fmt: skip
        await done

    async def _ask(self, begun: tuple[int, Answer | UpstreamFailure] | None) -> Answer:
        """The first answer worth giving; UpstreamFailure if the last target gives none."""
        head = self._request.head
        own_key = self._holder is not None
        missing = False
        for number, target in enumerate(self._targets):
            if target.for_missing and not missing:
                continue
            following = self._targets[number + 1 :]
            last = all(one.for_missing for one in following)
            self._aim(target)
            lines = target.upstream.request_lines(head.headers, own_key=own_key)
            try:
                asked = self._asked(target, lines)
                answer = await target.upstream.send(asked, begun, better=not last)
            except UpstreamFailure as failure:
                if last:
                    raise
                self._replaced(target, failure)
                continue
            finally:
                begun = None
            missing = target.lacks(answer.status)
            if not target.fails_with(answer.status) or not (following if missing else not last):
                return answer
            if answer.channel is not None:
                answer.channel.abort()
            self._replaced(target, answer)
        raise AssertionError("no target")

    def _replaced(self, target: Target, what: UpstreamFailure | Answer) -> None:
        """The next target is asked. A challenger's failure gets an event of its own, so that it
        counts against the challenger; the user's answer is the next target's."""
        self._parts.metrics.count(FALLBACKS, target.name)
        if target.arm == "challenger":
            failed = shadow.again(self._draft)
            if isinstance(what, Answer):
                failed.error = f"answered {what.status}; the champion answered instead"
                self._record(failed, "upstream_error", what.status, what.body)
            else:
                failed.error = f"{what}; the champion answered instead"
                self._record(failed, _status(what), shadow.failure_code(what), b"")
        # The first that failed is who was assigned, whoever else fails after it.
        self._draft.fallback_from = self._draft.fallback_from or target.name

    async def _no_answer(self, failure: UpstreamFailure) -> None:
        """No target answered."""
        self._draft.error = str(failure)
        wait = 1.0 if failure.kind == "unavailable" else None
        message = f"The upstream gave no answer: {failure}."
        refusal = Refusal(
            shadow.failure_code(failure), message, failure.kind, retry_after_seconds=wait
        )
        await self._refused(refusal, _status(failure))

    async def _refused(self, refusal: Refusal, status: Status = "rejected") -> None:
        body = refusal.body()
        await self._captured(status, refusal.status, body)
        self._client.respond(refusal.status, refusal.lines() + self._identity(), body)

    # Steps.

    def _plan(self) -> list[Target]:
        """Who is asked, in order; Refusal if nobody is."""
        parts, draft, request = self._parts, self._draft, self._request
        caller = self._admit()
        holder = caller.holder
        if request.body.startswith(BOM_UTF8):
            request.body = request.body[len(BOM_UTF8) :]
        body = self._body = read_body(request.body)
        if holder is not None and holder.key.tasks and not names_one_model(request.body):
            message = "This key is limited to tasks: name `model` once, and in these letters."
            raise Refusal(400, message, "ambiguous_model", param="model")
        model = draft.model_requested = body.model
        if body.stream:
            draft.stream = True
        if body.store is False:
            draft.trainable = False
        route = parts.table.routes.get(model)
        draft.completion_id = marked(draft.completion_id, None if route is None else model)
        unit = caller.identify(draft, body.safety_identifier, body.user)
        drawn: Assignment | None = None
        if route is not None:
            draft.task, draft.release, draft.stage = model, route.release, route.stage
            draft.draw = draw(route, draft)
            drawn = assign(route, model, unit, draft.draw)
            draft.probability = drawn.probability
        targets = self._hot.targets.of(model, route, drawn)
        if holder is not None:
            parts.keyring.enter(holder, draft.task)
            self._holder = holder
        if route is not None and route.shadow_share > 0:
            self._cast_shadow(route, targets[0])
        return targets

    def _admit(self) -> Caller:
        """Who asks; Refusal for whom he may not be."""
        caller = Caller.of(self._request.head, self._parts.keyring)
        self._draft.key_id = caller.key_id
        caller.check()
        return caller

    def _cast_shadow(self, route: TaskRoute, first: Target) -> None:
        draft, hot = self._draft, self._hot
        self._aim(first)
        if not shadow.wanted(route, draft) or len(hot.shadows) >= shadow.MAX_IN_FLIGHT:
            return
        assert draft.task is not None
        assert route.challenger is not None
        upstream = hot.targets.upstream_of(draft.task, route.challenger)
        run = self._shadow(shadow.copy_of(draft, route), upstream, draft.key_id is not None)
        task = asyncio.get_running_loop().create_task(run)
        hot.shadows.add(task)
        task.add_done_callback(hot.shadows.discard)

    async def _shadow(self, draft: Completion, upstream: Upstream, own_key: bool) -> None:
        """Ask the challenger what the user asked, and keep its answer to ourselves."""
        head = self._request.head
        code, response = 200, b""
        try:
            body = with_model(self._request.body, draft.model_served or "", draft.model_requested)
            body, _ = upstream.dialect.request(body, self._body, draft.endpoint, counted=False)
            lines = upstream.request_lines(head.headers, own_key=own_key)
            asked = Asked(
                suffix_of(head), lines, body, stream=draft.stream,
                adapter=draft.version != "base", again=False, beside=True,
            )  # fmt: skip
            answer = await upstream.send(asked)
            code = answer.status
            response = await shadow.whole(answer)
        except UpstreamFailure as failure:
            code, draft.error = shadow.failure_code(failure), str(failure)
        self._record(draft, "shadow", code, response)

    def _asked(self, target: Target, lines: bytes) -> Asked:
        return Asked(
            suffix_of(self._request.head), lines, self._body_for(target),
            stream=self._draft.stream, adapter=target.is_version,
        )  # fmt: skip

    def _body_for(self, target: Target) -> bytes:
        body, draft = self._request.body, self._draft
        if target.model is not None:
            body = with_model(body, target.model, draft.model_requested)
        body, self._undo = target.upstream.dialect.request(
            body, self._body, draft.endpoint, counted=self._counted
        )
        return body

    def _restored(self, body: bytes) -> bytes:
        return body if self._undo is None else self._undo.whole(body)

    def _aim(self, target: Target) -> None:
        """Note who is asked now."""
        draft = self._draft
        draft.upstream = target.upstream.name
        draft.model_served = target.model or draft.model_requested
        self._lines, draft.arm = target.lines, target.arm
        route = target.route
        if route is not None:
            draft.version, draft.adapter_digest = route.version, route.adapter_digest
            draft.template_hash = route.template_hash
        else:
            draft.version = draft.adapter_digest = draft.template_hash = None

    def _aborted(self) -> None:
        """The client went away. 499 is what nginx logs for it; nothing was sent before."""
        if not self._recorded:
            self._record(self._draft, "client_abort", 499, b"")

    def _count(self, response: bytes) -> None:
        self._tokens = self._parts.metrics.usage(response, self._draft.task, self._draft.arm)

    @property
    def _counted(self) -> bool:
        """Whether it matters to the client's key how many tokens are used."""
        return self._holder is not None and self._holder.key.tokens_per_minute > 0

    def _leave(self) -> None:
        if self._entered:
            self._entered = False
            self._parts.in_flight -= 1
        if self._holder is not None:
            self._holder.leave(self._tokens)
            self._holder = None

    def _record(
        self,
        draft: Completion,
        status: Status,
        code: int,
        response: bytes,
        then: Callable[[], None] | None = None,
    ) -> None:
        if draft is self._draft:
            self._recorded = True
        self._parts.recorder.complete(draft, self._request, status, code, response, then)
        self._parts.metrics.completed(draft)

    def _identity(self) -> bytes:
        """Header lines that say which completion, task, arm and version this is."""
        draft = self._draft
        own = draft.completion_id
        lines = f"x-everlearn-id: {own}\r\nx-request-id: {draft.request_id or own}\r\n"
        if draft.task is not None:
            lines += f"x-everlearn-task: {draft.task}\r\n"
        return lines.encode() + self._lines


def _status(failure: UpstreamFailure) -> Status:
    return "timeout" if failure.kind == "timeout" else "upstream_error"
