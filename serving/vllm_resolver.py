"""A plugin for vLLM: a replica that was just started finds adapters by their names.

It runs in vLLM's own environment and imports nothing of ours. With

    VLLM_PLUGINS=everlearn_adapters EVERLEARN_ADAPTERS=<data_dir>/adapters
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=true

vLLM asks it for a model it does not know. It answers only with a folder whose content has the hash
that its name ends with: what was verified under that name is what is loaded, or nothing.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}-(?P<digest>[0-9a-f]{12})")
FILES = ("adapter_model.safetensors", "adapter_config.json")


def find(home: Path, name: str) -> tuple[Path, str] | None:
    """The adapter's folder and its content's hash; None unless it is what its name says."""
    match = NAME.fullmatch(name)
    folder = home / name
    if match is None or not all((folder / file).is_file() for file in FILES):
        return None
    digest = hashlib.sha256()
    for file in FILES:
        digest.update((folder / file).read_bytes())
    found = digest.hexdigest()
    return (folder, found) if found.startswith(match["digest"]) else None


def register() -> None:
    """Called by vLLM at its start."""
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    home = Path(os.environ["EVERLEARN_ADAPTERS"])

    class Resolver(LoRAResolver):  # type: ignore[misc]
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            found = find(home, lora_name)
            if found is None:
                return None
            folder, digest = found
            # vLLM knows adapters by a number: the same content has the same one on every replica.
            number = int(digest[:7], 16) + 1
            return LoRARequest(lora_name=lora_name, lora_int_id=number, lora_path=str(folder))

    LoRAResolverRegistry.register_resolver("everlearn", Resolver())
