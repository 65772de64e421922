"""The command that starts a child with nothing of this machine in it: bubblewrap's arguments.

- In it: the interpreter, its standard library, the system's shared libraries, named packages, our
  own programs for children and the named files, all read-only. No other file, no folder to write
  to, no /proc, no /sys, no /etc, no environment, no network, no other process.
- For what starts programs besides: /usr read-only, and a /tmp in memory, which ends with it.
- Own user, process, network, IPC and host-name namespaces, no capability; ends with its parent.
- What children refuse beyond that by system call stands in `children/seccomp.py`.
"""

import ctypes
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from everlearn.errors import GraderError

HINT = (
    "install it (`apt install bubblewrap libseccomp2`, or deploy/system-packages.sh), or set "
    "`sandbox: {isolation: none}` to run what models and graders write without protection"
)
PACKAGES = "/packages"
_ROOT = Path(__file__).resolve().parent.parent
_OURS = ("evaluators/__init__.py", "evaluators/rows.py", "evaluators/children")
_START = (
    "import sys; sys.path[:0] = {paths!r}; from evaluators.children.{program} import main; main()"
)


@functools.cache
def bubblewrap() -> str | None:
    """Path of bwrap, None where it is not installed."""
    return shutil.which("bwrap")


def problem() -> str | None:
    """Why nothing can be isolated on this machine, with the next step; None where it can."""
    if bubblewrap() is None:
        return f"isolation needs bubblewrap, which is not installed: {HINT}"
    return _trial()


@functools.cache
def _trial() -> str | None:
    """Once a process: whether the kernel and the libraries give what is asked of them."""
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return f"isolation needs libseccomp, which is not installed: {HINT}"
    command = [*_namespaces(), *_mounts(()), "--", _interpreter(), "-I", "-S", "-c", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        return None
    said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
    return (
        f"isolation does not work here: {said} (are user namespaces allowed? see "
        f"kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns): {HINT}"
    )


def plain(program: str) -> list[str]:
    """The child as an ordinary process: `sandbox: {isolation: none}`."""
    start = _START.format(paths=[str(_ROOT)], program=program)
    return [sys.executable, "-I", "-X", "utf8", "-c", start]


def isolated(
    program: str, packages: Sequence[str], files: Mapping[str, str], *, scratch_mb: int = 0
) -> list[str]:
    """The child in bubblewrap; `files` are paths of this machine by their path inside."""
    start = _START.format(paths=["/everlearn", PACKAGES], program=program)
    binds = [word for inside, path in files.items() for word in ("--ro-bind", path, inside)]
    return [
        *_namespaces(), *(_programs(scratch_mb) if scratch_mb else ()),
        *_mounts(tuple(packages)), *binds, "--remount-ro", "/", "--",
        _interpreter(), "-I", "-S", "-X", "utf8", "-c", start,
    ]  # fmt: skip


def _namespaces() -> list[str]:
    return [
        bubblewrap() or "bwrap", "--unshare-all", "--unshare-user", "--uid", "65534",
        "--gid", "65534", "--hostname", "sandbox", "--cap-drop", "ALL", "--clearenv",
        "--die-with-parent", "--new-session", "--chdir", "/",
    ]  # fmt: skip


def _programs(scratch_mb: int) -> Iterator[str]:
    """What installed programs need, and a folder to write to."""
    yield from ("--ro-bind", "/usr", "/usr", "--size", str(scratch_mb * 2**20), "--tmpfs", "/tmp")
    for name in ("/bin", "/sbin"):
        link = os.path.islink(name)
        yield from ("--symlink" if link else "--ro-bind", os.readlink(name) if link else name, name)
    for name in ("/etc/alternatives", "/etc/ld.so.cache"):
        yield from ("--ro-bind-try", name, name)


@functools.cache
def _mounts(packages: tuple[str, ...]) -> list[str]:
    words = ["--dev-bind", "/dev/null", "/dev/null"]
    for path in _system():
        words += ["--ro-bind", str(path), str(path)]
    hidden = Path(sysconfig.get_path("stdlib")) / "site-packages"
    if hidden.is_dir():
        words += ["--tmpfs", str(hidden), "--remount-ro", str(hidden)]
    for name in ("lib", "lib64"):
        if os.path.islink(f"/{name}"):
            words += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
    for name in _OURS:
        words += ["--ro-bind", str(_ROOT / name), f"/everlearn/{name}"]
    for package in packages:
        for path in _package(package):
            words += ["--ro-bind", str(path), f"{PACKAGES}/{path.name}"]
    return words


def _system() -> Iterator[Path]:
    """The interpreter, its standard library and the shared libraries, where they stand here."""
    base = Path(sys.base_prefix)
    found = {
        Path(_interpreter()),
        Path(sysconfig.get_path("stdlib")).resolve(),
        Path(sysconfig.get_path("platstdlib", vars={"platbase": sys.base_prefix})).resolve(),
        *(path.resolve() for path in base.glob("lib/libpython3*.so*")),
        *base.glob("lib/libpython3*.so*"),
        *Path("/usr/lib").glob("ld-linux*"),
    }
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for name in ("/lib64", "/usr/lib64", f"/lib/{multiarch}", f"/usr/lib/{multiarch}"):
        # a linked folder comes with what it links to
        if not name.endswith("/") and os.path.isdir(name) and not _linked(name):
            found.add(Path(name))
    return (path for path in sorted(found) if path.exists())


def _linked(name: str) -> bool:
    return any(os.path.islink(part) for part in (name, os.path.dirname(name)))


def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _package(name: str) -> list[Path]:
    """What `import name` reads: its folder or file, its metadata, the libraries of its wheel."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or spec.origin is None:
        raise GraderError(f"sandbox.packages: {name!r} is not installed beside everlearn")
    origin = Path(spec.origin)
    path = origin.parent if spec.submodule_search_locations else origin
    beside = (*path.parent.glob(f"{name}.libs"), *path.parent.glob(f"{name}-*.dist-info"))
    return [path, *beside]
