"""An upstream: its replicas, their kept connections, retries before the first byte.

A request is sent at once over a kept connection (`begin`); what needs waiting (a new connection, a
pause, another attempt) is `send`.
"""

import asyncio
import os
import random
from typing import NamedTuple
from urllib.parse import urlsplit

from everlearn import config, tls
from gateway.balance import Breaker, RetryBudget, backoff_seconds, choose
from gateway.dialect import Dialect
from gateway.http.channel import Answer, AnswerHead, Channel, Done, UpstreamFailure
from gateway.http.heads import Head, Heads
from gateway.http.wire import (
    NOT_TO_UPSTREAM,
    NOT_TO_UPSTREAM_WITH_KEY,
    Headers,
    header,
    header_lines,
    request_head,
    request_start,
)

RETRY_STATUSES = frozenset({429, 502, 503, 504})
BROKEN_STATUSES = frozenset({502, 503, 504})
"""Count against a replica. 500 does not: many servers answer it to a request that they dislike."""
BROKEN_KINDS = frozenset({"connect", "reset", "garbage"})
"""So do these. An answer that is slow or breaks off does not: the next may be well."""
MOVED_KINDS = frozenset({"connect", "reset"})
"""What a replica that dies does to all that it had in flight. Another one that works takes them
over: its load is what it would be had it been asked first, so that this is held to no share."""
MAX_RETRY_AFTER_SECONDS = 2.0
"""A longer `retry-after` is the client's to wait for."""
SWEEP_SECONDS = 0.25
MAX_IDLE = 256
"""Kept connections per replica."""


class Asked(NamedTuple):
    """One request as an upstream gets it."""

    suffix: bytes
    """Path and query under the base URL; from the root of the server if it begins with `//`."""
    lines: bytes
    """Header lines."""
    body: bytes | None = b""
    method: bytes = b"POST"
    stream: bool = False
    """Whether the client asked for a stream: what is whole may take its time."""
    adapter: bool = False
    """Whether a 404 says that this replica has not got the model that others may have."""
    again: bool = True
    """Whether it may be sent twice."""
    beside: bool = False
    """Nobody waits for it: what becomes of it closes no replica to those who do, and no retry of
    theirs is spent on it."""

    @property
    def once(self) -> bool:
        """Whether it must not reach the upstream twice; of a copy that is for us alone it does not
        matter."""
        return not self.again and not self.beside


class Replica:
    """One address of an upstream."""

    def __init__(self, index: int, address: str, settings: config.Upstream) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        self.index = index
        self.address = address
        self.prefix = parts.path.encode()
        self.host = parts.netloc.rpartition("@")[2].encode()
        self.breaker = Breaker()
        self._tls = tls.tls_context(settings) if parts.scheme == "https" else None
        self._where = (parts.hostname, parts.port or (443 if self._tls else 80))
        self._idle: list[Channel] = []
        self._heads = Heads[AnswerHead]()
        self.channels: set[Channel] = set()

    def kept(self) -> Channel | None:
        """A kept connection, if there is one."""
        while self._idle:
            channel = self._idle.pop()
            if not channel.closed:
                return channel
        return None

    async def open(self, connect_seconds: float, *, new: bool = False) -> Channel:
        """A kept connection if there is one, else (or if it must be) a new one."""
        channel = None if new else self.kept()
        if channel is not None:
            return channel
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(connect_seconds):
                _, channel = await loop.create_connection(
                    lambda: Channel(self._settled, self._lost, self._heads, self.index),
                    *self._where,
                    ssl=self._tls,
                )
        except TimeoutError:
            message = f"no connection within {connect_seconds:g} s"
            raise UpstreamFailure("connect", message) from None
        except OSError as error:
            raise UpstreamFailure("connect", f"cannot be reached: {tls.reason(error)}") from None
        self.channels.add(channel)
        return channel

    def sweep(self, now: float) -> None:
        """Fail what is overdue."""
        for channel in tuple(self.channels):
            channel.sweep(now)

    def close(self) -> None:
        """Close every connection."""
        for channel in tuple(self.channels):
            channel.abort()

    def _settled(self, channel: Channel) -> None:
        self.breaker.outstanding -= 1
        if not channel.closed and len(self._idle) < MAX_IDLE:
            self._idle.append(channel)

    def _lost(self, channel: Channel) -> None:
        self.channels.discard(channel)
        if channel in self._idle:
            self._idle.remove(channel)


