"""POSTs to an OpenAI-compatible upstream, with retries; every failure is a GraderError.

The key comes from the environment variable that the upstream names and is in no message.
"""

import asyncio
import os
from typing import Any

import httpx

from everlearn import tls
from everlearn.config import Service, Upstream
from everlearn.errors import ConfigError, GraderError

ATTEMPTS = 3
BACKOFF_SECONDS = 0.2
_RETRIED = {408, 409, 429, 500, 502, 503, 504}


class Refused(GraderError):
    """The server says that the request is wrong (400, 422), and how in its own words."""


class Connection:
    """To one upstream; belongs to the event loop it is first used in."""

    def __init__(self, upstream: Upstream | None, timeout_seconds: float, who: str) -> None:
        self.upstream = upstream
        self.timeout_seconds = timeout_seconds
        self._who = who
        self._client: httpx.AsyncClient | None = None

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object answered; nothing here looks at the time that all attempts take."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
            try:
                response = await self._connected().post(path, json=body)
            except httpx.HTTPError as error:
                problem = f"{self._who} could not be reached: {type(error).__name__}"
                continue
            if response.status_code not in _RETRIED:
                return self._json(response)
            problem = f"{self._who} answered {response.status_code}"
        raise GraderError(f"{problem}, {ATTEMPTS} times")

    async def aclose(self) -> None:
        """Close what is open."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _connected(self) -> httpx.AsyncClient:
        if self.upstream is None:
            raise GraderError(f"no config names the upstream of {self._who}")
        if self._client is None:
            headers = {}
            if self.upstream.api_key_env is not None:
                key = os.environ.get(self.upstream.api_key_env)
                if not key:
                    raise GraderError(f"${self.upstream.api_key_env} is not set")
                headers["authorization"] = f"Bearer {key}"
            timeout = httpx.Timeout(
                self.timeout_seconds, connect=self.upstream.connect_timeout_seconds
            )
            self._client = httpx.AsyncClient(
                base_url=self.upstream.base_url,
                headers=headers,
                timeout=timeout,
                verify=tls.verify(self.upstream),
            )
        return self._client

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except (ValueError, RecursionError) as error:
            if response.status_code == 200:
                raise GraderError(f"{self._who}'s server did not answer JSON") from error
            body = None
        if response.status_code != 200:
            kind = Refused if response.status_code in (400, 422) else GraderError
            raise kind(f"{self._who} answered {response.status_code}{_words(body)}")
        if not isinstance(body, dict):
            raise GraderError(f"{self._who}'s server did not answer a completion")
        return body


def upstream_of(name: str | None, service: Service, where: str) -> Upstream:
    """The upstream named, else the default one; ConfigError where there is none."""
    name = name or service.default_upstream
    if name is None or name not in service.upstreams:
        known = ", ".join(sorted(service.upstreams)) or "none is configured"
        raise ConfigError(f"{where}: upstream = {name!r}: not an upstream of the config: {known}")
    return service.upstreams[name]


def _words(body: Any) -> str:
    """What an error body says, in any of the usual shapes."""
    said = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail")
    return f": {said[:300]}" if isinstance(said, str) and said else ""
