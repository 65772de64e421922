"""Events as traffic makes them: 2 KB each, no two alike."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from everlearn.config import Service, load
from everlearn.events import Completion, encode
from everlearn.ids import new_id
from everlearn.log.wal import WalWriter

_DICE = random.Random(1)
_WORDS = ["".join(_DICE.choices("abcdefghijklmnopqrstuvwxyz", k=2 + n % 8)) for n in range(3000)]


def text(size: int) -> str:
    """About `size` characters of words."""
    return " ".join(_DICE.choices(_WORDS, k=size // 6))[:size]


def event() -> bytes:
    """One chat completion of about 2 KB, answered now."""
    question, answer = text(800), text(560)
    return encode(
        Completion(
            completion_id=new_id("cmpl"),
            received_at=time.time(),
            endpoint="chat/completions",
            status="ok",
            http_status=200,
            latency_ms=0.0,
            task="text2sql",
            version="7",
            arm="champion",
            probability=0.95,
            unit=f"user-{_DICE.randrange(5000)}",
            upstream="local",
            model_requested="text2sql",
            model_served="text2sql-0123456789ab",
            request=(
                b'{"model":"text2sql","temperature":0.7,"messages":[{"role":"user","content":"'
                + question.encode()
                + b'"}]}'
            ),
            response=(
                b'{"id":"chatcmpl-1","choices":[{"index":0,"finish_reason":"stop","message":'
                b'{"role":"assistant","content":"'
                + answer.encode()
                + b'"}}],"usage":{"prompt_tokens":160,"completion_tokens":110}}'
            ),
        )
    )


def fill(service: Service, count: int) -> None:
    """Append `count` events as one gateway run."""
    wal = WalWriter(service.wal_path, 0, service.gateway.capture)
    for _ in range(count):
        wal.append(event())
    wal.close()


@contextmanager
def temporary_service(**config: Any) -> Iterator[Service]:
    """A config in a folder that goes away."""
    with TemporaryDirectory(dir=".", prefix=".bench-") as name:
        folder = Path(name).resolve()
        (folder / "tasks").mkdir()
        (folder / "everlearn.yaml").write_text(yaml.safe_dump(config))
        yield load(folder / "everlearn.yaml")
