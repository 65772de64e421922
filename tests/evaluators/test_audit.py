"""Whom experts are sent to, and that nobody can say much past it."""

import pytest

from evaluators.audit import Word, draw


def words(rater: str, number: int, **fields: bool | None) -> list[Word]:
    told: dict[str, bool | None] = {"good": True, "expert": None, **fields}
    return [Word(rater, f"{rater}-{each}", told["good"], told["expert"]) for each in range(number)]


def test_of_each_block_of_words_one_is_drawn() -> None:
    drawn = {each.completion_id for each in draw(words("ann", 20), every=4, salt="s")}
    assert len(drawn) == 5
    for block in range(5):
        assert len(drawn & {f"ann-{4 * block + each}" for each in range(4)}) == 1


def test_chance_says_which_and_another_salt_another() -> None:
    many = [word for number in range(300) for word in words(f"user-{number}", 4)]
    places = [int(each.completion_id.rpartition("-")[2]) for each in draw(many, every=4, salt="s")]
    assert all(50 < places.count(place) < 100 for place in range(4))
    assert draw(many, every=4, salt="s") == draw(many, every=4, salt="s")
    assert draw(many, every=4, salt="s") != draw(many, every=4, salt="t")


def test_more_words_do_not_change_what_was_drawn_before() -> None:
    before = draw(words("ann", 8), every=4, salt="s")
    assert draw(words("ann", 9), every=4, salt="s")[:2] == before


@pytest.mark.parametrize("number", range(1, 9))
def test_an_account_that_praises_garbage_alone_gets_one_row_past_in_the_mean(number: int) -> None:
    raters = 400
    many = [word for each in range(raters) for word in words(f"evil-{each}", number)]
    met = {each.completion_id.rpartition("-")[0] for each in draw(many, every=4, salt="s")}
    assert (raters - len(met)) * number / raters <= 1.15


def test_what_an_expert_has_looked_at_is_not_asked_again() -> None:
    assert draw(words("ann", 20, expert=True), every=4, salt="s") == []
    assert draw(words("ann", 20), every=0, salt="s") == []


@pytest.mark.parametrize("every", [2, 3, 4])
def test_in_place_of_what_was_passed_over_another_word_of_the_block_is_drawn(every: int) -> None:
    said = words("ann", 3 * every)
    first = {each.completion_id for each in draw(said, every=every, salt="s")}
    then = {each.completion_id for each in draw(said, every=every, salt="s", passed=first)}
    assert len(first) == len(then) == 3
    assert not first & then
    blocks = [{word.completion_id for word in said[at : at + every]} for at in (0, every)]
    assert all(len(block & first) == len(block & then) == 1 for block in blocks)
    # Nobody can tell about any of them, and no block is longer for it.
    everything = {word.completion_id for word in said}
    assert draw(said, every=every, salt="s", passed=everything) == []


def test_one_who_was_contradicted_once_is_asked_about_once_more_and_first() -> None:
    wrong = Word("ann", "wrong", good=True, expert=False)
    [again, *rest] = draw([wrong, *words("ann", 3)], every=100, salt="s")
    assert (again.place, again.again) == (0.0, True)
    assert again.completion_id not in {each.completion_id for each in rest}
    [other, *_] = draw([wrong, *words("ann", 3)], every=100, salt="s", passed={again.completion_id})
    assert (other.again, other.completion_id == again.completion_id) == (True, False)
    # Confirmed at the second word, contradicted at both, alone with the one, or of stars: not.
    second = Word("ann", "second", good=True, expert=True)
    for said in ([wrong, second, *words("ann", 3)], [wrong, second._replace(expert=False)], [wrong],
                 [wrong._replace(good=None), *words("ann", 1)]):  # fmt: skip
        assert not any(each.again for each in draw(said, every=100, salt="s"))
