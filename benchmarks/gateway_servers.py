"""Servers of the gateway benchmark, each pinned to a core: upstreams and gateways on 0 and 1.

The gateway under test has core 0 for itself; upstream and load share core 1.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

GATEWAY_CORE, LOAD_CORE = 0, 1
GATEWAY_PYTHON = os.environ.get("GATEWAY_PYTHON", sys.executable)
"""Interpreter of the gateway: another build of the same version runs the same packages."""
BODIES = [
    b'{"messages":[{"role":"system","content":"You write SQL for an orders table with the columns '
    b'id, customer, status, amount, created_at."},{"role":"user","content":"how many orders are '
    b'overdue%s?"}],"model":"text2sql","temperature":0.0,"max_tokens":64,"user":"user-%d"}'
    % (b" by now" * (number % 16), number)
    for number in range(64)
]
"""What users ask: every body is another one, of 16 lengths."""
ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    '"finish_reason":"stop","message":{"role":"assistant","content":"SELECT count(*) FROM orders '
    'WHERE status = 1"}}],"usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16}}'
)
NGINX = """worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.err;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=8192; location / {{ {location} }} }}
}}
"""
PLAIN = f"default_type application/json; return 200 '{ANSWER}';"
PROXY = """proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_buffering off; proxy_read_timeout 300;"""


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    name: str
    port: int
    pid: int
    """Of the process that does the work."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Time on a core so far, of all threads: to the nanosecond, where `stat` counts ticks."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def resident_bytes(self) -> int:
        """Memory in RAM."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGESIZE"
        )

    def peak_bytes(self) -> int:
        """The most memory that it ever had in RAM."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@contextlib.contextmanager
def _process(
    command: list[str], core: int, log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=file, stderr=file, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)


def _wait(url: str, seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def nginx(folder: Path, name: str, port: int, upstream: int | None) -> Iterator[Running]:
    """nginx as a plain reverse proxy of `upstream`, or as the upstream itself if None."""
    location, core = (PLAIN, LOAD_CORE) if upstream is None else (PROXY, GATEWAY_CORE)
    config = folder / f"{name}.conf"
    config.write_text(
        NGINX.format(folder=folder, name=name, port=port, upstream=upstream or 1, location=location)
    )
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    with _process([binary, "-c", str(config)], core, folder / f"{name}.log") as process:
        _wait(f"http://127.0.0.1:{port}/")
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        )
        yield Running(name, port, int(children.stdout.split()[0]))


@contextlib.contextmanager
def everlearn(
    folder: Path, port: int, upstreams: list[int], durability: str = "write", workers: int = 1,
    mask: Sequence[str] = (),
) -> Iterator[Running]:  # fmt: skip
    """Our gateway with one task, durable log on."""
    capture = json.dumps({"durability": durability, "mask": list(mask)})
    home = folder / f"everlearn-{durability}-{workers}-{port}"
    (home / "tasks").mkdir(parents=True)
    first, *more = [f"http://127.0.0.1:{number}/v1" for number in upstreams]
    (home / "everlearn.yaml").write_text(
        f"upstreams: {{local: {{base_url: '{first}', replicas: {more}, kind: vllm}}}}\n"
        f"default_upstream: local\n"
        f"gateway: {{port: {port}, workers: {workers}, capture: {capture}}}\n"
    )
    (home / "tasks" / "text2sql.yaml").write_text(
        "task: text2sql\nbase_model: base\nupstream: local\n"
        "graders: [{name: thumbs, type: feedback}]\n"
    )
    command = [GATEWAY_PYTHON, "-m", "everlearn", "gateway", "--config"]
    command.append(str(home / "everlearn.yaml"))
    ours = [str(Path.cwd()), *(path for path in sys.path if path.endswith("site-packages"))]
    packages = {"PYTHONPATH": os.pathsep.join(ours)}
    with _process(command, GATEWAY_CORE, home / "log", packages) as process:
        _wait(f"http://127.0.0.1:{port}/ready")
        yield Running(f"everlearn ({durability})", port, process.pid)


@contextlib.contextmanager
def litellm(folder: Path, port: int, upstream: int) -> Iterator[Running]:
    """LiteLLM's proxy, one worker, logging off; $LITELLM names its binary."""
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: text2sql\n    litellm_params:\n"
        f"      model: openai/base\n      api_base: http://127.0.0.1:{upstream}/v1\n"
        "      api_key: sk-test\n"
        "litellm_settings: {telemetry: false, set_verbose: false, num_retries: 0}\n"
    )
    command = [os.environ["LITELLM"], "--config", str(config), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--num_workers", "1"]
    environment = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with _process(command, GATEWAY_CORE, folder / "litellm.log", environment) as process:
        _wait(f"http://127.0.0.1:{port}/health/liveliness", 180)
        yield Running("litellm", port, process.pid)


@contextlib.contextmanager
def streamer(folder: Path, port: int) -> Iterator[Running]:
    """The paced upstream."""
    command = [sys.executable, "-m", "benchmarks.gateway_streamer", str(port)]
    with _process(command, LOAD_CORE, folder / "streamer.log") as process:
        _wait(f"http://127.0.0.1:{port}/")
        yield Running("upstream", port, process.pid)
