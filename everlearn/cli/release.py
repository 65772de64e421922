"""`everlearn release`: start, show, try out or abort the release of a version."""

from typing import TYPE_CHECKING, Any, NamedTuple

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
@click.option(
    "--also",
    metavar="VERSION",
    multiple=True,
    help="Another challenger at once; they share the traffic, the best that is proven is promoted.",
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
    also: tuple[str, ...],
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

    release = desk.start(
        Registry(service), version, ungated, also=also, trust_raters=trust_raters, look=look
    )
    expected = ahead[-1]
    if as_json and not wait:
        told = {"release_id": release.release_id, "alpha": release.alpha, "also": also}
        click.echo(json.dumps({"task": task, "version": version, **told, **expected.told()}))
    elif not as_json:
        click.echo(f"{task}: release {release.release_id} of version {version}: {release.reason}")
        if also:
            click.echo(f"beside it version {', '.join(also)}, each with an equal part of all")
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
    from serving.release.challengers import every
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
    release, now = traffic.release, time.time()
    lake = open_lake(service, read_only=True)
    if path is not None:
        draw_release(path, task, release, story(lake, task, release), traffic.budget)
    found = [_facts(lake, task, each, traffic, now) for each in every(traffic)]
    former = [arm.version for arm in chain(traffic)]
    if as_json:
        front, *beside = (facts.told() for facts in found)
        told: dict[str, Any] = {
            **front,
            "task": task,
            "beside": beside,
            "champion": traffic.champion.version,
            "former_champions": former,
            "watch": traffic.watch and msgspec.to_builtins(traffic.watch),
        }
        click.echo(json.dumps(told, default=str))
        return
    for facts in found:
        click.echo(_headline(task, facts.release, traffic.champion.version))
        click.echo("".join(f"{line}\n" for line in facts.lines(share)), nl=False)
    if former:
        click.echo(f"  `everlearn rollback {task} --to VERSION` goes back to: {', '.join(former)}")
    if traffic.watch is not None:
        click.echo(f"  {standing(traffic.watch, now)}")


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


class _Facts(NamedTuple):
    """What is told of one challenger's release."""

    release: "Release"
    events: list[dict[str, Any]]
    arms: dict[str, dict[str, Any]]
    unheard: list[dict[str, Any]]
    remaining: Any
    shadow_pairs: Any
    labels: Any

    def told(self) -> dict[str, Any]:
        """For programs."""
        import msgspec

        release = self.release
        found = self._asdict()
        for name in ("remaining", "shadow_pairs", "labels"):
            found[name] = found[name] and found[name]._asdict()
        return {
            "version": release.candidate.version,
            "phase": str(release.phase),
            "percent": release.percent,
            "reason": release.reason,
            "holding": release.holding,
            **found,
            "release": msgspec.to_builtins(release),
        }

    def lines(self, share: float) -> list[str]:
        """For people, below the headline."""
        release = self.release
        ahead = (self.remaining, self.shadow_pairs, self.labels)
        return [
            *(f"  {each.line()}" for each in ahead if each is not None),
            *(_arm(arm, told, release.parsed_rules.primary) for arm, told in self.arms.items()),
            *(_unheard(row, share) for row in self.unheard),
            *(_line(row, release.created_at) for row in self.events),
        ]


def _facts(lake: Any, task: str, release: "Release", traffic: Any, now: float) -> _Facts:
    from serving.release import pairs_ahead
    from serving.release.history import by_arm, events, unheard, untold
    from serving.release.labelled import labels_of
    from serving.release.outlook import REMAINING, remaining

    name = release.release_id
    rows = events(lake, task, name)
    units = lake.read(REMAINING, [name]).to_pylist()
    pairs = lake.read(pairs_ahead.PAIRED, [name]).to_pylist()
    return _Facts(
        release,
        rows + untold(traffic, rows, name),
        by_arm(lake, task, release),
        unheard(lake, name),
        remaining(release, units, now),
        pairs_ahead.standing(release, pairs, now),
        labels_of(lake, release),
    )


def _follow(desk: Any, lake: Any, task: str, release_id: str, as_json: bool) -> str:
    """Say each event as it comes; the phase at the end."""
    import json
    import time

    from serving.release.challengers import every
    from serving.release.history import events

    told = 0
    while True:
        traffic = desk.book.traffic(task)
        several = every(traffic)
        mine = release_id in (each.release_id for each in several)
        names = [each.release_id for each in several] if mine else [release_id]
        rows = sorted((row for name in names for row in events(lake, task, name)), key=_at)
        for row in rows[told:]:
            click.echo(json.dumps(row, default=str) if as_json else _line(row, rows[0]["at"]))
        told = len(rows)
        if not mine:
            return "replaced"
        if not traffic.release.active and not traffic.events:
            phases = {str(each.phase) for each in several}
            known = [phase for phase in EXIT if phase in phases]
            return (known or sorted(phases))[0]
        time.sleep(1.0)


def _at(row: dict[str, Any]) -> float:
    return float(row["at"])


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
