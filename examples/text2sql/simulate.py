"""What production would give the trainer, made offline: questions, answers and what people said.

The same users, mistakes and analyst as in `traffic.py`, without servers: for measurements.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from examples.text2sql.database import Orders
from examples.text2sql.language import Kind, Part, Question, questions
from examples.text2sql.people import MAX_TOKENS, PEOPLE, People

BATCH = 128


@dataclass(frozen=True)
class Simulated:
    """One answered question and what was said about it."""

    question: str
    answer: str
    truth: str
    correct: bool
    thumbs: bool | None
    """The user's, who sometimes errs."""
    correction: str | None
    """The analyst's."""
    accepted: bool
    """Whether the analyst found it right."""
    unit: str


def load(path: str) -> tuple[Any, Any]:
    """Model in float32 and tokenizer, ready for `answers`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), tokenizer


def answers(
    model: Any, tokenizer: Any, texts: Sequence[str], *, temperature: float = 0.0
) -> list[str]:
    """An answer to each question; temperature 0 is greedy."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found: dict[int, str] = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        made = _batch(model, tokenizer, [texts[index] for index in batch], temperature)
        found.update(zip(batch, made, strict=True))
    return [found[index] for index in range(len(texts))]


def _batch(model: Any, tokenizer: Any, texts: list[str], temperature: float) -> list[str]:
    import torch

    chats = [[{"role": "user", "content": text}] for text in texts]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    )
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
    with torch.inference_mode():
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=MAX_TOKENS,
            **sampling,
        )
    made = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]


@dataclass(frozen=True)
class Accuracy:
    """Shares of a set of questions."""

    right: float
    runs: float


def accuracy(model: Any, tokenizer: Any, asked: Sequence[Question]) -> Accuracy:
    """Greedy accuracy: the answer gives the rows that the question means."""
    orders = Orders()
    given = answers(model, tokenizer, [question.text for question in asked])
    right = sum(orders.same(a, q.sql) for a, q in zip(given, asked, strict=True))
    runs = sum(orders.rows(answer) is not None for answer in given)
    return Accuracy(right / len(asked), runs / len(asked))


def sample(kind: Kind, part: Part, count: int, seed: int) -> list[Question]:
    """The first `count` questions of a seed."""
    return list(itertools.islice(questions(kind, part, seed), count))


def simulate(model_path: str, count: int, seed: int, people: People = PEOPLE) -> list[Simulated]:
    """`count` answered questions with the thumbs and corrections that people would give."""
    import torch

    torch.manual_seed(seed)
    rng, orders = random.Random(seed), Orders()
    model, tokenizer = load(model_path)
    streams = {kind: questions(kind, "asked", seed) for kind in ("formal", "jargon")}
    asked = [
        next(streams["jargon" if rng.random() < people.jargon_share else "formal"])
        for _ in range(count)
    ]
    texts = [question.text for question in asked]
    given = answers(model, tokenizer, texts, temperature=people.temperature)
    corrections = 0
    result = []
    for number, (question, answer) in enumerate(zip(asked, given, strict=True)):
        correct = orders.same(answer, question.sql)
        mistaken = rng.random() < people.wrong_thumbs
        thumbs = correct != mistaken if rng.random() < people.thumbs_share else None
        reviewed = rng.random() < people.review_share and corrections < people.max_corrections
        correction = question.sql if reviewed and not correct else None
        corrections += correction is not None
        user = f"user-{seed}-{number // 2}"
        result.append(
            Simulated(
                question.text, answer, question.sql, correct, thumbs, correction,
                accepted=reviewed and correct, unit=user,
            )
        )  # fmt: skip
    return result
