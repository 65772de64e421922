"""The replicas of one upstream: which adapters each holds, loading on all of them, unloading.

Guarantees:
- `load` is all or nothing: if one replica refuses, those that had accepted unload again.
- An adapter's name holds its content's hash, so a replica that lists the name has the adapter.
- Nothing is evicted here: what to unload is the caller's decision.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from everlearn import tls
from everlearn.config import Upstream
from everlearn.errors import ServingAway, ServingError

LOAD_TIMEOUT_SECONDS = 120.0
"""vLLM reads the weights before it answers; from cold network disks that takes a while."""


class Fleet:
    """Every replica of an upstream; use as a context manager or `close` it."""

    def __init__(self, upstream: Upstream) -> None:
        self.addresses = upstream.addresses
        connect = upstream.connect_timeout_seconds
        self._client = httpx.Client(
            headers=authorization(upstream),
            timeout=httpx.Timeout(LOAD_TIMEOUT_SECONDS, connect=connect),
            verify=tls.verify(upstream),
        )

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def loaded(self) -> dict[str, set[str]]:
        """Adapter names by replica address; ServingError names a replica that does not answer."""
        return {address: set(self.loaded_on(address)) for address in self.addresses}

    def loaded_on(self, address: str) -> list[str]:
        """Adapter names of one replica, the longest loaded first: the models with a parent."""
        with _attributed(address, "listing models"):
            models = _checked(self._client.get(f"{address}/models")).json()["data"]
            return [model["id"] for model in models if model.get("parent")]

    def load(self, name: str, path: Path) -> None:
        """Load an adapter folder, as the replicas see it, on every replica or on none."""
        accepted: list[str] = []
        try:
            for address in self.addresses:
                if name not in self.loaded_on(address):
                    self._load(address, name, path)
                    accepted.append(address)
        except ServingError:
            for address in accepted:
                self._unload(address, name)
            raise

    def unload(self, name: str) -> None:
        """Unload from every replica; one that does not have it is fine.

        A replica that fails does not keep the others from unloading.
        """
        _for_each(self.addresses, lambda address: self._unload(address, name))

    def unload_from(self, address: str, name: str) -> None:
        """Unload from one replica; one that does not have it is fine."""
        self._unload(address, name)

    def ensure(
        self, adapters: Mapping[str, Path], check: Callable[[str, str], None] | None = None
    ) -> dict[str, set[str]]:
        """Load what a replica lacks, as after its restart; returns what was loaded where.

        `check(address, name)` is asked about each that was loaded: where it raises ServingError,
        the replica loses the adapter again. One replica's failure does not stop the others.
        """
        added: dict[str, set[str]] = {}

        def complete(address: str) -> None:
            missing = adapters.keys() - set(self.loaded_on(address))
            for name in sorted(missing):
                self._load(address, name, adapters[name])
                try:
                    if check is not None:
                        check(address, name)
                except ServingError:
                    self._unload(address, name)
                    raise
                added.setdefault(address, set()).add(name)

        _for_each(self.addresses, complete)
        return added

    def _load(self, address: str, name: str, path: Path) -> None:
        body = {"lora_name": name, "lora_path": str(path.resolve())}
        with _attributed(address, f"loading {name}"):
            _checked(self._client.post(f"{address}/load_lora_adapter", json=body))

    def _unload(self, address: str, name: str) -> None:
        with _attributed(address, f"unloading {name}"):
            answer = self._client.post(f"{address}/unload_lora_adapter", json={"lora_name": name})
            if answer.status_code != 404:
                _checked(answer)


def authorization(upstream: Upstream) -> dict[str, str]:
    """The header with the upstream's key, if one is configured."""
    key = os.environ.get(upstream.api_key_env or "")
    return {"authorization": f"Bearer {key}"} if key else {}


def _for_each(addresses: tuple[str, ...], act: Any) -> None:
    """Act on every replica, then report all that failed at once."""
    problems = []
    for address in addresses:
        try:
            act(address)
        except ServingError as error:
            problems.append(str(error))
    if problems:
        raise ServingError("; ".join(problems))


@contextmanager
def _attributed(address: str, action: str) -> Iterator[None]:
    """Name the replica and the action in whatever goes wrong."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        answer = error.response
        kind = ServingAway if answer.is_server_error else ServingError
        raise kind(
            f"replica {address}: {action}: {answer.status_code}: {answer_message(answer)}"
        ) from error
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise ServingAway(f"replica {address}: {action}: {reason}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ServingError(f"replica {address}: {action}: unreadable answer") from error


def _checked(answer: httpx.Response) -> httpx.Response:
    return answer.raise_for_status()


def answer_message(answer: httpx.Response) -> str:
    """The message of an OpenAI error body, else the start of the body."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
