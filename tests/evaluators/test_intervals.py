"""How sure a share is, and rates that a judge and a few people make together."""

import random
from math import sqrt

import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from evaluators.intervals import Confusion, confusion, share
from evaluators.ppi import MIN_LABELS, Labelled, Rate, Seen, alone, rate


def test_of_independent_answers_the_interval_is_the_exact_one() -> None:
    outcomes = [1.0] * 45 + [0.0] * 15
    found = share(outcomes, [str(number) for number in range(60)])
    exact = binomtest(45, 60).proportion_ci(0.95, "exact")
    assert found.value == 0.75
    assert (found.lower, found.upper) == pytest.approx((exact.low, exact.high), abs=0.004)


def test_answers_of_one_user_count_less() -> None:
    outcomes = [1.0] * 45 + [0.0] * 15
    alike = [str(number // 5) for number in range(60)]
    apart = share(outcomes, [str(number) for number in range(60)])
    together = share(outcomes, alike)
    assert together.upper - together.lower > 1.7 * (apart.upper - apart.lower)
    assert share(outcomes, ["one"] * 60) == (0.75, 0.0, 1.0)


def test_where_nothing_varies_every_user_counts_once() -> None:
    found = share([1.0] * 60, [str(number // 3) for number in range(60)])
    # Twenty users, and not sixty answers.
    assert found.lower < binomtest(20, 20).proportion_ci(0.95, "exact").low
    assert found.upper == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_kappa_is_cohens(seed: int) -> None:
    source = random.Random(seed)
    pairs = [(source.random() < 0.6, source.random() < 0.7) for _ in range(50)]
    found = confusion(pairs)
    assert sum(found) == 50
    assert found.kappa == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))


def test_a_judge_that_says_one_thing_only_has_no_kappa() -> None:
    assert confusion([(True, True)] * 9 + [(True, False)]).kappa is None
    assert Confusion(9, 9, 0, 0).kappa == 1.0


def test_a_perfect_judge_makes_few_labels_worth_many() -> None:
    seen, people = _world(random.Random(1), accuracy=1.0)
    by_judge, by_labels = rate(seen, people), alone(people)
    assert by_judge is not None
    assert by_labels is not None
    assert by_judge.worth_labels > 5 * by_judge.labels
    assert by_judge.upper - by_judge.lower < 0.5 * (by_labels.upper - by_labels.lower)


def test_a_useless_judge_is_not_leaned_on() -> None:
    seen, people = _world(random.Random(2), accuracy=0.5)
    found = rate(seen, people)
    assert found is not None
    assert found.weight < 0.15
    assert found.worth_labels == pytest.approx(found.labels, rel=0.1)


def test_a_judge_that_is_always_kind_bends_nothing() -> None:
    """Its mean is 1; the truth is 0.7, and the labels say so."""
    seen, people = _world(random.Random(3), accuracy=0.8)
    kind = {unit: Seen(float(each.answers), each.answers) for unit, each in seen.items()}
    found = rate(kind, [each._replace(judged=1.0) for each in people])
    assert found is not None
    assert found.lower < 0.7 < found.upper < 0.9


def test_too_few_labels_say_nothing() -> None:
    seen, people = _world(random.Random(4), accuracy=0.8)
    assert rate(seen, people[: MIN_LABELS - 1]) is None
    assert rate(seen, [people[0]._replace(unit="u0")] * 20) is None


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """200 judges of varied bias, users with 1 to 10 answers that depend on each other; the
    benchmark has thousands."""
    source, inside, tried = random.Random(5), 0, 200
    for _ in range(tried):
        right = source.choice((0.5, 0.7, 0.9))
        seen, people = _world(source, accuracy=source.uniform(0.5, 1), right=right, units=150)
        found = rate(seen, people)
        assert found is not None
        inside += found.lower <= right <= found.upper
    # Two standard errors below what the interval claims.
    assert inside / tried > 0.95 - 2 * sqrt(0.95 * 0.05 / tried)


def test_labels_of_a_smaller_chance_stand_for_more_answers() -> None:
    people = [Labelled(f"a{n}", 1.0, 1.0, 0.5) for n in range(20)]
    people += [Labelled(f"b{n}", 0.0, 0.0, 0.1) for n in range(20)]
    found = alone(people)
    assert isinstance(found, Rate)
    assert found.rate == pytest.approx(20 * 2 / (20 * 2 + 20 * 10))


def _world(
    source: random.Random, *, accuracy: float, right: float = 0.7, units: int = 300
) -> tuple[dict[str, Seen], list[Labelled]]:
    """Users with rates of their own, a judge of that accuracy, a tenth labelled by chance."""
    seen, people = {}, []
    for number in range(units):
        own = source.betavariate(right * 4, (1 - right) * 4)
        answers, judged = source.randint(1, 10), 0.0
        for _ in range(answers):
            good = source.random() < own
            says = float(good == (source.random() < accuracy))
            judged += says
            if source.random() < 0.1:
                people.append(Labelled(f"u{number}", says, float(good), 0.1))
        seen[f"u{number}"] = Seen(judged, answers)
    return seen, people
