"""A real vLLM on the CPU, started once for a whole test run.

It lives in an environment of its own (`make .venv-vllm/ready`, part of `make test`) because it pins
other versions than ours. It starts in one to three minutes, more on a busy machine.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.ports import find_free_port

ROOT = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")
START_SECONDS = 1200
"""A new machine reads two gigabytes of libraries for the first time."""
SLOTS = 5
CPU = ("--dtype", "float32")
OPTIONS = (
    # One slot more than adapters: on the CPU the base model is answered by what is in the last.
    *("--enable-lora", "--max-loras", str(SLOTS), "--max-lora-rank", "16"),
    *("--enforce-eager", "--max-num-seqs", "16", "--served-model-name", "base"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Bound to cores, its threads would stand in line with those of the other tests.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@contextmanager
def vllm_listening(base: Path, log: Path, options: Sequence[str] = CPU) -> Iterator[str]:
    """Its address up to /v1, once it answers."""
    assert PYTHON.exists(), f"{PYTHON} is not there: run `make .venv-vllm/ready` once"
    port = find_free_port()
    command = (
        *(str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(base), "--host", "127.0.0.1", "--port", str(port), *OPTIONS, *options),
    )
    # PYTHONPATH would bring our packages, of other versions, before its own.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env={**kept, **ENVIRONMENT}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        root = f"http://127.0.0.1:{port}"
        _wait(process, root, log)
        yield f"{root}/v1"
    finally:
        _stop(process)


def _wait(process: "subprocess.Popen[bytes]", root: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(root):
        assert process.poll() is None, f"vLLM ended: {log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"no answer yet: {log.read_text()[-3000:]}"
        time.sleep(0.5)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    # The whole process group: its workers outlive their parent.
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def _healthy(root: str) -> bool:
    try:
        return httpx.get(f"{root}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
