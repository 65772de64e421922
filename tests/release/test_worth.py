"""What releases are worth: estimated well, covered at every look, summed over the chain."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from everlearn.cli import group
from everlearn.ids import new_id
from serving.release.analysis import Observation
from serving.release.states import Event, Phase, Traffic
from serving.release.worth import SETTLE_SECONDS, Worth, bounded, estimate, worth
from tests.release.world import BASE, CANDIDATE, World

DAY = 86_400.0


def units(count: int, *, share: float, base: float, gain: float, seed: int) -> list[Observation]:
    dice = np.random.default_rng(seed)
    seen = []
    for _ in range(count):
        treated = bool(dice.random() < 1 - share)
        value = float(dice.random() < base + gain * treated)
        seen.append(Observation(treated, 1 - share, value))
    return seen


def test_the_gain_is_found_and_bounded() -> None:
    seen = units(20_000, share=0.1, base=0.6, gain=0.093, seed=2)
    low, high = bounded(seen, 0.05)
    gain = estimate(seen)
    assert gain is not None
    assert low < 0.093 < high
    assert low < gain < high
    assert abs(gain - 0.093) < 0.03
    assert 0.02 < high - low < 0.1


def test_the_truth_is_covered_at_every_look() -> None:
    missed = 0
    for seed in range(30):
        seen = units(400, share=0.2, base=0.5, gain=0.1, seed=seed)
        looks = [bounded(seen[:count], 0.2) for count in (50, 100, 200, 400)]
        missed += not all(low <= 0.1 <= high for low, high in looks)
    assert missed <= 6


def test_without_anybody_nothing_is_known_and_everything_possible() -> None:
    assert estimate([]) is None
    assert bounded([], 0.05) == (-1.0, 1.0)
    only = units(50, share=0.0, base=0.5, gain=0.0, seed=0)
    assert estimate(only) is None


class History(World):
    """Promotions a week apart and the users who came after each."""

    def promotion(self, version: str, before: str, at: float, rates: tuple[float, float]) -> None:
        dice = np.random.default_rng(int(version))
        rows, scores = [], []
        for number in range(1500):
            held = number % 10 == 0
            row: dict[str, Any] = {
                **{"completion_id": new_id("cmpl"), "task": "text2sql", "status": "ok"},
                **{"unit": f"{version}-{number}", "received_at": at + 60 + number},
                "arm": "holdback" if held else "champion",
                "probability": 0.1 if held else 1.0,
                "version": before if held else version,
            }
            rows.append(row)
            scores.append(
                {
                    **{"completion_id": row["completion_id"], "task": "text2sql"},
                    **{"evaluator": "thumbs", "created_at": row["received_at"] + 30},
                    "value": float(dice.random() < rates[not held]),
                }
            )
        event = Event(
            event="promoted", release_id=f"rel-{version}", version=version, phase="promoted",
            stage=0, percent=100.0, reason="won", at=at,
        )  # fmt: skip
        self.lake.commit(lambda t: t.append("completions", rows))
        self.lake.commit(lambda t: t.append("scores", scores))
        found = self.book.read("text2sql")
        traffic = Traffic(champion=BASE) if found is None else found[0]
        arm = msgspec.structs.replace(CANDIDATE, version=version)
        former = (traffic.last_good, *traffic.former) if traffic.last_good else ()
        changed = Traffic(champion=arm, last_good=traffic.champion, former=former, events=(event,))
        self.book.write("text2sql", changed, found[1] if found else 0)
        self.book.tell_lake("text2sql", self.lake)


@pytest.fixture
def history(make_world: Callable[..., World]) -> History:
    world: Any = make_world()
    world.__class__ = History
    return world  # type: ignore[no-any-return]


def test_the_worth_of_a_chain_is_the_sum_of_its_releases(history: History) -> None:
    now = history.clock.now()
    history.promotion("1", "base", now - 20 * DAY, (0.3, 0.6))
    history.promotion("2", "1", now - 10 * DAY, (0.6, 0.8))
    traffic = history.book.traffic("text2sql")
    assert traffic is not None

    def since(days: float) -> Worth:
        return worth(history.lake, history.task, traffic, now - days * DAY, now)

    both = since(99)
    assert [(part.version, part.before, part.units) for part in both.parts] == [
        ("1", "base", 1500), ("2", "1", 1500),
    ]  # fmt: skip
    assert both.gain is not None
    assert abs(both.gain - 0.5) < 0.12
    low, high = both.bounds
    assert low < 0.5 < high
    assert low > 0
    late = since(15)
    assert [part.version for part in late.parts] == ["2"]
    assert since(1).parts == ()
    # One release alone is known better than two together.
    assert late.bounds[1] - late.bounds[0] < high - low

    # Nobody counts before a day is over.
    early = worth(history.lake, history.task, traffic, 0, now - 10 * DAY + SETTLE_SECONDS / 2)
    assert early.parts[1].gain is None
    assert early.gain is None


def test_days_of_several_challengers_count_for_nothing(history: History) -> None:
    """There the champion's own answers do not say what share was left to it."""
    now = history.clock.now()
    history.promotion("1", "base", now - 20 * DAY, (0.3, 0.6))
    traffic = history.book.traffic("text2sql")
    assert traffic is not None
    before = worth(history.lake, history.task, traffic, 0, now)
    arms = [("challenger", "8", 0.5), ("challenger", "9", 0.5), ("champion", "1", 0.5)]
    dropped = [("challenger", "8", 0.5), ("champion", "1", 0.5), ("champion", "1", 1.0)]
    rows, scores = [], []
    for stage, kinds in enumerate((arms, dropped)):
        for number, (arm, version, share) in enumerate([*kinds, ("holdback", "base", 0.1)] * 20):
            name = {"completion_id": new_id("cmpl"), "task": "text2sql"}
            at = now - 5 * DAY + number
            row = {"unit": f"s{stage}-{number}", "arm": arm, "version": version, "status": "ok"}
            rows.append(
                {**name, **row, "probability": share, "release": "r", "stage": stage}
                | {"received_at": at}
            )
            scores.append({**name, "evaluator": "thumbs", "created_at": at, "value": 1.0})
    history.lake.commit(lambda t: t.append("completions", rows))
    history.lake.commit(lambda t: t.append("scores", scores))
    assert worth(history.lake, history.task, traffic, 0, now) == before


