"""Which adapters the model servers can serve: plain LoRA, as vLLM takes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEYOND = (
    "use_dora",
    "modules_to_save",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "lora_bias",
)
"""Settings of PEFT that make more of an adapter than two matrices a layer."""


def refusal(config: Mapping[str, Any], max_rank: int | None = None) -> str | None:
    """Why an adapter of this `adapter_config.json` cannot be served, if so."""
    if config.get("peft_type") != "LORA":
        return f"peft_type is {config.get('peft_type')!r}; only LORA can be served"
    for key in BEYOND:
        if config.get(key):
            return f"{key} is set; only plain LoRA can be served"
    if config.get("bias", "none") != "none":
        return f"bias is {config['bias']!r}; only 'none' can be served"
    ranks = [config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]
    if max_rank is not None and max(ranks) > max_rank:
        return f"rank {max(ranks)} is above {max_rank}, which is all that the upstream takes"
    return None


def refusal_of(folder: Path, max_rank: int | None = None) -> str | None:
    """The same of a folder; one without a config is no PEFT adapter and is not judged here."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"adapter_config.json cannot be read: {error}"
    if not isinstance(config, dict):
        return "adapter_config.json is no object"
    return refusal(config, max_rank)
