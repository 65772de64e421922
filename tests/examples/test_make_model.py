import re
from pathlib import Path

from click.testing import CliRunner

from examples.text2sql.make_model import command


def made(folder: Path) -> tuple[str, bytes]:
    done = CliRunner().invoke(command, ["--folder", str(folder), "--steps", "2"])
    assert done.exit_code == 0, done.output
    return done.output, (folder / "model.safetensors").read_bytes()


def test_the_same_script_makes_the_same_model(tmp_path: Path) -> None:
    _, first = made(tmp_path / "first")
    _, second = made(tmp_path / "second")
    assert first == second
    config = (tmp_path / "first" / "config.json").read_text()
    assert re.search(r'"dtype": "float16"', config)