def test_the_verb_says_it_in_points(history: History) -> None:
    now = history.clock.now()
    history.promotion("1", "base", now - 20 * DAY, (0.3, 0.6))
    config = str(history.service.root / "everlearn.yaml")
    (history.service.root / "everlearn.yaml").write_text(
        json.dumps(history.service.model_dump(mode="json", exclude={"root"}, exclude_unset=True))
    )
    words = ["release", "worth", "text2sql", "--config", config]
    shown = CliRunner().invoke(group, [*words, "--since", "2020-03-01"])
    assert shown.exit_code == 0, shown.output
    assert "what all releases since 2020-03-01 are worth in thumbs: +" in shown.output
    assert "version 1 over base: +" in shown.output
    told = json.loads(CliRunner().invoke(group, [*words, "--json"]).output)
    assert told["interval_95"][0] < told["gain"] < told["interval_95"][1]
    none = CliRunner().invoke(group, [*words, "--since", "2099-01-01"])
    assert none.exit_code == 3
    assert "no release since 2099-01-01 is in force" in none.output


def test_the_watch_counts_too(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.promote()
    world.ask(300, {"thumbs": 0.9}, {}, held={"thumbs": 0.5})
    world.clock.sleep(20.0)
    world.loop.tick()
    traffic = world.book.traffic("text2sql")
    assert traffic is not None
    assert world.release.phase is Phase.PROMOTED
    found = worth(world.lake, world.task, traffic, 0.0, world.clock.now())
    assert 280 < found.parts[0].units <= 300
    assert found.gain is not None
    assert 0.1 < found.gain < 0.7
