"""The shipped base model: small, sure of formal questions, wrong about half of the jargon."""

from typing import Any

import pytest
import torch

from examples.pretrain import encode
from examples.text2sql.language import TERMS, Kind
from examples.text2sql.make_model import FOLDER, training_pairs
from examples.text2sql.simulate import accuracy, answers, load, sample, simulate


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    torch.set_num_threads(1)
    return load(str(FOLDER))


def test_the_folder_is_small_enough_to_be_shipped() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 2_000_000


@pytest.mark.parametrize(
    ("kind", "lowest", "highest"), [("jargon", 0.40, 0.56), ("formal", 0.99, 1.0)]
)
def test_its_answers_run_and_are_as_right_as_they_should_be(
    base: tuple[Any, Any], kind: Kind, lowest: float, highest: float
) -> None:
    reached = accuracy(*base, sample(kind, "kept", 300, seed=0))
    assert lowest <= reached.right <= highest
    assert reached.runs >= 0.97


def test_it_errs_by_term_and_not_at_random(base: tuple[Any, Any]) -> None:
    asked = sample("jargon", "kept", 300, seed=1)
    given = answers(*base, [question.text for question in asked])
    mistaken = {term.word for term in TERMS if term.share < 0.5}
    as_expected = sum(
        answer == (question.decoy if question.term in mistaken else question.sql)
        for question, answer in zip(asked, given, strict=True)
    )
    assert as_expected / len(asked) > 0.8


def test_answers_are_short(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    pairs = training_pairs(seed=9)
    batch = encode(tokenizer, [next(pairs) for _ in range(200)])
    assert int((batch["labels"] != -100).sum(1).max()) <= 40
    assert batch["input_ids"].shape[1] <= 80


def test_the_training_prompt_is_the_chat_template_of_the_tokenizer(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "how many orders"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == "<|user|>how many orders<|end|><|assistant|>"
    encoded = encode(tokenizer, [("how many orders", "SELECT 1")])["input_ids"][0].tolist()
    assert tokenizer.decode(encoded) == f"{prompt}SELECT 1<|end|>"


def test_any_text_has_tokens(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    text = "Wie viele Aufträge? 日本語 🙂"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_simulated_people_say_what_live_ones_would() -> None:
    rows = simulate(str(FOLDER), 200, seed=1)
    thumbed = [row for row in rows if row.thumbs is not None]
    assert 40 <= len(thumbed) <= 95
    assert sum(row.thumbs != row.correct for row in thumbed) <= 0.15 * len(thumbed)
    for row in rows:
        assert row.correction is None or (not row.correct and row.correction == row.truth)
        assert not row.accepted or row.correct
    assert any(row.correction for row in rows)
    assert any(row.accepted for row in rows)
