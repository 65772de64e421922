"""What made a version, beside its data: the program, its libraries, the base model's bytes.

Read at registration, on the machine that trained, for nothing of it can be known later.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from everlearn import __version__
from everlearn.config import Service
from everlearn.errors import EverlearnError
from everlearn.task import base_model_path, load_task

LIBRARIES = ("torch", "transformers", "peft", "trl")
PACKAGES = ("everlearn", "evaluators", "trainer", "registry")
"""Whose sources decide what is learned."""
_CHUNK_BYTES = 1 << 20


def origin(service: Service, task: str, adapter: Path) -> dict[str, str]:
    """Tags `code`, `libraries`, `base_model`, `base_digest` and `template_hash`; what cannot be
    known is left out."""
    found = {"code": code_version(), "libraries": libraries()}
    try:
        declared = load_task(service, task)
        found["base_model"] = declared.base_model
        found["base_digest"] = base_digest(base_model_path(service, declared))
    except (EverlearnError, OSError):
        pass  # a task file that has been changed since, or a folder that is not here
    found["template_hash"] = str(_notes(adapter).get("template_hash") or "")
    return {key: value for key, value in found.items() if value}


@cache
def code_version() -> str:
    """The release, and a hash of the sources: two programs of one release differ by it."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def libraries() -> str:
    """`torch 2.13.0, trl 1.16.0`: those that are installed."""
    return ", ".join(_installed())


def base_digest(base: str) -> str:
    """`sha256:` over names and bytes of a model's folder; `hub:` and the commit of one that came
    from a hub; empty where neither is on this machine."""
    folder = Path(base)
    if not folder.is_dir():
        return _hub_commit(base)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin", ".jinja", ".model"):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _hub_commit(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return ""
    return f"hub:{Path(found).parent.name}" if isinstance(found, str) else ""


def _installed() -> Iterator[str]:
    for name in LIBRARIES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _notes(adapter: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((adapter / "everlearn.json").read_text()))
    except (OSError, ValueError):
        return {}
