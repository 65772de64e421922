"""`make bench`: every benchmark in turn, one JSON line per figure, kept in `bench/results/`."""

import subprocess
import sys
from pathlib import Path

ROWS = (
    "wal",
    "collector",
    "kafka",
    "lake",
    "flat",
    "console",
    "gateway",
    "gateway_bounds",
    "training",
    "learning",
    "evidence",
    "release",
)
"""One module per group of figures, each runnable by itself: `python -m benchmarks.wal`."""


def main() -> None:
    """Run them all; exit 1 if one failed."""
    results = Path("bench") / "results"
    results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in sys.argv[1:] or ROWS:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            with (results / f"{name}.jsonl").open("w") as kept:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    kept.write(line)
        if process.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
