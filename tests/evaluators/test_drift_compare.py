"""The decision of a look, pure: levels over a life, exact tests, no alarm without drift."""

import itertools
import math
import random

import pytest
from scipy.stats import fisher_exact

from evaluators.drift.compare import alarms, changes, compare, fisher, level
from evaluators.drift.describe import Values
from evaluators.drift.language import language, words


def test_the_levels_of_a_whole_life_stay_within_its_budget() -> None:
    looks = 200_000
    spent = sum(level(look, 1.0) for look in range(1, looks))
    never_more = 1 / math.log(looks) / 0.2169
    assert 0.999 < spent + never_more < 1.001
    assert level(1, 1.0) < 0.0025
    assert all(level(t, 1.0) > level(t + 1, 1.0) for t in range(1, 100))
    assert level(10, 2.0) == pytest.approx(2 * level(10, 1.0))


def calm(chance: random.Random) -> Values:
    """A row of many metrics, some of them tied to each other."""
    size = chance.gauss(0, 1)
    return {
        "chars": size, "tokens": round(size, 1), "turns": float(chance.randint(1, 3)),
        "latency": chance.expovariate(1), "rare": chance.random() < 0.002,
        "refused": chance.random() < 0.02, "tool": chance.random() < 0.5,
        "language": chance.choices(("en", "de", "fr", "han"), (80, 15, 4, 1))[0],
        "finish": chance.choices(("stop", "length", "tool"), (97, 2, 1))[0],
        "score": float(chance.random() < 0.8), "given": None if chance.random() < 0.7 else True,
    }  # fmt: skip


def test_a_thousand_windows_without_drift_raise_at_most_ten_alarms() -> None:
    """Against one reference, so that an odd reference would be wrong a thousand times."""
    chance = random.Random(7)
    reference = [calm(chance) for _ in range(600)]
    raised = early = 0
    for look in range(1, 1001):
        found = changes(reference, [calm(chance) for _ in range(150)])
        raised += bool(alarms(found, level(look, 1.0), 0.0))
        early += bool(alarms(found, 0.05, 0.0))
    assert raised <= 10
    assert early <= 50 + 3 * 7, "a fixed level of 5 % is wrong in at most 5 % of the looks"


@pytest.mark.parametrize(("before", "now"), [(0, 25), (20, 35), (10, 0), (2000, 480), (3, 1)])
def test_rates_are_compared_exactly(before: int, now: int) -> None:
    table = [[before, 2000 - before], [now, 500 - now]]
    one_sided = min(fisher_exact(table, alternative=side)[1] for side in ("less", "greater"))
    assert fisher(before, 2000, now, 500) == pytest.approx(min(1.0, 2 * one_sided))


def test_every_kind_says_how_much_moved() -> None:
    share = compare("refused", [False] * 95 + [True] * 5, [False] * 80 + [True] * 20)
    assert share is not None
    assert (share.before, share.now, share.shift) == pytest.approx((0.05, 0.2, 0.15))
    number = compare("chars", [float(n) for n in range(100)], [float(n + 50) for n in range(100)])
    assert number is not None
    assert (number.shift, number.now - number.before) == pytest.approx((0.5, 50))
    category = compare("finish", ["stop"] * 90 + ["length"] * 10, ["stop"] * 60 + ["length"] * 40)
    assert category is not None
    assert category.kind == "category"
    assert category.shift == pytest.approx(0.3)
    assert category.detail in ("stop", "length")


def test_many_rare_categories_are_one() -> None:
    before = [f"code-{n}" for n in range(100)] * 5
    found = compare("finish", before, ["new"] * 200 + before[:300])
    assert found is not None
    assert (found.detail, found.p_value < 1e-10) == ("new", True)


@pytest.mark.parametrize(
    ("before", "now"), [([1.0] * 49, [2.0] * 500), ([True] * 100, [True] * 100), ([], [])]
)
def test_too_few_values_or_only_one_is_no_comparison(before: list[float], now: list[float]) -> None:
    assert compare("metric", before, now) is None


def test_an_alarm_wants_both_no_chance_and_enough_rows() -> None:
    before: list[Values] = [{"refused": n % 100 == 0} for n in range(2000)]
    now: list[Values] = [{"refused": n % 20 == 0} for n in range(1000)]
    found = changes(before, now)
    assert alarms(found, 0.05, 0.03)
    assert not alarms(found, 0.05, 0.05)
    assert not alarms(found, 1e-12, 0.03)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what is the total of the orders", "en"),
        ("wie hoch ist die Summe und was fehlt", "de"),
        ("quelle est la somme des commandes pour le mois", "fr"),
        ("cuál es la suma de los pedidos y qué falta en el mes", "es"),
        ("сколько заказов было в марте", "cyrillic"),
        ("三月有多少订单", "han"),
        ("注文はいくつありますか", "japanese"),
        ("كم عدد الطلبات", "arabic"),
        ("SELECT", "latin"),
        ("1 + 1 = ?", "none"),
        ("", "none"),
    ],
)
def test_the_language_of_a_question(text: str, expected: str) -> None:
    assert language(text) == expected


def test_words_are_folded_and_numbers_left_out() -> None:
    assert words("The order 4711, THE Order") == {"the", "order"}
    assert words("三月订单") == {"三月", "月订", "订单"}
    assert all(len(pair) == 2 for pair in itertools.chain(words("注文はいくつ")))
