"""What each method makes of the rows."""

from tests.trainer.examples import accepted, corrected, make_row, rejected
from trainer.methods import TrainingData, dpo, rft


def data(*rows: object) -> TrainingData:
    return TrainingData(tuple(rows))  # type: ignore[arg-type]


def test_pairs_are_corrections_preferences_and_thumbs_on_the_same_prompt() -> None:
    found = dpo.pairs(
        data(
            corrected(prompt="a", completion="wrong"),
            make_row(prompt="b", kind="preference", target="better", completion="worse"),
            accepted(prompt="c", completion="liked"),
            rejected(prompt="c", completion="disliked"),
            rejected(prompt="d", completion="alone"),
        )
    )
    assert [(right.answer, wrong.completion) for right, wrong in found] == [
        ("the right answer", "wrong"),
        ("better", "worse"),
        ("liked", "disliked"),
    ]


def test_an_answer_is_never_paired_with_itself() -> None:
    assert dpo.pairs(data(corrected(completion="the  right answer"))) == []


def test_rft_asks_what_was_wrong_first_then_what_an_expert_answered() -> None:
    rows = [
        accepted(prompt="liked"),
        accepted(prompt="reviewed", author="expert"),
        corrected(prompt="wrong"),
    ]
    chosen, weights = rft.asked(data(*rows))
    assert [row.messages[0]["content"] for row in chosen] == ["wrong", "reviewed", "liked"]
    assert len(weights) == 3


def test_rft_asks_a_prompt_once_with_the_experts_answer() -> None:
    rows = [accepted(prompt="q", completion="ok"), corrected(prompt="q", target="right")]
    assert [row.target for row in rft.prompts(data(*rows))] == ["right"]


def test_rft_asks_a_hundred_prompts_at_most() -> None:
    chosen, _ = rft.asked(data(*(corrected() for _ in range(150))))
    assert len(chosen) == rft.MAX_PROMPTS == 100
