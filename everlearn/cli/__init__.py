"""`everlearn VERB`: one file per verb, imported only when it is called.

Exit codes: 0 done or yes; 1 done and the answer is no; 2 bad usage, config or input;
3 not enough evidence; 4 something that is needed is away, try again; 5 (of `drift`) done, and
something has changed.
"""

import importlib
import importlib.abc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from io import TextIOWrapper

import click

from everlearn import __version__
from everlearn.errors import EverlearnError

VERBS = (
    ("up", "Start and supervise every process of the config on this machine."),
    ("demo", "Run the whole loop on examples/text2sql."),
    ("gateway", "Run the OpenAI-compatible gateway."),
    ("ship", "Move WAL records to Kafka."),
    ("collect", "Move events into the lake."),
    ("serve", "Run the local model server."),
    ("releases", "Run the release controller."),
    ("console", "Run the web console."),
    ("status", "Capture ledger, feedback joins, scores, champion and release of each task."),
    ("sql", "Read-only SQL over the lake."),
    ("import", "Existing logs and ratings into the lake."),
    ("evaluate", "Score what is not yet scored."),
    ("drift", "Has what is asked and answered changed?"),
    ("grade", "Run or check one grader."),
    ("grader", "Have a grader written from plain language."),
    ("snapshot", "Freeze a dataset."),
    ("train", "Train a candidate version."),
    ("lineage", "What a version was made of; where a unit's rows went."),
    ("erase", "A user's rows out of everything, with a receipt."),
    ("gate", "The offline gate, with the comparison that decided."),
    ("release", "Start, show or abort a release."),
    ("rollback", "Move all traffic back to the champion before."),
    ("labels", "The label queue."),
    ("comments", "What people wrote about answers, and which of it teaches."),
    ("judges", "Which judge may gate, and how many answers are right."),
    ("keys", "Give, list and take back client keys."),
    ("trust", "How far raters are believed, and who is quarantined."),
    ("backup", "A copy of the data folder, taken while everything runs."),
    ("maintain", "Compact the lake and expire old snapshots."),
    ("config", "Check and print the resolved config."),
)


WITHOUT_PANDAS = frozenset(
    {"collect", "console", "evaluate", "gate", "maintain", "release", "releases", "rollback", "sql",
     "status"}
)  # fmt: skip
"""Verbs that have no use for it. DuckDB imports it to ask of every time and list whether it is
pandas', MLflow to offer it: a second of processor time and 40 MB."""


class Verbs(click.Group):
    """Finds a verb in `everlearn/cli/VERB.py` when it is called, so that --help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, _ in VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in dict(VERBS):
            return None
        module = importlib.import_module(f"everlearn.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Of a verb that is none the nearest one is named."""
        nearest = get_close_matches(args[0], dict(VERBS), n=1)
        if args[0] not in dict(VERBS) and nearest:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {nearest[0]!r}?")
        if args[0] in WITHOUT_PANDAS:
            ctx.with_resource(_without_pandas())
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS))


class _NoPandas(importlib.abc.MetaPathFinder):
    """Says of pandas, unless it is loaded already, that it is not installed."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("this verb loads no pandas", name=fullname)


@contextmanager
def _without_pandas() -> Iterator[None]:
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False),
    help="Config file [default: $EVERLEARN_CONFIG, else everlearn.yaml]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="everlearn")
def group() -> None:
    """Train once, learn forever: capture, judge, retrain and release models by evidence."""


def main() -> None:
    """Entry point: an error raised on purpose is one line per problem and its exit code."""
    _speak_utf8()
    try:
        group(prog_name="everlearn")
    except EverlearnError as error:
        from everlearn.process_log import last_words

        last_words(str(error))
        sys.exit(error.exit_code)


def _speak_utf8() -> None:
    """What people asked is in every script, whatever the locale: a file or a pipe gets UTF-8, a
    terminal that cannot show a character a mark in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.encoding.lower() != "utf-8":
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8")
