"""Asks a judge model at an OpenAI-compatible address; every failure is a GraderError.

The key comes from the environment variable that the upstream names and is in no message.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx

from everlearn import tls
from everlearn.config import Service, Upstream
from everlearn.errors import ConfigError, GraderError
from everlearn.task import LabelModel, ScoreModel

ATTEMPTS = 3
BACKOFF_SECONDS = 0.2
_RETRIED = {408, 409, 429, 500, 502, 503, 504}


class Answer(NamedTuple):
    """What the judge said and what it cost."""

    text: str
    cost: dict[str, float]


class Judge:
    """One judge model; belongs to the event loop it is first asked in."""

    def __init__(self, spec: ScoreModel | LabelModel, service: Service | None) -> None:
        self._spec = spec
        self._upstream = None if service is None else _upstream(spec, service)
        self._client: httpx.AsyncClient | None = None

    async def ask(
        self, messages: Sequence[dict[str, str]], response_schema: dict[str, Any]
    ) -> Answer:
        """The judge's text within `timeout_seconds`, retries included."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._spec.timeout_seconds):
                body = await self._post(self._body(messages, response_schema))
        except TimeoutError as error:
            raise GraderError(
                f"the judge gave no answer in {self._spec.timeout_seconds:g} s"
            ) from error
        cost = {"seconds": round(time.monotonic() - started, 4), **_usage(body)}
        return Answer(_content(body), cost)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _body(
        self, messages: Sequence[dict[str, str]], response_schema: dict[str, Any]
    ) -> dict[str, Any]:
        sampling = self._spec.sampling_params.model_dump(exclude_none=True)
        if "max_completions_tokens" in sampling:
            vllm = self._upstream is not None and self._upstream.kind == "vllm"
            key = "max_tokens" if vllm else "max_completion_tokens"
            sampling[key] = sampling.pop("max_completions_tokens")
        schema = {"name": "verdict", "strict": True, "schema": response_schema}
        return {
            "model": self._spec.model,
            "messages": list(messages),
            "response_format": {"type": "json_schema", "json_schema": schema},
            **sampling,
        }

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
            try:
                response = await self._connected().post("/chat/completions", json=body)
            except httpx.HTTPError as error:
                problem = f"the judge could not be reached: {type(error).__name__}"
                continue
            if response.status_code not in _RETRIED:
                return _json(response)
            problem = f"the judge answered {response.status_code}"
        raise GraderError(f"{problem}, {ATTEMPTS} times")

    def _connected(self) -> httpx.AsyncClient:
        if self._upstream is None:
            raise GraderError("no config names the judge's upstream")
        if self._client is None:
            headers = {}
            if self._upstream.api_key_env is not None:
                key = os.environ.get(self._upstream.api_key_env)
                if not key:
                    raise GraderError(f"${self._upstream.api_key_env} is not set")
                headers["authorization"] = f"Bearer {key}"
            timeout = httpx.Timeout(
                self._spec.timeout_seconds, connect=self._upstream.connect_timeout_seconds
            )
            self._client = httpx.AsyncClient(
                base_url=self._upstream.base_url,
                headers=headers,
                timeout=timeout,
                verify=tls.verify(self._upstream),
            )
        return self._client


def _upstream(spec: ScoreModel | LabelModel, service: Service) -> Upstream:
    name = spec.upstream or service.default_upstream
    if name is None or name not in service.upstreams:
        known = ", ".join(sorted(service.upstreams)) or "none is configured"
        raise ConfigError(
            f"grader {spec.name}: upstream = {name!r}: not an upstream of the config: {known}"
        )
    return service.upstreams[name]


def _json(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != 200:
        raise GraderError(f"the judge answered {response.status_code}")
    try:
        body = response.json()
    except ValueError as error:
        raise GraderError("the judge's server did not answer JSON") from error
    if not isinstance(body, dict):
        raise GraderError("the judge's server did not answer a completion")
    return body


def _content(body: dict[str, Any]) -> str:
    try:
        message = body["choices"][0]["message"]
        refusal, content = message.get("refusal"), message["content"]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise GraderError("the judge's server did not answer a completion") from error
    if refusal:
        raise GraderError(f"the judge refused: {str(refusal)[:200]}")
    if not isinstance(content, str):
        raise GraderError("the judge's answer has no text")
    return content


def _usage(body: dict[str, Any]) -> dict[str, float]:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return {}
    keys = ("prompt_tokens", "completion_tokens")
    return {key: usage[key] for key in keys if isinstance(usage.get(key), int)}
