"""Runs a program on one answer and tells how it ended and what it said last; one answer only.

- Input, files and output stand in a folder of its own. What it prints goes into files without a
  name, so that nothing it starts can write there but by what it inherits.
- `started` is told before it runs: an end of this process after that is the program's doing.
- In isolation this process is the only other one in reach, and all end with it. Without, what
  leaves the program's session stays.
"""

import math
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

from evaluators.children.protocol import Forbid, Handler, Note, Reply, cpu_limit, serve

KEPT_BYTES = 4096
OPEN_FILES = 256


def prepare(settings: dict[str, Any], forbid: Forbid) -> Handler:
    """The limits are the grader's."""

    def limit() -> None:
        """In the program's process, before it is the program."""
        memory, seconds = settings["memory_mb"] * 2**20, math.ceil(settings["cpu_seconds"]) + 1
        for kind, most in (
            (resource.RLIMIT_DATA, memory), (resource.RLIMIT_STACK, min(memory, 64 * 2**20)),
            (resource.RLIMIT_FSIZE, memory), (resource.RLIMIT_NOFILE, OPEN_FILES),
            (resource.RLIMIT_CORE, 0),
        ):  # fmt: skip
            resource.setrlimit(kind, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if settings["isolated"]:  # elsewhere every process of this user counts
            resource.setrlimit(resource.RLIMIT_NPROC, (settings["processes"],) * 2)
        forbid()
        cpu_limit(settings["cpu_seconds"])

    def handle(request: dict[str, Any], note: Note) -> Reply:
        folder = Path(tempfile.mkdtemp(prefix="answer-"))
        try:
            return _run(request, note, folder, limit)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return handle


def _run(request: dict[str, Any], note: Note, folder: Path, limit: Forbid) -> Reply:
    for name, text in request["files"].items():
        (folder / name).write_text(text, "utf-8", "surrogatepass")
    place = {"HOME": str(folder), "TMPDIR": str(folder)}
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **place}
    with (
        tempfile.TemporaryFile() as read,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as told,
    ):
        read.write(request["input"].encode(errors="surrogatepass"))
        read.seek(0)
        note("started")
        try:
            process = subprocess.Popen(
                request["command"], stdin=read, stdout=said, stderr=told, cwd=folder,
                env=environment, preexec_fn=limit, start_new_session=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            return {"failed": f"{type(error).__name__}: {error}"[:300]}
        try:
            status = process.wait(request["wall_seconds"])
        except subprocess.TimeoutExpired:
            status = None
        _end(process)
        return {"status": status, "output": _last(said), "errors": _last(told)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End its session; in isolation all that is left ends with this process."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def _last(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - KEPT_BYTES))
    return file.read(KEPT_BYTES).decode(errors="replace")


def main() -> None:
    """Entry point of the child."""
    serve(prepare)
