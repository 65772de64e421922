"""Builders with sensible defaults, so that a test states only what it is about."""

import hashlib
from pathlib import Path
from typing import Any

import yaml

from everlearn.config import Service, load
from everlearn.events import Completion, Feedback
from everlearn.ids import new_id


class FakeClock:
    """A clock that moves only when told."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def make_completion(**overrides: Any) -> Completion:
    """An ordinary answered chat request."""
    fields: dict[str, Any] = {
        "completion_id": new_id("cmpl"),
        "received_at": 1_800_000_000.0,
        "endpoint": "chat/completions",
        "status": "ok",
        "http_status": 200,
        "latency_ms": 12.5,
        "task": "text2sql",
        "version": "base",
        "arm": "champion",
        "probability": 1.0,
        "unit": "user-1",
        "upstream": "local",
        "model_requested": "text2sql",
        "model_served": "base",
        "request": (
            b'{"model":"text2sql","messages":[{"role":"user","content":"how many orders?"}]}'
        ),
        "response": (
            b'{"id":"chatcmpl-1","choices":[{"index":0,"finish_reason":"stop","message":'
            b'{"role":"assistant","content":"SELECT count(*) FROM orders"}}],'
            b'"usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16}}'
        ),
    }
    return Completion(**{**fields, **overrides})


def make_feedback(**overrides: Any) -> Feedback:
    """A thumbs-up."""
    fields: dict[str, Any] = {
        "feedback_id": new_id("fb"),
        "received_at": 1_800_000_001.0,
        "kind": "binary",
        "name": "thumbs",
        "value_bool": True,
        "author": "end_user",
    }
    return Feedback(**{**fields, **overrides})


def make_service(folder: Path, **overrides: Any) -> Service:
    """A config in `folder` with one upstream `local` and the default upstream set.

    MLflow is at the discard port, so that no test finds somebody else's server by default.
    """
    content: dict[str, Any] = {
        "upstreams": {"local": {"base_url": "http://127.0.0.1:8100/v1", "kind": "vllm"}},
        "default_upstream": "local",
        "mlflow": {"tracking_uri": "http://127.0.0.1:9"},
        **overrides,
    }
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    (folder / "everlearn.yaml").write_text(yaml.safe_dump(content))
    return load(folder / "everlearn.yaml")


def sha256(text: str) -> str:
    """Hex digest, as a key's config wants it."""
    return hashlib.sha256(text.encode()).hexdigest()
