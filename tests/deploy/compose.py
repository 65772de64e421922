"""docker-compose.yml as a compose tool resolves it."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OURS = {"gateway": "gateway", "shipper": "ship", "collector": "collect"}
"""Services of our own images, and the verb of each."""


def resolved() -> dict[str, Any]:
    """The file with its required variables set."""
    text = (ROOT / "docker-compose.yml").read_text()
    content: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:\?\}", "secret", text))
    return content


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = resolved()["services"]
    return found


def environment(name: str) -> dict[str, str]:
    """The variables of one service."""
    values: dict[str, str] = services()[name]["environment"]
    return values
