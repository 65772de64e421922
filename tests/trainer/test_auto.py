import pytest

from everlearn.graders import Multi, ScoreModel, StringCheck
from tests.trainer.examples import accepted, corrected, rejected
from trainer.methods import TrainingData
from trainer.methods.auto import (
    METHODS,
    RFT_SHARE,
    allowed,
    choose,
    helped,
    highest,
    little_to_gain,
    nothing_to_win,
    over_budget,
    paired,
    reserved,
)

by_name = {method.name: method for method in METHODS}


def names(data: TrainingData, only: str = "auto", has_reward: bool = True) -> list[str]:
    return [method.name for method in allowed(data, only=only, has_reward=has_reward)[0]]


def test_thumbs_up_alone_allow_sft_and_rft() -> None:
    data = TrainingData(tuple(accepted() for _ in range(20)))
    assert names(data) == ["sft", "rft"]
    assert names(data, has_reward=False) == ["sft"]


def test_thumbs_both_ways_allow_kto() -> None:
    rows = [accepted() for _ in range(20)] + [rejected() for _ in range(20)]
    assert names(TrainingData(tuple(rows))) == ["sft", "kto", "rft"]


def test_corrections_allow_everything_cheapest_first() -> None:
    data = TrainingData(tuple(corrected() for _ in range(20)))
    assert names(data) == ["sft", "kto", "dpo", "rft"]
    assert names(data, only="dpo") == ["dpo"]


def test_what_is_left_out_says_why() -> None:
    _, left_out = allowed(TrainingData((accepted(),)), only="auto", has_reward=True)
    assert left_out["sft"] == "1 accepted or corrected answers < 10"
    assert set(left_out) == {"sft", "kto", "dpo", "rft"}


def test_the_budget_is_planned_by_what_was_measured() -> None:
    sft, dpo = by_name["sft"], by_name["dpo"]
    assert over_budget(sft, [], 1.0) is None
    spent = [(sft.cost, 10.0)]
    assert over_budget(dpo, spent, 10.0 + 10.0 * dpo.cost) is None
    assert over_budget(dpo, spent, 20.0) == (
        f"not tried: needs about {10 * dpo.cost:.0f} s, 10 s of the budget are left"
    )


def test_rft_has_a_share_while_nothing_cheaper_helped() -> None:
    both, alone = [by_name["sft"], by_name["rft"]], [by_name["sft"]]
    assert reserved(by_name["sft"], both, 100.0) == 100.0 * RFT_SHARE
    assert reserved(by_name["rft"], both, 100.0) == reserved(by_name["sft"], alone, 100.0) == 0.0


def test_a_method_helped_when_it_beats_the_champion_by_more_than_noise() -> None:
    champion = [0.0] * 50
    assert not helped({}, champion)
    assert not helped({"sft": champion}, champion)
    assert not helped({"sft": [1.0] + [0.0] * 49}, champion)
    assert helped({"sft": champion, "kto": [1.0] * 10 + [0.0] * 40}, champion)
    assert not helped({"sft": [None] * 50}, champion)


def test_a_dearer_method_must_be_better_by_more_than_noise() -> None:
    sft = [1.0] * 48 + [0.0] * 2
    rft = [1.0] * 49 + [0.0]
    name, reason = choose({"sft": sft, "rft": rft})
    assert name == "sft"
    assert reason == (
        "sft 0.960: rft 0.980 is dearer and its lead of 0.020 <= noise 0.033 on 50 held-out rows"
    )


def test_a_clearly_better_method_is_taken() -> None:
    name, reason = choose({"sft": [0.0] * 20 + [1.0] * 30, "dpo": [1.0] * 50})
    assert name == "dpo"
    assert reason == "dpo 1.000 on held-out rows > sft 0.600"


def test_of_equal_methods_the_cheapest_is_taken() -> None:
    assert choose({"sft": [1.0, 0.0], "kto": [1.0, 0.0]}) == (
        "sft",
        "sft 0.500 on held-out rows >= kto 0.500",
    )


def test_a_single_method_is_chosen_by_its_own_score() -> None:
    assert choose({"dpo": [1.0, 0.0]}) == ("dpo", "dpo 0.500 on held-out rows")


def test_rows_without_a_score_on_either_side_are_left_out_of_a_comparison() -> None:
    assert paired([1.0, None, 1.0], [0.0, 1.0, None]) == (1.0, 0.0, 1)
    assert paired([None], [1.0]) == (0.0, 0.0, 0)


def test_a_dearer_method_is_not_tried_where_it_could_not_be_chosen() -> None:
    one_wrong = [1.0] * 139 + [0.0]
    assert little_to_gain({"sft": one_wrong}, 1.0) == (
        "not tried: sft has 0.993 on 140 select rows; a method without a fault would lead by "
        "0.007 <= 0.012, which is what they can show"
    )
    assert little_to_gain({"sft": [1.0] * 140}, 1.0) is not None
    # The best so far counts, whichever it is.
    assert little_to_gain({"sft": [0.0] * 140, "kto": one_wrong}, 1.0) is not None


@pytest.mark.parametrize("wrong", range(8))
def test_what_is_not_tried_could_never_win_and_what_is_could(wrong: int) -> None:
    scores = [1.0] * (100 - wrong) + [0.0] * wrong
    chosen, _ = choose({"sft": scores, "rft": [1.0] * 100})
    assert (little_to_gain({"sft": scores}, 1.0) is None) == (chosen == "rft")


def test_nothing_is_trained_where_the_champion_leaves_nothing_that_matters() -> None:
    assert nothing_to_win([1.0] * 97, 1.0, 0.05) == (
        "the champion has 1.000 on 97 select rows: a version without a fault would gain at most "
        "0.030 < release.smallest_effect 0.05"
    )
    # Few rows do not tell, nor do two faults in a hundred.
    assert nothing_to_win([1.0] * 58, 1.0, 0.05) is None
    assert nothing_to_win([1.0] * 59, 1.0, 0.05) is not None
    assert nothing_to_win([*[1.0] * 98, 0.0, 0.0], 1.0, 0.05) is None
    assert nothing_to_win([*[0.99] * 98, 0.5, None], 1.0, 0.05) is None
    for scores, top in (([], 1.0), ([None] * 9, 1.0), ([1.0] * 99, None), ([5.0] * 99, 1.0)):
        assert nothing_to_win(scores, top, 0.05) is None


def test_there_is_always_something_to_gain_where_nobody_knows_the_best_value() -> None:
    assert little_to_gain({}, 1.0) is None
    assert little_to_gain({"sft": [5.0] * 50}, None) is None
    assert little_to_gain({"sft": [5.0] * 50}, 1.0) is None
    assert little_to_gain({"sft": [None] * 50}, 1.0) is None


def test_the_best_value_of_a_grader_is_read_off_its_definition() -> None:
    check = {"name": "n", "input": "i", "reference": "r", "operation": "eq"}
    assert highest(StringCheck(type="string_check", **check)) == 1.0
    assert highest(Multi(type="multi", calculate_output="n * 3")) is None
    judge = {"name": "j", "input": [{"role": "user", "content": "?"}], "model": "m"}
    assert highest(ScoreModel(type="score_model", range=[1, 5], **judge)) == 5
