"""One request from body to answer: prompt, answers, pieces, and the client that may go away."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from fastapi import Request as HttpRequest
from fastapi import Response
from fastapi.responses import StreamingResponse

from everlearn.chat import template_messages, template_options, template_tools
from serving.local.answer import Answer, Piece
from serving.local.engine import Engine, Event, QueueFull, Request
from serving.local.errors import ApiError, json_response
from serving.local.lora import Adapter
from serving.local.metrics import Metrics
from serving.local.models import Models
from serving.local.protocol import ChatRequest, CompletionRequest, Generation
from serving.local.render import ChatRendering, Rendering, TextRendering, TokenTexts
from serving.local.shape import BadGrammar

T = TypeVar("T")
CHARACTERS_PER_TOKEN = 32
"""More than any text has on average."""
DONE = b"data: [DONE]\n\n"


@dataclass
class Serving:
    """What the completion routes share."""

    engine: Engine
    models: Models
    texts: TokenTexts
    metrics: Metrics
    renderer: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "render"))

    async def chat(self, body: ChatRequest, http: HttpRequest) -> Response:
        name, adapter = self.models.find(body.model)
        prompts = [await self.beside(self.chat_prompt, body)]
        return await self._answer(
            http, ChatRendering(body, name, prompts, self.texts), adapter=adapter
        )

    async def text(self, body: CompletionRequest, http: HttpRequest) -> Response:
        name, adapter = self.models.find(body.model)
        special = body.add_special_tokens
        prompts = [await self.beside(self.text_prompt, each, special) for each in body.prompts]
        return await self._answer(
            http, TextRendering(body, name, prompts, self.texts), adapter=adapter
        )

    async def beside(self, work: Callable[..., T], *arguments: Any) -> T:
        """What takes time with the input, off the loop that serves everybody, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self.renderer, work, *arguments)

    def chat_prompt(self, body: ChatRequest) -> list[int]:
        """Token ids of the messages by the tokenizer's chat template."""
        from jinja2 import TemplateError

        tokenizer = self.engine.model.tokenizer
        try:
            tools = template_tools(body.tools)
            text = tokenizer.apply_chat_template(
                template_messages(body.messages, tokenizer.get_chat_template(None, tools)),
                tools=tools,
                tokenize=False,
                add_generation_prompt=body.add_generation_prompt,
                continue_final_message=body.continue_final_message,
                **template_options(body.chat_template_kwargs, body.reasoning_effort),
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise ApiError(400, str(error), param="messages") from error
        return self.encode(text, special=False)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; 400 at once for a text that no context holds, before it is read."""
        longest = self.engine.model.max_len * CHARACTERS_PER_TOKEN
        if len(text) > longest:
            raise ApiError(
                400,
                f"This model's maximum context length is {self.engine.model.max_len} tokens. "
                f"However, your prompt has {len(text)} characters. Please reduce its length.",
            )
        ids: list[int] = self.engine.model.tokenizer.encode(text, add_special_tokens=special)
        return ids

    def text_prompt(self, prompt: str | list[int], special: bool) -> list[int]:
        """Token ids of a prompt that is text or token ids."""
        if isinstance(prompt, str):
            return self.encode(prompt, special=special)
        size = self.engine.model.vocabulary
        if any(not 0 <= token < size for token in prompt):
            raise ApiError(400, f"prompt: token ids are 0 to {size - 1}", param="prompt")
        return prompt

    async def _answer(
        self, http: HttpRequest, rendering: Rendering, *, adapter: Adapter | None
    ) -> Response:
        grammar = await self._grammar(rendering.body)
        answers = [
            self._start(rendering.body, prompt, number, adapter, grammar)
            for number, prompt in enumerate(
                prompt for prompt in rendering.prompts for _ in range(rendering.body.answers)
            )
        ]
        run = Run(self, rendering, answers)
        run.submit()
        if rendering.body.stream:
            return StreamingResponse(run.stream(), media_type="text/event-stream")
        return await run.whole(http)

    async def _grammar(self, body: Generation) -> str | None:
        """What the answers must follow, compiled once for all of them."""
        schema = body.schema_of_answer
        if schema is None:
            return None
        try:
            # A thread: a schema may take a second to compile, and the first one always does.
            return await asyncio.to_thread(self.engine.model.grammars.check, schema)
        except BadGrammar as error:
            param = "tools" if body.response_format is None else "response_format"
            raise ApiError(400, f"Grammar error: {error}", param=param) from error

    def _start(
        self,
        body: Generation,
        prompt: list[int],
        number: int,
        adapter: Adapter | None,
        grammar: str | None,
    ) -> Answer:
        model = self.engine.model
        room = model.max_len - len(prompt)
        if room < 1:
            raise ApiError(
                400,
                f"This model's maximum context length is {model.max_len} tokens. However, your "
                f"prompt has {len(prompt)}. Please reduce its length.",
                param="messages" if isinstance(body, ChatRequest) else "prompt",
            )
        if not prompt:
            raise ApiError(400, "The prompt has no tokens.", param="prompt")
        sampling = body.sampling(room, model.defaults, model.stop_ids, number % body.answers)
        started = model.grammars.start(grammar) if grammar is not None else None
        tokenizer = model.tokenizer.backend_tokenizer
        return Answer(number, prompt, sampling, adapter, tokenizer, started)


class Run:
    """One request in the engine, seen from the event loop."""

    def __init__(self, serving: Serving, rendering: Rendering, answers: Sequence[Answer]) -> None:
        self._serving = serving
        self._rendering = rendering
        self._started = time.perf_counter()
        self._queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._request = Request(answers, self._queue.put_nowait, stream=bool(rendering.body.stream))

    def submit(self) -> None:
        """Queue the request; 503 when too many wait."""
        try:
            self._serving.engine.submit(self._request)
        except QueueFull as error:
            raise ApiError(503, f"The server is overloaded: {error}. Retry later.") from error

    async def _pieces(self) -> AsyncIterator[Piece]:
        """Every piece until all answers ended; leaving early frees the rows."""
        reasons: list[str] = []
        try:
            while len(reasons) < len(self._request.answers):
                piece = await self._queue.get()
                if isinstance(piece, Exception):
                    raise ApiError(500, f"The model failed: {type(piece).__name__}") from piece
                if piece.finish_reason is not None:
                    reasons.append(piece.finish_reason)
                yield piece
        finally:
            self._serving.engine.abort(self._request)
        self._count(reasons)

    def _count(self, reasons: list[str]) -> None:
        answers = self._request.answers
        self._serving.metrics.answered(
            sum(len(prompt) for prompt in self._rendering.prompts),
            sum(len(answer.drawn) for answer in answers),
            reasons,
            time.perf_counter() - self._started,
        )

    async def whole(self, http: HttpRequest) -> Response:
        """The answer in one body; given up when the client goes away."""
        work = asyncio.ensure_future(self._gather())
        gone = asyncio.ensure_future(_disconnected(http))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                # Nobody reads this; 499 is what proxies log for it.
                return Response(status_code=499)
            return json_response(self._rendering.whole(work.result()))
        finally:
            gone.cancel()
            work.cancel()

    async def _gather(self) -> list[Piece]:
        pieces = [piece async for piece in self._pieces()]
        return sorted(pieces, key=lambda piece: piece.index)

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events; an error after the start is an event of its own."""
        for chunk in self._rendering.opening():
            yield _event(chunk)
        first = True
        try:
            async for piece in self._pieces():
                if first:
                    self._serving.metrics.first_token(time.perf_counter() - self._started)
                    first = False
                # A token that shows no text yet has a chunk too, as at vLLM.
                yield _event(self._rendering.chunk(piece))
            if self._rendering.body.wants_usage:
                yield _event(self._rendering.closing())
        except ApiError as error:
            yield _event(error.body)
        yield DONE


def deliver(events: Sequence[Event]) -> None:
    """In the event loop: hand each piece to its request."""
    for request, piece in events:
        request.put(piece)


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
