"""`make demo` installs what isolates graded code, or says what to do, and goes on."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "system-packages.sh"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """On a machine whose only programs are these: no apt-get, no bwrap."""
    for name in ("bash", "id"):
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    bash = str(folder / "bash")
    environment = {**os.environ, "PATH": str(folder)}
    return subprocess.run(
        [bash, str(SCRIPT), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_right_to_install_the_demo_goes_on_with_a_hint(tmp_path: Path) -> None:
    done = run(tmp_path, "sandbox")
    assert done.returncode == 0
    assert "bubblewrap" in done.stderr
    assert "isolation: none" in done.stderr


def test_the_tests_need_all_of_it(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, "bubblewrap" in done.stderr) == (1, True)


def test_the_benchmarks_need_nginx_and_wrk_too(tmp_path: Path) -> None:
    done = run(tmp_path, "bench")
    assert done.returncode == 1
    assert {"bubblewrap", "nginx-light", "wrk."} <= set(done.stderr.split())
    recipe = (ROOT / "Makefile").read_text().split("\nbench:", 1)[1].split("\n\n", 1)[0]
    assert "deploy/system-packages.sh bench" in recipe


@pytest.mark.parametrize("target", ["demo", "up"])
def test_what_grades_asks_for_the_sandbox_first(target: str) -> None:
    recipe = (ROOT / "Makefile").read_text().split(f"\n{target}:", 1)[1].split("\n\n", 1)[0]
    assert "deploy/system-packages.sh sandbox" in recipe
