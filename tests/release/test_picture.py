"""Pictures: every question with its line, whatever has happened so far."""

from pathlib import Path

import numpy as np
import pytest

from serving.release.accounts import Accounts
from serving.release.analysis import Observation, interval, intervals
from serving.release.budget import Budget
from serving.release.observations import Counted
from serving.release.picture import draw_release
from serving.release.story import Story
from tests.release.world import make_release, make_rules

RULES = make_rules(co_primary="good", guardrails=("error_rate",))


def make_story(units: int) -> Story:
    dice, accounts = np.random.default_rng(1), Accounts(RULES)
    evidence, effect = [], []
    for n in range(units):
        treated = bool(dice.random() < 0.5)
        for name in ("thumbs", "error_rate", "good"):
            accounts.fold([Counted(name, f"u{n}", 0, 3 * n, treated, 0.5, 1.0, 0)])
        evidence.append((float(n), accounts.evidence()))
        effect.append((float(n), -0.5, 0.5))
    return Story([(0.0, 0.0, "started"), (1.0, 5.0, "step")], evidence, effect)


@pytest.mark.parametrize("units", [0, 1, 40])
def test_a_release_is_drawn_from_its_first_second_on(tmp_path: Path, units: int) -> None:
    path = tmp_path / "release.svg"
    draw_release(path, "text2sql", make_release(RULES), make_story(units), Budget(spent=0.02))
    assert path.read_text().count("<path") > 80


def test_the_interval_over_time_ends_where_the_interval_is() -> None:
    dice = np.random.default_rng(2)
    seen = [
        Observation(bool(dice.random() < 0.5), 0.5, float(dice.random() < 0.5)) for _ in range(90)
    ]
    found = intervals(seen, [30, 60, 90], grid=40)
    assert found[-1] == interval(seen, grid=40)
    assert found[0] == interval(seen[:30], grid=40)
    assert found[0][1] - found[0][0] >= found[-1][1] - found[-1][0]
    assert interval([], grid=40) == (-1.0, 1.0)
