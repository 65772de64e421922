"""A judge corrected by people: what it says can neither promote nor accuse, only save labels."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.release.analysis import Observation, Question, Score, interval, values_of
from serving.release.corrected import Asked, Correction, Labels
from serving.release.labelled import full_share
from serving.release.rehearse import Labelling, Pace, People, Rates, rehearse
from serving.release.states import Phase
from tests.release.world import make_rules

UNIT = st.floats(0, 1)
PAST = st.lists(st.tuples(UNIT, UNIT), max_size=30)
RUNS = 200


def learned(past: list[tuple[float, float]]) -> Correction:
    found = Correction()
    for judged, label in past:
        found.read(judged, Asked(0.5, True, label))
    return found


@settings(max_examples=60, deadline=None)
@given(PAST, UNIT | st.just(float("nan")), UNIT, st.floats(0.01, 1))
def test_in_the_mean_a_unit_is_worth_what_people_say_whatever_the_judge_says(
    past: list[tuple[float, float]], judged: float, word: float, share: float
) -> None:
    drawn = learned(past).read(judged, Asked(share, True, word)).value[0]
    left = learned(past).read(judged, Asked(share, False, float("nan"))).value[0]
    assert share * drawn + (1 - share) * left == pytest.approx(word, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(PAST, UNIT | st.just(float("nan")), UNIT | st.just(float("nan")), st.floats(0.01, 1))
def test_a_unit_lies_within_the_bounds_that_its_stake_was_made_for(
    past: list[tuple[float, float]], judged: float, word: float, share: float
) -> None:
    for drawn in (True, False):
        unit = learned(past).read(judged, Asked(share, drawn, word))
        low, high = unit.value - unit.doubt, unit.value + unit.doubt
        assert unit.low[0] - 1e-9 <= low[0] <= high[0] <= unit.high[0] + 1e-9
        assert bool(unit.doubt[0]) == (drawn and np.isnan(word))


def test_what_is_bet_on_a_unit_does_not_depend_on_it() -> None:
    """Mean, variance and bounds are of the past alone."""
    ahead = {
        tuple(np.ravel([unit.mean, unit.variance, unit.low, unit.high]).tolist())
        for judged, drawn, word in ((0.0, True, 1.0), (1.0, True, 0.0), (float("nan"), False, 0.5))
        for unit in [learned([(0.2, 0.1), (0.9, 1.0)]).read(judged, Asked(0.1, drawn, word))]
    }
    assert len(ahead) == 1


class Crowd(NamedTuple):
    """Units of many releases at once, and what judge and people say of them."""

    effect: float = 0.0
    agreement: float = 0.8
    favour: float = 0.0
    share: float = 0.2
    unlabelled: float = 0.0
    """Of the champion's good and of the candidate's bad answers: who would speak against it."""

    def play(self, units: int, *, corrected: bool = True) -> Score:
        dice = np.random.default_rng(5)
        score = Score([Question(0.0, 1), Question(0.0, -1)], RUNS)
        judge = Labelling(agreement=self.agreement, favour=self.favour)
        for _ in range(units):
            treated = (dice.random(RUNS) < 0.5).astype(float)
            word = (dice.random(RUNS) < 0.6 + self.effect * treated).astype(float)
            judged: Any = judge.judged(word, treated, dice)
            drawn = dice.random(RUNS) < self.share
            silent = (word != treated) & (dice.random(RUNS) < self.unlabelled)
            asked = Asked(self.share, drawn, np.where(drawn & ~silent, word, np.nan))
            score.update(treated, 0.5, judged, asked=asked if corrected else None)
        return score


def crossed(score: Score, question: int, level: float = 0.05) -> float:
    return float(np.mean(score.peak[:, question] >= np.log(1 / level)))


@pytest.mark.parametrize("favour", [0.1, -0.1])
def test_a_judge_that_favours_an_arm_neither_promotes_nor_accuses_an_identical_version(
    favour: float,
) -> None:
    """By the judge alone it would."""
    biased = Crowd(favour=favour)
    alone, corrected = biased.play(700, corrected=False), biased.play(700)
    wrong = 0 if favour > 0 else 1
    assert crossed(alone, wrong) >= 0.3
    assert max(crossed(corrected, 0), crossed(corrected, 1)) <= 0.05


def test_labels_that_never_come_promote_nobody() -> None:
    """Nobody labels what would speak against the candidate: an eighth of all answers."""
    assert crossed(Crowd(unlabelled=0.25, share=1.0).play(500), 0) <= 0.05


def test_a_judge_that_agrees_with_people_saves_labels_and_a_useless_one_costs_none() -> None:
    good, useless = (Crowd(0.15, agreement).play(700) for agreement in (0.9, 0.5))
    assert crossed(good, 0) >= crossed(useless, 0) + 0.15
    for score, least, most in ((good, 1.6, 2.8), (useless, 1.0, 1.1)):
        labels = score.labels()
        assert labels is not None
        ratio = float(np.mean([each.worth / each.labelled for each in labels]))
        assert least <= ratio <= most


def test_what_is_told_of_the_labels_counts_who_was_drawn_and_who_was_labelled() -> None:
    past = Correction()
    for label in (1.0, 0.0, float("nan")):
        past.read(label, Asked(0.5, True, label))
        past.read(label, Asked(0.5, False, float("nan")))
    found = past.labels()[0]
    assert (found.drawn, found.labelled) == (3, 2)
    assert found.line().startswith("2 units labelled by people, 1 not labelled in time; ")
    assert Labels(10, 10, 15.0).line() == (
        "10 units labelled by people; with the judge on every unit they tell as much as 15 without "
        "it: 5 labels saved"
    )


def test_the_interval_is_about_what_people_say() -> None:
    """The judge finds the candidate's answers always good; people find them no better."""
    dice = np.random.default_rng(3)
    seen = []
    for _ in range(600):
        treated, word = bool(dice.random() < 0.5), float(dice.random() < 0.6)
        asked = Asked(0.5, drawn := bool(dice.random() < 0.5), word if drawn else float("nan"))
        seen.append(Observation(treated, 0.5, 1.0 if treated else word, asked=asked))
    low, high = interval(seen)
    assert low < 0 < high < 0.35
    counted = values_of(seen)
    good = np.mean([value for value, each in zip(counted, seen, strict=True) if each.treated])
    assert 0.4 < good < 0.8


