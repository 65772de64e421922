"""On an NVIDIA GPU: vLLM in bfloat16 serves and verifies our adapters. docs/gpu.md.

$VLLM_PYTHON names the interpreter of an environment that holds the package `vllm` of a GPU.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlearn.config import Upstream
from serving.fleet import Fleet
from serving.verify import Tolerance, verify
from tests.serving.test_verify import greedy_probes
from tests.vllm_server import vllm_listening

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(1800)]

BFLOAT16_TOLERANCE = Tolerance(0.1)
"""Nats a token; on the CPU 0.011 were seen in the mean and 0.125 at the worst token."""


@pytest.fixture(scope="module")
def replicas(vllm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two replicas that share the GPU."""
    logs = tmp_path_factory.mktemp("replicas")
    options = ("--dtype", "bfloat16", "--gpu-memory-utilization", "0.3")
    with (
        vllm_listening(vllm_base, logs / "one.log", options) as one,
        vllm_listening(vllm_base, logs / "two.log", options) as two,
    ):
        yield [one, two]


def test_an_adapter_is_loaded_and_verified_on_two_replicas_in_seconds(
    replicas: list[str], vllm_base: Path, vllm_adapters: dict[str, Path]
) -> None:
    probes = greedy_probes(vllm_base, vllm_adapters["first"])
    upstream = Upstream(base_url=replicas[0], kind="vllm", replicas=(replicas[1],))
    started = time.monotonic()
    with Fleet(upstream) as fleet:
        fleet.load("first", vllm_adapters["first"])
    for address in replicas:
        found = verify(address, "first", probes, tolerance=BFLOAT16_TOLERANCE)
        assert found.ok, found.reason
    assert time.monotonic() - started < 5
    assert not verify(replicas[0], "base", probes, tolerance=BFLOAT16_TOLERANCE).ok
