"""Each image holds what its verbs import: those folders and no others, those packages and no torch
where nothing asks for it. Read off the import graph, so a verb that grows makes this fail."""

import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from typing import Any

import grimp
import pytest

from tests.deploy.compose import FOLDERS, ROOT, images, ours

VERBS = {
    "gateway": ("gateway",),
    "collector": ("ship", "collect", "sql", "maintain"),
    "evaluators": ("evaluate", "grade", "keys"),
    "serving": ("releases", "gate"),
    "console": ("console", "release", "rollback"),
    "model-server": ("serve",),
    "trainer": ("train", "comments"),
    "airflow": tuple(
        sorted(
            {
                verb
                for file in (ROOT / "dags").glob("*.py")
                for verb in re.findall(r"everlearn (\w+)", file.read_text().split('"""', 2)[2])
            }
        )
    ),
}
EXTRAS = {"opentelemetry", "matplotlib"}
"""Imported only where they are installed: `otel`, and a picture of `release simulate`."""


@cache
def graph() -> Any:
    """What imports what, imports within functions too."""
    return grimp.build_graph(*sorted(FOLDERS), include_external_packages=True, cache_dir=None)


def reached(*modules: str) -> set[str]:
    """The top of everything that these import, directly or not."""
    found = set(modules).union(*(graph().find_upstream_modules(each) for each in modules))
    return {each.split(".")[0] for each in found}


def missing(packages: set[str], distributions: set[str]) -> set[str]:
    """Packages that none of these distributions brings."""
    by_package = packages_distributions()
    there = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
    return {
        package
        for package in packages - set(sys.stdlib_module_names) - FOLDERS - EXTRAS
        if not {re.sub(r"[-_.]+", "-", each).lower() for each in by_package.get(package, [package])}
        & there
    }


def test_every_target_that_compose_builds_is_looked_at() -> None:
    assert {one["build"]["target"] for one in ours().values()} == VERBS.keys()
    assert VERBS["airflow"] == (
        "comments", "drift", "evaluate", "gate", "labels", "maintain", "release", "train",
    )  # fmt: skip


@pytest.mark.parametrize("target", VERBS)
def test_an_image_holds_the_folders_that_its_verbs_import_and_no_more(target: str) -> None:
    wanted = reached(*(f"everlearn.cli.{verb}" for verb in VERBS[target])) & FOLDERS
    assert images()[target].folders - {"dags"} == wanted


@pytest.mark.parametrize("target", VERBS)
def test_an_image_installs_what_its_verbs_import(target: str) -> None:
    wanted = reached(*(f"everlearn.cli.{verb}" for verb in VERBS[target]))
    assert missing(wanted, images()[target].distributions()) == set()


def test_airflow_itself_can_read_the_tasks() -> None:
    base = images()["airflow"]._replace(locks=frozenset({"requirements/base.txt"}))
    assert "requirements/base.txt" in images()["airflow"].locks
    assert missing(reached("everlearn.config", "everlearn.task"), base.distributions()) == set()


@pytest.mark.parametrize("target", ["gateway", "collector", "evaluators", "serving", "console"])
def test_what_answers_people_holds_no_torch(target: str) -> None:
    assert not {"torch", "transformers", "trl"} & images()[target].distributions()


def test_a_package_that_no_lock_brings_would_be_noticed() -> None:
    assert missing({"torch"}, images()["gateway"].distributions()) == {"torch"}
