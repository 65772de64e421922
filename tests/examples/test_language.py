from collections import Counter
from itertools import islice

import pytest

from examples.text2sql.database import Orders
from examples.text2sql.language import TERMS, Kind, Question, part_of, questions


def take(kind: Kind, count: int, seed: int = 0) -> list[Question]:
    return list(islice(questions(kind, "asked", seed), count))


@pytest.mark.parametrize("kind", ["formal", "jargon"])
def test_every_question_and_its_misreading_run(kind: Kind) -> None:
    orders = Orders()
    for question in take(kind, 500):
        assert orders.rows(question.sql) is not None, question
        assert orders.rows(question.decoy) is not None, question


def test_the_same_seed_asks_the_same_questions_and_another_others() -> None:
    assert take("jargon", 20) == take("jargon", 20)
    assert take("jargon", 20) != take("jargon", 20, seed=1)


@pytest.mark.parametrize("kind", ["formal", "jargon"])
def test_there_are_thousands_of_different_questions(kind: Kind) -> None:
    assert len({question.text for question in take(kind, 6000)}) > 5000


def test_one_text_has_one_meaning() -> None:
    meanings: dict[str, set[str]] = {}
    for question in [*take("jargon", 5000), *take("formal", 5000)]:
        meanings.setdefault(question.text, set()).add(question.sql)
    assert all(len(found) == 1 for found in meanings.values())


def test_kept_questions_are_never_asked() -> None:
    asked = {question.text for question in take("jargon", 3000)}
    kept = {question.text for question in islice(questions("jargon", "kept", 0), 500)}
    assert not asked & kept
    assert all(part_of(text) == "kept" for text in kept)


def test_every_term_is_asked_about_and_half_of_them_are_mistaken() -> None:
    found = Counter(question.term for question in take("jargon", 2000))
    assert set(found) == {term.word for term in TERMS}
    assert min(found.values()) > 2000 / len(TERMS) / 2
    mistaken = [term for term in TERMS if term.share < 0.5]
    assert 0.4 <= len(mistaken) / len(TERMS) <= 0.6


def test_a_misreading_gives_other_rows_nearly_always() -> None:
    orders = Orders()
    asked = take("jargon", 1000)
    assert sum(orders.same(question.decoy, question.sql) for question in asked) < 60


def test_formal_questions_hold_no_jargon() -> None:
    words = {term.word for term in TERMS}
    for question in take("formal", 500):
        assert not words & set(question.text.split())
        assert question.sql == question.decoy
