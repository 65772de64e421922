"""`everlearn serve` as people start it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.serving.conftest import wait_until


def config(folder: Path, **model_server: Any) -> Path:
    file = folder / "everlearn.yaml"
    logs = {"format": "json", "requests": True}
    file.write_text(yaml.safe_dump({"model_server": model_server, "logging": logs}))
    return file


def serve(file: Path) -> "subprocess.Popen[str]":
    command = (sys.executable, "-m", "everlearn", "serve", "--config", str(file))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_serve_answers_tells_of_it_and_stops_on_sigterm_with_the_answer_under_way(
    base: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (tmp_path / "model").symlink_to(base)
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    process = serve(config(tmp_path, model="model", served_model_name="tiny", port=port))
    try:
        wait_until(lambda: _healthy(root), 120)
        body = {
            "model": "tiny",
            "prompt": "how many",
            "max_tokens": 200,
            "ignore_eos": True,
            "stream": True,
        }
        named = {"x-request-id": "order-7"}
        with httpx.stream(
            "POST", f"{root}/v1/completions", json=body, timeout=60, headers=named
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        _, stderr = process.communicate()
    told = [json.loads(each) for each in stderr.splitlines() if each.startswith("{")]
    (of_it,) = [each for each in told if each.get("request_id") == "order-7"]
    assert (of_it["process"], of_it["route"]) == ("model-server", "/v1/completions")
    assert "how many" not in stderr


@pytest.mark.parametrize("model", ["", "no-such-model"])
def test_without_a_model_serve_exits_2_with_one_line(tmp_path: Path, model: str) -> None:
    process = serve(config(tmp_path, model=model))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    last = json.loads(stderr.strip().splitlines()[-1])
    assert last["message"].startswith("model_server.model")


def _healthy(root: str) -> bool:
    try:
        return httpx.get(f"{root}/health", timeout=1).status_code == 200
    except httpx.TransportError:
        return False
