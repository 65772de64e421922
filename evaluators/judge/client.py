"""Asks a judge model; every failure is a GraderError.

What the verdict looks like is said in words and, where the server takes one, as a JSON schema. A
server that refuses the schema is asked with less of it - without bounds, then without any - and
what it took is remembered for as long as this process runs.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evaluators.judge.budget import Budget, paying, require_price
from evaluators.judge.connection import Connection, Refused, upstream_of
from everlearn.config import Service
from everlearn.errors import GraderError
from everlearn.graders import Judging
from everlearn.verdict import Envelope, Signs, envelope, note, verdict

MAX_IN_FLIGHT = 32
"""Questions to one judge at once; the others wait, and their time does not run."""
MAX_REMEMBERED = 10_000
"""Answers that one judge keeps, by the question."""
_BOUNDS = ("minimum", "maximum")
_FORMS = 3
"""With the schema, with the schema without bounds, without."""
LIKELY_TOKENS, LIKELY_MS, CHARACTERS_PER_TOKEN = 200, 1000.0, 4
"""What a question is taken to cost until it is answered."""
_TAKEN: dict[tuple[str, str], int] = {}
"""The form that a judge took, by address and model."""


class Answer(NamedTuple):
    """What the judge said and what it cost."""

    text: str
    cost: dict[str, float]


class Judge:
    """One judge model; belongs to the event loop it is first asked in."""

    def __init__(
        self, spec: Judging, service: Service | None, budget: Budget | None = None
    ) -> None:
        """ConfigError for an upstream that is not there, or has no price to count a budget by."""
        self._spec, self._budget = spec, budget
        where = f"grader {spec.name}"
        upstream = None if service is None else upstream_of(spec.upstream, service, where)
        self._price = None if upstream is None else upstream.price
        if budget is not None and upstream is not None:
            require_price(upstream, budget.limit, spec.name)
        self._connection = Connection(upstream, spec.timeout_seconds, "the judge")
        self._turns = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._said: dict[str, str] = {}

    async def ask(
        self, messages: Sequence[dict[str, str]], response_schema: Mapping[str, Any]
    ) -> Answer:
        """The judge's text within `timeout_seconds`, retries included; the same question is asked
        once."""
        question = json.dumps([list(messages), response_schema], sort_keys=True)
        async with self._turns:
            if question in self._said:
                return Answer(self._said[question], {"cached": 1})
            answer = await self._answer(messages, response_schema)
        if len(self._said) >= MAX_REMEMBERED:
            self._said.pop(next(iter(self._said)))
        self._said[question] = answer.text
        return answer

    async def _answer(
        self, messages: Sequence[dict[str, str]], response_schema: Mapping[str, Any]
    ) -> Answer:
        try:
            async with paying(self._budget, self._likely(messages)) as bill:
                started = time.monotonic()
                async with asyncio.timeout(self._spec.timeout_seconds):
                    body = await self._asked(messages, response_schema)
                seconds = time.monotonic() - started
                cost = {"seconds": round(seconds, 4), **_usage(body)}
                if self._price is not None:
                    asked, told = cost.get("prompt_tokens", 0), cost.get("completion_tokens", 0)
                    cost["price"] = self._price.of(asked, told, 1000 * seconds)
                    bill.price = cost["price"] if "prompt_tokens" in cost else None
        except TimeoutError as error:
            raise GraderError(
                f"the judge gave no answer in {self._spec.timeout_seconds:g} s"
            ) from error
        return Answer(_content(body), cost)

    def _likely(self, messages: Sequence[dict[str, str]]) -> float:
        if self._price is None:
            return 0.0
        characters = sum(len(message["content"]) for message in messages)
        sampling = self._spec.sampling_params
        told = (sampling and sampling.max_completions_tokens) or LIKELY_TOKENS
        return self._price.of(characters / CHARACTERS_PER_TOKEN, told, LIKELY_MS)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()
        if self._budget is not None:
            await self._budget.aclose()

    async def _asked(
        self, messages: Sequence[dict[str, str]], schema: Mapping[str, Any]
    ) -> dict[str, Any]:
        upstream = self._connection.upstream
        who = (upstream.base_url if upstream else "", self._spec.model)
        refused: Refused | None = None
        for form in range(_TAKEN.get(who, 0), _FORMS):
            body = self._body(messages, _format(schema, form))
            try:
                answer = await self._connection.post("/chat/completions", body)
            except Refused as error:
                refused = refused or error  # the first says what it is about
                continue
            _TAKEN[who] = form
            return answer
        assert refused is not None
        raise refused

    def _body(self, messages: Sequence[dict[str, str]], form: dict[str, Any]) -> dict[str, Any]:
        sampling = {}
        if self._spec.sampling_params is not None:
            sampling = self._spec.sampling_params.model_dump(exclude_none=True)
        if "max_completions_tokens" in sampling:
            upstream = self._connection.upstream
            vllm = upstream is not None and upstream.kind == "vllm"
            key = "max_tokens" if vllm else "max_completion_tokens"
            sampling[key] = sampling.pop("max_completions_tokens")
        return {"model": self._spec.model, "messages": list(messages), **form, **sampling}


def _format(schema: Mapping[str, Any], form: int) -> dict[str, Any]:
    if form == _FORMS - 1:
        return {}
    if form:
        schema = {
            **schema,
            "properties": {
                name: {key: value for key, value in each.items() if key not in _BOUNDS}
                for name, each in schema["properties"].items()
            },
        }
    named = {"name": "verdict", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _content(body: dict[str, Any]) -> str:
    """The judge's own words; GraderError where its server says that they are not all, or none."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        refusal, content = message.get("refusal"), message["content"]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise GraderError("the judge's server did not answer a completion") from error
    if refusal:
        raise GraderError(f"the judge refused: {str(refusal)[:200]}")
    signs = Signs()
    note(signs, envelope(json.dumps(body).encode()) or Envelope())
    ending = verdict("ok", signs, "chat/completions")
    if ending not in ("ok", "incomplete") or (ending == "incomplete" and signs.finish_reason):
        # Half of "10" is 1.
        why = signs.error or f"finish_reason {signs.finish_reason!r}"
        raise GraderError(f"the judge's answer is {ending}: {why}")
    text = _text(content)
    if text is None:
        raise GraderError("the judge's answer has no text")
    return text


def _text(content: Any) -> str | None:
    """A text, or the text parts of a list, whose thinking is left out; None: there is none."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts = [
        part["text"]
        for part in content
        if isinstance(part, dict)
        and part.get("type") in ("text", "output_text")
        and isinstance(part.get("text"), str)
    ]
    return "".join(parts) if parts else None


def _usage(body: dict[str, Any]) -> dict[str, float]:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return {}
    keys = ("prompt_tokens", "completion_tokens")
    return {key: usage[key] for key in keys if isinstance(usage.get(key), int)}
