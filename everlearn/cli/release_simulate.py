"""`everlearn release simulate`: what a task's rules would do, before anybody is exposed to them."""

from typing import Any

import click

from everlearn.cli import config_option, json_option

UNITS = ("auto", "user", "conversation", "request")


@click.command("simulate")
@click.argument("task")
@click.option(
    "--effect", type=click.FloatRange(-1, 1), default=0.0, help="True gain (0.1: 10 points)."
)
@click.option("--runs", type=click.IntRange(1, 100_000), default=2000, show_default=True)
@click.option("--traffic", type=click.FloatRange(1), help="Requests a day; else as seen lately.")
@click.option("--users", type=click.IntRange(1), help="So many, who return; else each comes once.")
@click.option(
    "--conversation", type=click.FloatRange(1), help="Requests in one; else as seen lately."
)
@click.option("--unit", type=click.Choice(UNITS), help="Instead of release.unit.")
@click.option("--base", type=click.FloatRange(0, 1), help="The champion's mean of the primary.")
@click.option("--answering", type=click.FloatRange(0, 1), help="Share of requests it hears of.")
@click.option(
    "--response-bias",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="How many times as often the candidate's satisfied users answer.",
)
@click.option(
    "--judge-agreement",
    type=click.FloatRange(0, 1),
    help="How often the grader of every answer says what a person would.",
)
@click.option(
    "--judge-favour",
    type=click.FloatRange(-1, 1),
    default=0.0,
    help="How much oftener a judge that people correct (release.labels) likes the candidate.",
)
@click.option(
    "--label-share",
    type=click.FloatRange(0, 1, min_open=True),
    help="Of the answers, that people label there; else labels.random_percent.",
)
@click.option(
    "--shadow-pairs",
    is_flag=True,
    help="Instead: both versions answer every prompt, and a judge compares them unseen.",
)
@click.option(
    "--challengers",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="So many at once, of whom the first has the effect and the others none.",
)
@click.option(
    "--slower",
    "slower_seconds",
    type=click.FloatRange(0),
    default=0.0,
    help="Seconds, of the candidate.",
)
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Instead of max_seconds.")
@click.option(
    "--level", type=click.FloatRange(0, 1, min_open=True), help="Else the next release's."
)
@click.option("--seed", type=int, default=0)
@click.option("--plot", type=click.Path(dir_okay=False), help="A picture of it: .png or .svg.")
@json_option
@config_option
def command(
    task: str,
    runs: int,
    level: float | None,
    days: float | None,
    unit: str | None,
    seed: int,
    plot: str | None,
    shadow_pairs: bool,
    challengers: int,
    as_json: bool,
    config_path: str | None,
    **truth: Any,
) -> None:
    """Thousands of releases by the rules of TASK, through the very code that decides live."""
    import json

    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task
    from serving.release.budget import Budget, next_level
    from serving.release.picture import draw_trial, fit
    from serving.release.rehearse_pairs import compared
    from serving.release.rehearse_several import lines_several, told_several
    from serving.release.seen import DAY_SECONDS, seen
    from serving.release.trial import Truth, lines, told, trial
    from serving.release.verbs import Desk

    path = None if plot is None else fit(plot)
    service = load(config_path)
    declared = load_task(service, task)
    asked_for = {"max_seconds": None if days is None else days * DAY_SECONDS, "unit": unit}
    changed = {name: value for name, value in asked_for.items() if value is not None}
    if changed:
        release = declared.release.model_copy(update=changed)
        declared = declared.model_copy(update={"release": release})
    rules = declared.release_rules
    traffic = Desk(service, declared).book.traffic(task)
    budget = traffic.budget if traffic else Budget()
    level = level or next_level(budget, rules.expected_releases, rules.alpha)
    supposed = Truth(**truth)
    known = seen(open_lake(service), task, rules)
    if challengers > 1:
        paired = shadow_pairs or rules.shadow_pairs is not None
        _only_plain({**truth, "shadow_pairs": paired, "plot": plot, "labels": rules.labels})
        asked = trial(declared, supposed, known, level)
        found = told_several(asked, challengers, runs, seed)
        rows = lines_several(found)
    elif shadow_pairs or rules.shadow_pairs is not None:
        ends, found, rows = compared(rules, supposed, known, level, runs=runs, seed=seed)
    else:
        asked = trial(declared, supposed, known, level)
        ends = asked.run(runs, seed)
        found = told(asked, ends)
        rows = lines(found)
    result = {"task": task, "effect": supposed.effect, **found}
    if path is not None and challengers == 1:
        draw_trial(path, result, ends)
    click.echo(json.dumps(result) if as_json else "\n".join(rows))


def _only_plain(asked: dict[str, Any]) -> None:
    """InputError for what is not played of several challengers."""
    from everlearn.errors import InputError

    plain = ("effect", "traffic", "base", "answering", "judge_agreement")
    usual = (None, False, 0.0, 1.0)
    more = [name for name, value in asked.items() if name not in plain and value not in usual]
    if more:
        raise InputError(
            f"--challengers: {', '.join(more)}: tried of one challenger only; of several say "
            f"{', '.join(plain)}"
        )
