"""What this machine can hold."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from everlearn.errors import ConfigError


def available_memory() -> int:
    """Bytes that this process may take."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return known["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def native_bf16() -> bool:
    """Whether this CPU has instructions for products in bfloat16. Without them oneDNN computes them
    by float32, which is slower than float32 itself."""
    import torch

    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def four_bit(uses_cpu: bool) -> Any:
    """How weights are held in 4 bits; ConfigError where that is not to be had."""
    if uses_cpu:
        raise ConfigError("train.load_in_4bit = true: needs a CUDA device; there is none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "train.load_in_4bit = true: the package bitsandbytes is not installed: "
            "pip install 'everlearn[four-bit]'"
        )
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