def test_a_whole_release_beside_a_biased_judge_is_decided_by_people() -> None:
    """The small form of the table in docs/releases.md."""
    rules = make_rules(
        primary="judge", labels={"wait_seconds": 3600}, guardrails=("error_rate",),
        max_seconds=1e9, harm_level=1e-9, futility_level=1e-9,
    )  # fmt: skip
    ends = {}
    for effect in (0.0, 0.2):
        people = People(labels=Labelling(share=0.3, favour=0.1, wait_seconds=3600))
        rates = {"error_rate": Rates(0.99, 0.99), "judge": Rates(0.6, 0.6 + effect)}
        ends[effect] = rehearse(
            rules, rates, alpha=0.05, runs=60, people=people, pace=Pace(0.1), most_units=1600,
            seed=4,
        )  # fmt: skip
    assert ends[0.0].share(Phase.PROMOTED) <= 0.05
    assert ends[0.2].share(Phase.PROMOTED) >= 0.8
    assert ends[0.2].seconds.min() > 3600


def test_the_share_that_counts_is_what_was_labelled_to_the_end_of_what_is_asked_first() -> None:
    places = [number / 1000 for number in range(100)]
    assert full_share(places, [True] * 100, 0.1) == 0.1
    assert full_share(places, [True] * 40 + [False] * 60, 0.1) == places[42]
    assert full_share(places, [number % 10 > 0 for number in range(100)], 0.1) is None
    assert full_share(places[:19], [True] * 19, 0.1) is None
