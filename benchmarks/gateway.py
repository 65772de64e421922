"""The gateway beside nginx and LiteLLM, in one run: `python -m benchmarks.gateway [--quick]`.

Core 0 belongs to the gateway under test; load and upstream share core 1. Every figure is measured
in turns (ours, theirs, ours, theirs) and the best turn of each counts, so that what else the
machine does hits both alike. $LITELLM names the binary of LiteLLM, in an environment of its own;
without it that row is left out. $GATEWAY_PYTHON names another interpreter for our gateway.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import gateway_servers as servers
from benchmarks.figures import figure
from benchmarks.gateway_servers import BODIES, LOAD_CORE, Running
from gateway.routes import ArmRoute, Routes, TaskRoute, write_routes

Figures = dict[str, Any]


class Report:
    """One JSON line per figure on stdout, the same in plain words on stderr."""

    def versions(self) -> None:
        """What was measured. The build of the gateway's interpreter matters: one without profiles
        (pyenv's default) takes a sixth more of CPU than Debian's of the same version."""
        asked = [servers.GATEWAY_PYTHON, "-VV"]
        python = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False)
        print(
            f"gateway: {servers.GATEWAY_PYTHON} ({python}), uvloop {version('uvloop')}, "
            f"httptools {version('httptools')}; {nginx.stderr.strip()}",
            file=sys.stderr,
        )

    def add(self, what: str, goal: str, **figures: float) -> None:
        """One row: its first figure is the one with the goal."""
        name, value = next(iter(figures.items()))
        rest = dict(list(figures.items())[1:])
        figure(f"gateway: {what}", value, name, goal=goal, **rest)
        shown = ", ".join(f"{key} {number:,.3g}" for key, number in figures.items())
        print(f"{what:<48} goal {goal:<14} {shown}", file=sys.stderr, flush=True)


def wrk(folder: Path, port: int, seconds: int, connections: int = 32) -> Figures:
    """A closed loop: requests per second and errors."""
    script = folder / "post.lua"
    bodies = ", ".join(f"[[{body.decode()}]]" for body in BODIES)
    script.write_text(
        "local headers = {['content-type']='application/json', authorization='Bearer sk-test'}\n"
        f"local bodies, ready, at = {{{bodies}}}, {{}}, 0\n"
        "init = function() for n, body in ipairs(bodies) do\n"
        "  ready[n] = wrk.format('POST', nil, headers, body) end end\n"
        "request = function() at = at % #ready + 1; return ready[at] end\n"
    )
    done = subprocess.run(
        ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s",
         "-s", str(script), f"http://127.0.0.1:{port}/v1/chat/completions"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"Requests/sec:\s+([\d.]+)", done)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    broken = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done
    )
    count = re.search(r"(\d+) requests in", done)
    assert found is not None
    assert count is not None
    return {
        "per_second": float(found[1]),
        "count": int(count[1]),
        "failed": int(bad[1] if bad else 0) + sum(map(int, broken.groups() if broken else ())),
    }


def load(kind: str, port: int, *numbers: float) -> Figures:
    """Run one load process."""
    command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "benchmarks.gateway_load"]
    done = subprocess.run(
        [*command, kind, str(port), *(f"{number:g}" for number in numbers)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def closed_loop(report: Report, folder: Path, rivals: Sequence[Running], turns: int) -> None:
    """Requests per second at 32 connections, and what a request costs the gateway's core."""
    rates: dict[str, list[float]] = {one.name: [] for one in rivals}
    costs: dict[str, list[float]] = {one.name: [] for one in rivals}
    for _ in range(turns):
        for one in rivals:
            wrk(folder, one.port, 1)
            before = one.cpu_seconds()
            got = wrk(folder, one.port, 3)
            rates[one.name].append(got["per_second"])
            costs[one.name].append((one.cpu_seconds() - before) / got["count"] * 1e6)
    best = {name: max(values) for name, values in rates.items()}
    cheapest = {name: min(values) for name, values in costs.items()}
    ours, nginx = best["everlearn (write)"], best["nginx"]
    report.add(
        "non-stream requests/s, 32 connections", ">= 0.4 nginx", ratio=ours / nginx,
        everlearn=ours, nginx=nginx, fsync=best["everlearn (fsync)"], direct=best["upstream"],
        cpu_us=cheapest["everlearn (write)"], nginx_cpu_us=cheapest["nginx"],
    )  # fmt: skip


def against_litellm(report: Report, folder: Path, ours: Running, theirs: Running) -> None:
    """Requests per second; LiteLLM's logging is off, ours on."""
    rates: dict[str, float] = {}
    for one in (ours, theirs, ours):
        wrk(folder, one.port, 2)
        rates[one.name] = max(wrk(folder, one.port, 4)["per_second"], rates.get(one.name, 0.0))
    report.add(
        "non-stream requests/s against LiteLLM", ">= 150",
        ratio=rates[ours.name] / max(rates[theirs.name], 1e-9), everlearn=rates[ours.name],
        litellm=rates[theirs.name],
    )  # fmt: skip


def two_workers(report: Report, folder: Path, one: Running, two: Running, turns: int) -> None:
    """Two workers on the core that one had: what they cost each other.

    Two cores for them are twice this ratio; here load and upstream need the other core.
    """
    rates: dict[int, float] = {}
    for _ in range(turns):
        for running in (one, two):
            wrk(folder, running.port, 1)
            got = wrk(folder, running.port, 3)["per_second"]
            rates[running.port] = max(got, rates.get(running.port, 0.0))
    report.add(
        "two workers against one, on the same core", ">= 0.9 (1.8 / 2)",
        ratio=rates[two.port] / rates[one.port], two=rates[two.port], one=rates[one.port],
    )  # fmt: skip


def added_latency(report: Report, rivals: Sequence[Running], turns: int, seconds: float) -> None:
    """Median at 1,000 requests/s above that of the upstream asked directly."""
    medians: dict[str, list[float]] = {one.name: [] for one in rivals}
    for _ in range(turns):
        for one in rivals:
            got = load("rate", one.port, 1000, seconds)
            assert got["errors"] == 0, got
            medians[one.name].append(got["p50_ms"])
    best = {name: min(values) for name, values in medians.items()}
    direct = best["upstream"]
    for name, goal in (("everlearn (write)", "<= 0.25 ms"), ("everlearn (fsync)", "<= 0.75 ms")):
        report.add(
            f"added p50 at 1,000 requests/s, {name}", goal, added_ms=best[name] - direct,
            nginx_added_ms=best["nginx"] - direct, direct_ms=direct,
        )  # fmt: skip


def paced_streams(report: Report, rivals: Sequence[Running], turns: int, count: int) -> None:
    """CPU of 100 paced chunks, and the time to the first.

    The CPU of a turn changes by a half with what else the machine does. So the median of the turns'
    ratios stands beside that of the best, and what the two cost while both are under load at once,
    each with half of the streams: there the ratio stays within 3 %, but each finds the caches cold.
    """
    costs: dict[str, list[float]] = {one.name: [] for one in rivals}
    firsts: dict[str, list[float]] = {one.name: [] for one in rivals}
    for _ in range(turns):
        for one in rivals:
            before = one.cpu_seconds()
            got = load("streams", one.port, count, 100, 20)
            assert got["errors"] == 0, (one.name, got)
            costs[one.name].append((one.cpu_seconds() - before) / count * 1000)
            firsts[one.name].append(got["first_p50_ms"])
    ours, nginx = costs["everlearn (write)"], costs["nginx"]
    first = {name: min(values) for name, values in firsts.items()}
    report.add(
        f"CPU per stream of 100 chunks ({count} at once)", "<= 1.25 nginx",
        ratio=min(ours) / min(nginx), everlearn_ms=min(ours), nginx_ms=min(nginx),
        median_ratio=statistics.median(a / b for a, b in zip(ours, nginx, strict=True)),
        at_once_ratio=_at_once(rivals[-1], rivals[-2], turns, count // 2),
    )  # fmt: skip
    report.add(
        "added time to first chunk, p50", "<= 0.3 ms",
        added_ms=first["everlearn (write)"] - first["upstream"],
        nginx_added_ms=first["nginx"] - first["upstream"],
    )  # fmt: skip


def _at_once(ours: Running, theirs: Running, turns: int, count: int) -> float:
    """CPU of ours in that of theirs, both under load at the same time."""
    ratios = list[float]()
    for _ in range(turns):
        before = ours.cpu_seconds(), theirs.cpu_seconds()
        with ThreadPoolExecutor() as pool:
            loads = [
                pool.submit(load, "streams", one.port, count, 100, 20) for one in (ours, theirs)
            ]
            assert all(one.result()["errors"] == 0 for one in loads)
        ratios.append((ours.cpu_seconds() - before[0]) / (theirs.cpu_seconds() - before[1]))
    return statistics.median(ratios)


def many_streams(report: Report, ours: Running, count: int) -> None:
    """So many slow streams held by one worker."""
    before, peak, stop = ours.resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.2):
            peak = max(peak, ours.resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    got = load("streams", ours.port, count, 10, 2000)
    stop.set()
    watcher.join()
    report.add(
        f"{count:,} slow streams at once", "0 errors", errors=got["errors"], held=got["count"],
        resident_mb=peak / 2**20, kb_per_stream=(peak - before) / count / 1024,
    )  # fmt: skip


def changes(report: Report, folder: Path, ours: Running, kill: Callable[[], None]) -> None:
    """Route reloads, arm changes and the death of a replica under load: nothing may fail."""
    home = next(folder.glob(f"everlearn-write-1-{ours.port}"))
    stop = threading.Event()

    def swap() -> None:
        generation = 0
        while not stop.wait(0.3):
            generation += 1
            arms = [
                ArmRoute(version=str(generation + n), model=f"m{generation + n}") for n in (0, 1)
            ]
            route = TaskRoute(
                champion=arms[0], challenger=arms[1], challenger_share=0.5,
                release=f"r{generation}",
            )  # fmt: skip
            path = home / ".everlearn" / "routes.json"
            write_routes(path, Routes(generation=generation, tasks={"text2sql": route}))

    swapper = threading.Thread(target=swap)
    killer = threading.Timer(2.5, kill)
    swapper.start()
    killer.start()
    got = load("rate", ours.port, 2000, 5)
    stop.set()
    swapper.join()
    killer.join()
    report.add(
        "reloads, arm changes, replica death, 2,000 req/s", "0 failed", failed=got["errors"],
        answered=got["count"], p50_ms=got["p50_ms"], p99_ms=got["p99_ms"],
    )  # fmt: skip


def measure(report: Report, folder: Path, *, quick: bool) -> None:
    """Everything, in turns."""
    turns, seconds = (1, 2.0) if quick else (3, 3.0)
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(servers.nginx(folder, "upstream", 19101, None))
        rivals = [
            up,
            stack.enter_context(servers.nginx(folder, "nginx", 19102, up.port)),
            stack.enter_context(servers.everlearn(folder, 19103, [up.port])),
            stack.enter_context(servers.everlearn(folder, 19104, [up.port], "fsync")),
        ]
        added_latency(report, rivals, turns, seconds)
        closed_loop(report, folder, rivals, turns)
        two = stack.enter_context(servers.everlearn(folder, 19105, [up.port], workers=2))
        two_workers(report, folder, rivals[2], two, turns)
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(servers.streamer(folder, 19111))
        proxy = stack.enter_context(servers.nginx(folder, "nginx", 19112, up.port))
        ours = stack.enter_context(servers.everlearn(folder, 19113, [up.port]))
        paced_streams(report, [up, proxy, ours], 2 * turns, 100 if quick else 200)
        many_streams(report, ours, 500 if quick else 5000)
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(servers.nginx(folder, "one", 19121, None))
        other = contextlib.ExitStack()
        two = other.enter_context(servers.nginx(folder, "two", 19122, None))
        ours = stack.enter_context(servers.everlearn(folder, 19123, [one.port, two.port]))
        changes(report, folder, ours, other.close)
    if "LITELLM" in os.environ:
        with contextlib.ExitStack() as stack:
            up = stack.enter_context(servers.nginx(folder, "plain", 19131, None))
            ours = stack.enter_context(servers.everlearn(folder, 19133, [up.port]))
            slow = stack.enter_context(servers.litellm(folder, 19135, up.port))
            against_litellm(report, folder, ours, slow)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short turn of each")
    options = parser.parse_args()
    report = Report()
    report.versions()
    with tempfile.TemporaryDirectory(prefix="everlearn-bench-") as folder:
        measure(report, Path(folder), quick=options.quick)


if __name__ == "__main__":
    main()
