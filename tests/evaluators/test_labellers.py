"""How far people agree with each other: known tables, and what stands in a lake."""

import pytest

from evaluators.labellers import agreement_of, labellers
from tests.evaluators.graders import CHECK, make_task
from tests.evaluators.lake import Rows


def test_a_known_table_of_two() -> None:
    # Cohen's textbook table: 20 both right, 15 both wrong, 5 and 10 apart.
    table = [(True, True)] * 20 + [(False, False)] * 15 + [(True, False)] * 5 + [(False, True)] * 10
    found = agreement_of([{"ann": ann, "bob": bob} for ann, bob in table])
    assert (found.answers, found.people, found.agreement) == (50, 2, 0.7)
    [pair] = found.pairs
    assert (pair.one, pair.other, pair.answers, pair.equal) == ("ann", "bob", 50, 35)
    assert pair.kappa == pytest.approx(0.4)
    # Krippendorff, nominal, by hand: 1 - 30 / 100 over 2 * 55 * 45 / (100 * 99).
    assert found.alpha == pytest.approx(1 - 0.3 / (2 * 55 * 45 / (100 * 99)))


def test_three_people_on_some_answers_each() -> None:
    said = [
        {"ann": True, "bob": True, "cy": True}, {"ann": False, "bob": False},
        {"bob": True, "cy": False},
    ]  # fmt: skip
    found = agreement_of(said)
    assert (found.answers, found.people) == (3, 3)
    assert found.agreement == pytest.approx(4 / 5)
    assert [(each.one, each.other, each.answers) for each in found.pairs] == [
        ("ann", "bob", 2), ("bob", "cy", 2), ("ann", "cy", 1),
    ]  # fmt: skip


def test_people_who_say_one_thing_only_have_no_alpha() -> None:
    found = agreement_of([{"ann": True, "bob": True}] * 3)
    assert (found.agreement, found.alpha, found.pairs[0].kappa) == (1.0, None, None)
    assert "alpha not defined" in str(found)


def test_the_lake_is_read_as_every_other_label_is(rows: Rows) -> None:
    task = make_task(rows.service.root, CHECK)
    both, one, apart, unsure = (rows.answered(f"q{number}", "yes") for number in range(4))
    for name, who, good in (
        (both, "ann", True), (both, "bob", False), (both, "bob", True),  # bob's last word counts
        (one, "ann", True), (apart, "ann", True),
    ):  # fmt: skip
        rows.said(name, author="expert", author_id=who, value_bool=good)
    rows.said(apart, author="expert", author_id="bob", kind="correction", value_text="no")
    rows.said(apart, author_id="cy", value_bool=True)  # a user is no labeller
    for who, stars in (("ann", 3.0), ("bob", 5.0)):
        rating = {"kind": "scalar", "name": "rating", "value_number": stars}
        rows.said(unsure, author="expert", author_id=who, **rating)
    found = labellers(rows.lake, task)
    assert (found.answers, found.people, found.agreement) == (2, 2, 0.5)
    assert "ann and bob: 1 of 2 alike" in str(found)


def test_nobody_twice_says_how_to_ask(rows: Rows) -> None:
    task = make_task(rows.service.root, CHECK)
    rows.said(rows.answered("q", "yes"), author="expert", author_id="ann")
    found = labellers(rows.lake, task)
    assert (found.answers, found.agreement, found.alpha) == (0, None, None)
    assert "labels.overlap_percent" in str(found)
