"""The decode loop: one thread, requests join and leave between tokens.

- At most `max_rows` answers run at once; the others wait in order of arrival.
- A request whose client has gone leaves the batch before the next token.
- No more than `max_waiting` answers wait: a request beyond is refused at once (`QueueFull`).
- Memory of a long prompt is given back as soon as nothing runs.
- A failing step fails the answers running at that time; waiting ones are served after it.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from serving.local.answer import Answer, Piece
from serving.local.lora import Adapter
from serving.local.model import Model
from serving.local.sampling import Drawn, Sampler

PREFILL_ROWS = 8
"""Prompts per prefill: keeps the logits of its distinct last positions small."""
PREFILL_TOKENS = 2048
"""Padded prompt tokens between two tokens of the running answers: more would hold them up."""

MAX_WAITING = 1024
"""Answers: at a few a second those at the end have waited for minutes already."""

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """So many answers wait that this one would come too late."""


@dataclass(eq=False)
class Request:
    """One HTTP request's answers; `put` is called with each new piece, in the caller's thread."""

    answers: Sequence[Answer]
    put: Callable[[Piece | Exception], None]
    stream: bool = False
    aborted: bool = False
    started: bool = False


@dataclass(frozen=True, eq=False)
class Forget:
    """An adapter was unloaded."""

    adapter: Adapter


Event = tuple[Request, Piece | Exception]


@dataclass
class Load:
    """What the engine does just now."""

    running: int = 0
    waiting: int = 0


@dataclass
class Row:
    """One running answer."""

    request: Request
    answer: Answer


class Engine:
    """Owns the model; everything else talks to it through `submit`, `abort` and `forget`."""

    def __init__(
        self,
        model: Model,
        max_rows: int,
        publish: Callable[[list[Event]], None],
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.model = model
        self._max_waiting = max_waiting
        # Written by one thread each, so that no count is lost.
        self._submitted = self._received = 0
        self.load = Load()
        self._max_rows = max_rows
        self._publish = publish
        self._inbox: queue.SimpleQueue[Request | Forget | None] = queue.SimpleQueue()
        self._waiting: deque[Row] = deque()
        self._batch = Batch(model)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the token at hand."""
        self._inbox.put(None)
        self._thread.join(timeout=30.0)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, request: Request) -> None:
        """Queue a request; QueueFull when too many wait."""
        waiting = self._submitted - self._received + len(self._waiting)
        if waiting >= self._max_waiting:
            raise QueueFull(f"{waiting} answers are waiting, at most {self._max_waiting} may")
        self._submitted += len(request.answers)
        self._inbox.put(request)

    def abort(self, request: Request) -> None:
        """The client is gone: its rows are free before the next token."""
        request.aborted = True

    def forget(self, adapter: Adapter) -> None:
        self._inbox.put(Forget(adapter))

    def _run(self) -> None:
        with torch.inference_mode():
            while self._receive():
                events: list[Event] = []
                try:
                    self._step(events)
                except Exception as error:
                    log.exception("a step failed; %d answers are lost", len(self._batch.rows))
                    events += self._lose(error)
                self.load = Load(len(self._batch.rows), len(self._waiting))
                if events:
                    self._publish(events)

    def _receive(self) -> bool:
        """Take what arrived; wait for something when there is nothing to do. False: stop."""
        idle = not self._waiting and not self._batch.rows
        if idle:
            self.model.cache.release()
        while True:
            try:
                message = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, Forget):
                self.model.lora.forget(message.adapter)
            else:
                self._waiting += [Row(message, answer) for answer in message.answers]
                self._received += len(message.answers)
                idle = False

    def _step(self, events: list[Event]) -> None:
        self._waiting = deque(row for row in self._waiting if not row.request.aborted)
        self._batch.remove(lambda row: row.request.aborted)
        if self._batch.rows:
            self._collect(self._batch.decode(), events)
        budget = PREFILL_TOKENS
        while budget > 0 and self._waiting and len(self._batch.rows) < self._max_rows:
            group = self._next_group(budget)
            budget -= len(group) * max(len(row.answer.prompt) for row in group)
            self._collect(self._batch.prefill(group), events)

    def _next_group(self, budget: int) -> list[Row]:
        """The oldest waiting rows that fit one prefill of `budget` padded tokens; at least one."""
        room = min(PREFILL_ROWS, self._max_rows - len(self._batch.rows))
        group = [self._waiting.popleft()]
        longest = len(group[0].answer.prompt)
        while self._waiting and len(group) < room:
            longest = max(longest, len(self._waiting[0].answer.prompt))
            if longest * (len(group) + 1) > budget:
                break
            group.append(self._waiting.popleft())
        return group

    def _collect(self, rows: Sequence[Row], events: list[Event]) -> None:
        for row in rows:
            if row.request.stream or row.answer.finish_reason is not None:
                events.append((row.request, row.answer.take()))
        self._batch.remove(lambda row: row.answer.finish_reason is not None)

    def _lose(self, error: Exception) -> list[Event]:
        lost = {row.request for row in self._batch.rows}
        self._batch.remove(lambda row: True)
        self._waiting = deque(row for row in self._waiting if row.request not in lost)
        return [(request, error) for request in lost]


class Batch:
    """The running rows, in the order of the cache."""

    def __init__(self, model: Model) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._sampler: Sampler | None = None
        self._lengths = torch.zeros(0, dtype=torch.long)

    def prefill(self, group: list[Row]) -> list[Row]:
        """Run new rows' prompts and draw their first tokens."""
        start, answers = len(self.rows), [row.answer for row in group]
        self.rows += group
        self._sampler = None
        logits = self._model.prefill(
            [answer.prompt for answer in answers], [answer.adapter for answer in answers], start
        )
        _add(answers, _sampler(answers).draw(logits))
        return group

    def decode(self) -> list[Row]:
        """One more token for every row."""
        answers = [row.answer for row in self.rows]
        if self._sampler is None:
            self._sampler = _sampler(answers)
            self._lengths = torch.tensor([answer.length for answer in answers])
            self._model.lora.select([answer.adapter for answer in answers])
        tokens = torch.tensor([answer.drawn[-1].token_id for answer in answers])
        logits = self._model.decode(tokens, self._lengths)
        self._lengths = self._lengths + 1
        _add(answers, self._sampler.draw(logits))
        return list(self.rows)

    def remove(self, leaves: Callable[[Row], bool]) -> None:
        """Drop rows; each gap is filled with the last row."""
        for number in reversed(range(len(self.rows))):
            if not leaves(self.rows[number]):
                continue
            self._sampler = None
            last = self.rows.pop()
            if number < len(self.rows):
                self._model.cache.move(len(self.rows), number, last.answer.length)
                self.rows[number] = last


def _sampler(answers: Sequence[Answer]) -> Sampler:
    return Sampler(
        [answer.sampling for answer in answers],
        [answer.generator for answer in answers],
        [answer.shape for answer in answers],
    )


def _add(answers: Sequence[Answer], drawn: Sequence[Drawn]) -> None:
    for answer, token in zip(answers, drawn, strict=True):
        answer.add(token)
