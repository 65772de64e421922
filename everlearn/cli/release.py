"""`everlearn release`: start, show, try out or abort the release of a version."""

from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option
from everlearn.cli.release_simulate import command as simulate

if TYPE_CHECKING:
    from serving.release.states import Release

EXIT = {"promoted": 0, "inconclusive": 3}


@click.group("release")
def command() -> None:
    """Start, show, try out or abort a release."""


command.add_command(simulate)


@command.command()
@click.argument("task")
@click.argument("version")
@click.option(
    "--ungated",
    metavar="REASON",
    help="Without a passed gate, for a reason that is recorded; it is then never promoted.",
)
@click.option(
    "--trust-raters",
    is_flag=True,
    help="Let those alone decide who answer: no co-primary metric, no allowance.",
)
@click.option(
    "--anyway",
    is_flag=True,
    help="Even if the traffic seen lately cannot decide it within release.max_seconds.",
)
@click.option("--wait", is_flag=True, help="Until it is decided; exit 0 only if promoted.")
@json_option
@config_option
def start(
    task: str,
    version: str,
    ungated: str | None,
    trust_raters: bool,
    anyway: bool,
    wait: bool,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Ramp VERSION under live traffic; the release controller decides from here on.

    Exit 3 if the traffic seen lately cannot decide it in its time.
    """
    import json
    import sys

    from everlearn.config import load
    from everlearn.errors import NotEnoughEvidence
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task
    from registry.versions import Registry
    from serving.release import outlook, pairs_ahead
    from serving.release.labelled import starting
    from serving.release.verbs import Desk

    service = load(config_path)
    declared = load_task(service, task)
    desk = Desk(service, declared)
    lake: Any = None
    ahead: list[outlook.Outlook | pairs_ahead.PairsOutlook] = []

    def look(asked: Any) -> None:
        nonlocal lake
        lake = lake or open_lake(service)
        paired = asked.parsed_rules.shadow_pairs is not None and ungated is None
        ahead.append((pairs_ahead if paired else outlook).outlook(lake, declared, asked))
        if ahead[-1].refused is not None and not anyway:
            raise NotEnoughEvidence(f"version {version} not released: {ahead[-1].refused}")

    release = desk.start(Registry(service), version, ungated, trust_raters=trust_raters, look=look)
    expected = ahead[-1]
    if as_json and not wait:
        told = {"release_id": release.release_id, "alpha": release.alpha}
        click.echo(json.dumps({"task": task, "version": version, **told, **expected.told()}))
    elif not as_json:
        click.echo(f"{task}: release {release.release_id} of version {version}: {release.reason}")
        click.echo("\n".join(expected.lines(release.parsed_rules)))
        if release.label_share is not None:
            click.echo(starting(release))
        if expected.refused is not None:
            click.echo(f"started anyway: {expected.refusal}")
    if wait:
        phase = _follow(desk, lake, task, release.release_id, as_json)
        sys.exit(EXIT.get(phase, 1))


@command.command()
@click.argument("task")
@click.option("--plot", help="A picture of it: .png, .svg or .pdf.")
@json_option
@config_option
def show(task: str, plot: str | None, as_json: bool, config_path: str | None) -> None:
    """The latest release: every step with the comparison that decided."""
    import json
    import time

    import msgspec

    from everlearn.config import load
    from everlearn.errors import NotFound
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task
    from serving.release import pairs_ahead
    from serving.release.history import by_arm, events, unheard, untold
    from serving.release.labelled import labels_of
    from serving.release.outlook import REMAINING, remaining
    from serving.release.states import chain
    from serving.release.verbs import Desk
    from serving.release.watch import standing

    path = None
    if plot is not None:
        from serving.release.picture import draw_release, fit
        from serving.release.story import story

        path = fit(plot)
    service = load(config_path)
    declared = load_task(service, task)
    share = declared.trust.max_share_per_rater
    traffic = Desk(service, declared).book.traffic(task)
    if traffic is None or traffic.release is None:
        raise NotFound(f"task {task} never had a release: its first champion answers")
    release = traffic.release
    lake = open_lake(service, read_only=True)
    rows = events(lake, task, release.release_id)
    if path is not None:
        draw_release(path, task, release, story(lake, task, release), traffic.budget)
    rows += untold(traffic, rows, release.release_id)
    arms = by_arm(lake, task, release)
    left_out = unheard(lake, release.release_id)
    former = [arm.version for arm in chain(traffic)]
    units = lake.read(REMAINING, [release.release_id]).to_pylist()
    left = remaining(release, units, time.time())
    pairs = lake.read(pairs_ahead.PAIRED, [release.release_id]).to_pylist()
    paired = pairs_ahead.standing(release, pairs, time.time())
    labels = labels_of(lake, release)
    if as_json:
        told: dict[str, Any] = {
            "task": task,
            "version": release.candidate.version,
            "phase": str(release.phase),
            "percent": release.percent,
            "reason": release.reason,
            "holding": release.holding,
            "remaining": left and left._asdict(),
            "shadow_pairs": paired and paired._asdict(),
            "labels": labels and labels._asdict(),
            "champion": traffic.champion.version,
            "former_champions": former,
            "watch": traffic.watch and msgspec.to_builtins(traffic.watch),
            "arms": arms,
            "unheard": left_out,
            "release": msgspec.to_builtins(release),
            "events": rows,
        }
        click.echo(json.dumps(told, default=str))
        return
    click.echo(_headline(task, release, traffic.champion.version))
    for line in [each.line() for each in (left, paired, labels) if each is not None]:
        click.echo(f"  {line}")
    if former:
        click.echo(f"  `everlearn rollback {task} --to VERSION` goes back to: {', '.join(former)}")
    if traffic.watch is not None:
        click.echo(f"  {standing(traffic.watch, time.time())}")
    for arm, told in arms.items():
        click.echo(_arm(arm, told, release.parsed_rules.primary))
    for row in left_out:
        click.echo(_unheard(row, share))
    for row in rows:
        click.echo(_line(row, release.created_at))


@command.command()
@click.argument("task")
@click.option("--reason", default="aborted by an operator", show_default=True)
@click.option(
    "--expect",
    metavar="STANDING",
    help="Only while the traffic stands at CHAMPION, or CHAMPION/RELEASE while one runs.",
)
@json_option
@config_option
def abort(
    task: str, reason: str, expect: str | None, as_json: bool, config_path: str | None
) -> None:
    """End the running release: its version gets no more traffic."""
    import json

    from everlearn.config import load
    from everlearn.task import load_task
    from serving.release.verbs import Desk

    service = load(config_path)
    traffic = Desk(service, load_task(service, task)).abort(reason, expect=expect)
    champion = traffic.champion.version
    if as_json:
        click.echo(json.dumps({"task": task, "phase": "aborted", "champion": champion}))
    else:
        click.echo(f"{task}: release aborted; version {champion} answers")


@command.command()
@click.argument("task")
@click.option("--since", help="Only releases promoted from then on (ISO time, UTC by default).")
@json_option
@config_option
def worth(task: str, since: str | None, as_json: bool, config_path: str | None) -> None:
    """What the releases in force have gained over the versions before them.

    Exit 3 while there is nothing to compare.
    """
    import json
    import sys
    import time

    from everlearn.cli.evaluate import iso_time
    from everlearn.config import load
    from everlearn.errors import NotFound
    from everlearn.lake.ducklake import open_lake
    from everlearn.task import load_task
    from serving.release.verbs import Desk
    from serving.release.worth import worth as worth_of

    begin = iso_time(since)
    service = load(config_path)
    declared = load_task(service, task)
    traffic = Desk(service, declared).book.traffic(task)
    if traffic is None:
        raise NotFound(f"task {task} never had a release: its first champion answers")
    lake = open_lake(service, read_only=True)
    found = worth_of(lake, declared, traffic, begin.timestamp() if begin else 0.0, time.time())
    if as_json:
        click.echo(json.dumps({"task": task, "since": since, **found.to_json()}))
    else:
        click.echo("\n".join(found.lines(task, since)))
    sys.exit(0 if found.gain is not None else 3)


def _follow(desk: Any, lake: Any, task: str, release_id: str, as_json: bool) -> str:
    """Say each event as it comes; the phase at the end."""
    import json
    import time

    from serving.release.history import events

    told = 0
    while True:
        release = desk.book.traffic(task).release
        rows = events(lake, task, release_id)
        for row in rows[told:]:
            click.echo(json.dumps(row, default=str) if as_json else _line(row, rows[0]["at"]))
        told = len(rows)
        pending = desk.book.traffic(task).events
        if release.release_id != release_id or (not release.active and not pending):
            return str(release.phase) if release.release_id == release_id else "replaced"
        time.sleep(1.0)


def _headline(task: str, release: "Release", champion: str) -> str:
    """Where it stands, and in a line of its own why it waits."""
    line = (
        f"{task}: version {release.candidate.version} is {release.phase} at "
        f"{release.percent:g} % (champion: {champion})"
    )
    held = release.active and release.holding is not None
    return f"{line}\n  holding: {release.holding}" if held else line


def _arm(arm: str, told: dict[str, Any], primary: str) -> str:
    """Quality and cost of one arm, as plain means: for people, the decision never uses them."""

    def number(value: float | None, form: str = ".3f") -> str:
        return "not known" if value is None else format(value, form)

    return (
        f"  {arm:<11}{told['answers']:6d} answers, {primary} {number(told['quality'])}, "
        f"cost per answer {number(told['cost'], '.3g')}, {number(told['seconds'])} s"
    )


def _unheard(row: dict[str, Any], share: float) -> str:
    return (
        f"  {row['metric']}: {row['words']} words left out and {row['units']} units unscored for "
        f"it, of users who spoke for more than {100 * share:g} % of a step's units "
        "(trust.max_share_per_rater)"
    )


def _line(row: dict[str, Any], since: float) -> str:
    return f"  {row['at'] - since:6.0f} s  {row['event']:<12}{row['percent']:5g} %  {row['reason']}"
