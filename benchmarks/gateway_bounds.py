"""What strangers can do to others' requests, and what a gateway weighs: `python -m
benchmarks.gateway_bounds`.

The gateway masks by every slow pattern of the tests at once. Ordinary requests come at a fixed
rate, by themselves and while one client sends up to 20 a second of the texts that make those
patterns slow, by turns, the best turn of each. Memory is the most that the worker ever had.
"""

import http.client
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks import gateway_servers as servers
from benchmarks.figures import figure
from benchmarks.gateway import load
from benchmarks.gateway_servers import Running

PER_SECOND, SECONDS, TURNS = 300, 4, 4
SLOW_BYTES = 2_000
"""Of a slow text."""
SLOW = {
    r"(a+)+$": "a",
    r"(a|a)*b": "a",
    r"(.*)*x": "a",
    r"^(([a-z])+.)+[A-Z]([a-z])+$": "a",
    r"(\w+\s?)*!": "a b ",
    r"([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+": "a",
    r"\s+$": " ",
    r"<(\w+)[^>]*>.*</\w+>": "<a>",
    r"\b\d{3}-\d{2}-\d{4}\b": "123-",
    r"[\w.]+@[\w.]+": "a.",
}
"""Patterns that a backtracking engine never ends on, and the text that does it."""


def hostile(port: int, stop: threading.Event, count: list[int]) -> None:
    """One client that sends slow texts, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    texts = [piece * (SLOW_BYTES // len(piece)) for piece in SLOW.values()]
    while not stop.is_set():
        said = {"role": "user", "content": texts[count[0] % len(texts)]}
        body = json.dumps({"model": "text2sql", "messages": [said]})
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        count[0] += 1
        stop.wait(0.05)


def beside_slow_patterns(ours: Running) -> dict[str, Any]:
    """The 99th percentile of ordinary requests, quiet and beside the hostile client."""
    quiet, beside, failed, count = list[float](), list[float](), 0.0, [0]
    for _ in range(TURNS):
        alone = load("rate", ours.port, PER_SECOND, SECONDS)
        stop = threading.Event()
        sender = threading.Thread(target=hostile, args=(ours.port, stop, count))
        sender.start()
        among = load("rate", ours.port, PER_SECOND, SECONDS)
        stop.set()
        sender.join()
        quiet.append(alone["p99_ms"])
        beside.append(among["p99_ms"])
        failed += alone["errors"] + among["errors"]
    return {
        "value": min(beside) / min(quiet), "quiet_p99_ms": min(quiet),
        "beside_p99_ms": min(beside), "slow_texts": count[0], "failed": failed,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as name:
        folder = Path(name).resolve()
        with (
            servers.nginx(folder, "upstream", 19121, None) as up,
            servers.everlearn(folder, 19122, [up.port], mask=list(SLOW)) as ours,
            servers.everlearn(folder, 19123, [up.port]) as plain,
        ):
            found = beside_slow_patterns(ours)
            value = found.pop("value")
            figure("gateway: p99 beside slow patterns", value, "ratio", goal="<= 2", **found)
            first = plain.peak_bytes() / 2**20
            load("rate", plain.port, 2000, 5)
            peak = plain.peak_bytes() / 2**20
            figure("gateway: peak memory", peak, "mb", goal="<= 80", started_mb=first)


if __name__ == "__main__":
    main()