class Upstream:
    """One OpenAI-compatible server, or several replicas of it."""

    def __init__(self, name: str, settings: config.Upstream, *, logprobs: bool = False) -> None:
        """`logprobs`: whether they are captured where the upstream can give them."""
        self.name = name
        self.settings = settings
        self.dialect = Dialect(settings, logprobs=logprobs)
        self.replicas = [
            Replica(index, address, settings) for index, address in enumerate(settings.addresses)
        ]
        self._breakers = [replica.breaker for replica in self.replicas]
        self._budget = RetryBudget()
        self._now = asyncio.get_running_loop().time
        key = os.environ.get(settings.api_key_env) if settings.api_key_env else None
        self.authorization = b"Bearer " + key.encode() if key else None
        """Header value that replaces the client's; None: the client's own is passed on."""
        self.retries = 0
        self._stream_seconds = settings.first_byte_timeout_seconds, settings.chunk_timeout_seconds
        self._whole_seconds = settings.answer_timeout_seconds, settings.answer_timeout_seconds
        """To the first byte, and between two segments."""

    def begin(
        self, head: Head, body: bytes, done: Done, *, own_key: bool, stream: bool
    ) -> Channel | None:
        """POST as the client did, over a kept connection; None if that is not possible at once.

        `done` gets what became of it; then `settle` must be called with the channel's `replica`.
        """
        replica = self.replicas[0]
        if len(self.replicas) > 1:
            replica = self.replicas[choose(self._breakers, (), self._now())]
        channel = replica.kept()
        if channel is None:
            return None
        start = head.kept.get((replica, own_key))
        if start is None:
            lines = self.request_lines(head.headers, own_key=own_key)
            start = request_start(replica.prefix + suffix_of(head), replica.host, lines)
            head.kept[replica, own_key] = start
        self._budget.earn()
        replica.breaker.enter()
        payload = b"".join((start, b"content-length: %d\r\n\r\n" % len(body), body))
        first, gap = self._stream_seconds if stream else self._whole_seconds
        channel.send(payload, first, gap, done)
        return channel

    def settle(self, replica: int, outcome: Answer | UpstreamFailure) -> None:
        """Count what an attempt came to for or against its replica."""
        breaker = self.replicas[replica].breaker
        if type(outcome) is Answer:
            broken = outcome.status in BROKEN_STATUSES
        else:
            broken = outcome.kind in BROKEN_KINDS  # type: ignore[union-attr]
            if not broken:
                return
        if broken:
            breaker.failed(self._now())
        else:
            breaker.failures = 0

    async def send(
        self,
        asked: Asked,
        begun: tuple[int, Answer | UpstreamFailure] | None = None,
        *,
        better: bool = False,
    ) -> Answer:
        """Ask a replica; retried before the first byte only.

        `begun`: the replica first asked (by `begin`) and what came of it. `better`: there is
        another upstream to ask, so that this one is left alone when all its replicas failed.
        Raises UpstreamFailure when no replica gave an answer.
        """
        if begun is None and better and not self.promises:
            raise UpstreamFailure("unavailable", "every replica has failed; none is asked for now")
        tried: list[int] = []
        if begun is None and not asked.beside:
            self._budget.earn()
        attempt = 0
        while True:
            failure, answer, pause = None, None, 0.0
            try:
                if begun is not None:
                    tried.append(begun[0])
                    outcome, begun = begun[1], None
                    if isinstance(outcome, UpstreamFailure):
                        raise outcome
                    answer = outcome
                else:
                    answer = await self._try_one(tried, asked)
                if asked.adapter and answer.status == 404 and len(set(tried)) < len(self.replicas):
                    # Costs the replica nothing, so that it is not held to the share of retries.
                    continue
                if answer.status not in RETRY_STATUSES or answer.channel is not None:
                    return answer
                pause = _retry_after(answer)
            except UpstreamFailure as error:
                failure = error
            moved = failure is not None and self._taken_over(failure, tried)
            unsent = failure is not None and failure.kind == "connect"
            if moved and unsent:
                continue  # it reached nobody, so that this is no second time
            last = attempt >= self.settings.max_retries or pause > MAX_RETRY_AFTER_SECONDS
            late = failure is not None and failure.kind == "timeout"
            final = not asked.again or late or (unsent and self._all_open())
            if last or final or not (moved or self._budget.spend()):
                if answer is not None:
                    return answer
                assert failure is not None
                raise failure
            self.retries += 1
            if len(set(tried)) == len(self.replicas) or pause:
                await asyncio.sleep(max(pause, backoff_seconds(attempt, random.random())))
            attempt += 1

    async def get(self, suffix: bytes, headers: Headers, *, own_key: bool) -> Answer | None:
        """GET with the client's headers, from any replica that answers; None if none does."""
        lines = self.request_lines(headers, own_key=own_key)
        for replica in self.replicas:
            head = request_head(replica.prefix + suffix, replica.host, lines, None)
            try:
                return await self._exchange(replica, head)
            except UpstreamFailure:
                continue
        return None

    def request_lines(self, headers: Headers, *, own_key: bool) -> bytes:
        """Header lines of a client's request for this upstream; a key that was for us
        (`own_key`), or that ours replaces, stays here."""
        without = NOT_TO_UPSTREAM
        if own_key or self.authorization is not None:
            without = NOT_TO_UPSTREAM_WITH_KEY
        lines = header_lines(headers, without)
        if self.authorization is not None:
            lines += b"authorization: " + self.authorization + b"\r\n"
        return lines

    async def _try_one(self, tried: list[int], asked: Asked) -> Answer:
        index = choose(self._breakers, tried, self._now())
        tried.append(index)
        replica = self.replicas[index]
        try:
            answer = await self._exchange(
                replica, _payload(replica, asked), asked.stream, once=asked.once
            )
        except UpstreamFailure as failure:
            if not asked.beside:
                self.settle(index, failure)
            raise
        if not asked.beside:
            self.settle(index, answer)
        return answer

    @property
    def promises(self) -> bool:
        """A replica is not left alone, or may be tried again."""
        now = self._now()
        return any(breaker.allows(now) for breaker in self._breakers)

    def _taken_over(self, failure: UpstreamFailure, tried: list[int]) -> bool:
        """Whether a replica that works, and was not asked yet, takes the request over."""
        now = self._now()
        return failure.kind in MOVED_KINDS and any(
            breaker.allows(now) and index not in tried
            for index, breaker in enumerate(self._breakers)
        )

    def _all_open(self) -> bool:
        return all(breaker.is_open for breaker in self._breakers)

    async def _exchange(
        self, replica: Replica, payload: bytes, stream: bool = False, *, once: bool = False
    ) -> Answer:
        """`once`: over a new connection. Of a kept one that closes nobody knows whether it had
        been read, and what is sent again might be done twice."""
        seconds = self._stream_seconds if stream else self._whole_seconds
        while True:
            replica.breaker.enter()
            try:
                channel = await replica.open(self.settings.connect_timeout_seconds, new=once)
            except BaseException:
                replica.breaker.outstanding -= 1
                raise
            try:
                return await _answer(channel, payload, seconds)
            except UpstreamFailure as failure:
                if not failure.stale:
                    raise
            except BaseException:
                channel.abort()
                raise

    async def watch(self) -> None:
        """Look at every replica now and then, so that a dead one is left out before a user meets
        it and a restored one is asked again at once."""
        seconds = self.settings.health_check_seconds
        while seconds and len(self.replicas) > 1:
            await asyncio.sleep(seconds)
            await asyncio.gather(*(self._look(replica) for replica in self.replicas))

    async def _look(self, replica: Replica) -> None:
        lines = self.request_lines((), own_key=False)
        head = request_head(replica.prefix + b"/models", replica.host, lines, None)
        try:
            async with asyncio.timeout(max(self.settings.health_check_seconds, 1.0)):
                answer = await self._exchange(replica, head)
        except (UpstreamFailure, TimeoutError):
            replica.breaker.failed(self._now())
            return
        if answer.status < 500:
            replica.breaker.succeeded()

    def sweep(self, now: float) -> None:
        """Fail what is overdue."""
        for replica in self.replicas:
            replica.sweep(now)

    def close(self) -> None:
        """Close every connection."""
        for replica in self.replicas:
            replica.close()


def suffix_of(head: Head) -> bytes:
    """Path and query of a request under the base URL of an upstream."""
    path = head.path[3:]
    return path + b"?" + head.query if head.query else path


def _payload(replica: Replica, asked: Asked) -> bytes:
    suffix, prefix = asked.suffix, replica.prefix
    if suffix.startswith(b"//"):
        suffix, prefix = suffix[1:], prefix.removesuffix(b"/v1")
    start = request_start(prefix + suffix, replica.host, asked.lines, asked.method)
    if asked.body is None:
        return start + b"\r\n"
    return b"%bcontent-length: %d\r\n\r\n%b" % (start, len(asked.body), asked.body)


def _answer(
    channel: Channel, payload: bytes, seconds: tuple[float, float]
) -> "asyncio.Future[Answer]":
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def done(outcome: Answer | UpstreamFailure) -> None:
        if answer.done():
            return
        if isinstance(outcome, Answer):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    channel.send(payload, *seconds, done)
    return answer


def _retry_after(answer: Answer) -> float:
    value = header(answer.head.headers, b"retry-after")
    try:
        return max(0.0, float(value)) if value is not None else 0.0
    except ValueError:
        # A date: too far for us to wait.
        return MAX_RETRY_AFTER_SECONDS + 1
