"""docker-compose.yml as a compose tool resolves it, deploy/Dockerfile by its stages."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "everlearn.yaml"
FOLDERS = {
    each.name for each in ROOT.iterdir() if (each / "__init__.py").exists() and each.name != "tests"
}


def resolved() -> dict[str, Any]:
    """The file with its required variables set and the others at their defaults."""
    text = (ROOT / "docker-compose.yml").read_text()
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", re.sub(r"\$\{\w+:\?\}", "secret", text))
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = resolved()["services"]
    return found


def plain() -> dict[str, dict[str, Any]]:
    """Those that run without a profile."""
    return {name: one for name, one in services().items() if "profiles" not in one}


def ours() -> dict[str, dict[str, Any]]:
    """Those of an image that is built of deploy/Dockerfile."""
    built = {name: one["build"] for name, one in services().items() if "build" in one}
    return {
        name: services()[name]
        for name, build in built.items()
        if build["dockerfile"] == "deploy/Dockerfile"
    }


def environment(name: str) -> dict[str, str]:
    """The variables of one service."""
    values: dict[str, str] = services()[name].get("environment", {})
    return values


def of_everlearn(values: dict[str, str]) -> dict[str, str]:
    """Those variables that are settings."""
    return {name: value for name, value in values.items() if name.startswith("EVERLEARN_")}


class Image(NamedTuple):
    """A stage of deploy/Dockerfile with what it has from the stages before."""

    text: str
    folders: frozenset[str]
    locks: frozenset[str]

    def distributions(self) -> set[str]:
        """What its locks install."""
        lines = [(ROOT / lock).read_text().splitlines() for lock in self.locks]
        return {line.split("==")[0] for each in lines for line in each if line[:1].isalpha()}


def images() -> dict[str, Image]:
    """By target."""
    found: dict[str, Image] = {}
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    for stage in re.split(r"^FROM ", text, flags=re.M)[1:]:
        before, name = stage.split("\n", 1)[0].split(" AS ")
        above = found.get(before, Image("", frozenset(), frozenset()))
        copied = {
            word for line in re.findall(r"^COPY (.+) \S+$", stage, re.M) for word in line.split()
        }
        locks = re.findall(r"--require-hashes -r (\S+)", stage)
        found[name] = Image(
            above.text + stage, above.folders | (copied & FOLDERS), above.locks | set(locks)
        )
    return found
