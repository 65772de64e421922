"""deploy/install-helm.sh builds one exact Helm, once, or says what is missing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.deploy.chart import helm

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "install-helm.sh"
VERSION = re.findall(r"^version=(v\d+\.\d+\.\d+)$", SCRIPT.read_text(), re.M)[0]


def run(home: Path) -> subprocess.CompletedProcess[str]:
    """In this home, on a machine with no program but bash, and those of the home."""
    bash = shutil.which("bash")
    assert bash is not None
    (home / "bash").symlink_to(bash)
    environment = {**os.environ, "PATH": str(home), "HOME": str(home)}
    return subprocess.run(
        [bash, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )


def place(home: Path, name: str, says: str) -> None:
    """A program of the home that says this, with its arguments."""
    file = home / name
    file.write_text(f'#!{home}/bash\necho "{says}"\n')
    file.chmod(0o755)


def test_the_right_version_is_left_alone(tmp_path: Path) -> None:
    place(tmp_path, "helm", VERSION)
    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_version_is_replaced_by_the_one_that_is_pinned(tmp_path: Path) -> None:
    place(tmp_path, "helm", "v3.0.0")
    place(tmp_path, "nice", "$* into $GOBIN")
    place(tmp_path, "go", "")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"helm.sh/helm/v3/cmd/helm@{VERSION} into {tmp_path}/go/bin" in done.stdout
    assert re.search(r"built in \d+ seconds", done.stdout)


def test_without_go_it_says_what_to_install(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert "Install Go 1.26" in done.stderr


def test_the_tests_run_the_helm_that_is_pinned() -> None:
    assert helm("version", "--template", "{{.Version}}").stdout == VERSION


def test_make_test_brings_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "\ntest: system " in makefile
    recipe = makefile.split("\nsystem:", 1)[1].split("\n\n", 1)[0]
    assert "\tdeploy/install-helm.sh" in recipe.splitlines()
