"""Answers of a model to many prompts, in batches: greedy, or sampled at a temperature.

A prompt that the template cannot hold has an empty answer of no tokens: nobody can say what the
model would have said, and the others are answered.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everlearn.chat import Unsupported, split_thinking
from trainer.render import Conversation, Renderer
from trainer.rows import Messages

Asked = Conversation | Messages

BATCH = 64


@dataclass(frozen=True)
class Answer:
    """One answer: text, its tokens (the stop token included)."""

    text: str
    token_ids: tuple[int, ...]
    cut: bool = False
    """It came to no end in time: at the door such an answer is never right, so nowhere it is."""


UNANSWERED = Answer("", ())


@dataclass(frozen=True)
class Answers:
    """All answers in the order of the prompts, and the wall time of making them."""

    answers: tuple[Answer, ...]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens generated, padding left out."""
        return sum(len(answer.token_ids) for answer in self.answers)


def answer_all(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Asked],
    max_tokens: int,
    *,
    temperature: float | None = None,
) -> Answers:
    """Greedy answers, or sampled ones; prompts of similar length share a batch."""
    import torch

    ids = prompts_of(model, tokenizer, prompts)
    known = {index: each for index, each in enumerate(ids) if each is not None}
    order = sorted(known, key=lambda index: len(known[index]))
    found: dict[int, Answer] = {}
    started = time.monotonic()
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            made = _batch(
                model, tokenizer, [known[index] for index in batch], max_tokens, temperature
            )
            found.update(zip(batch, made, strict=True))
    seconds = time.monotonic() - started
    return Answers(tuple(found.get(index, UNANSWERED) for index in range(len(prompts))), seconds)


def prompts_of(model: Any, tokenizer: Any, prompts: Sequence[Asked]) -> list[list[int] | None]:
    """Token ids as the server makes them; None for a prompt that the template cannot hold."""
    stops = sorted(stop_ids(model, tokenizer))
    renderer = Renderer(tokenizer, stops, keep_thinking=False)
    return [_ids(renderer, each) for each in prompts]


def _ids(renderer: Renderer, asked: Asked) -> list[int] | None:
    try:
        return renderer.prompt_ids(
            asked if isinstance(asked, Conversation) else Conversation(asked)
        )
    except Unsupported:
        return None


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends an answer: the tokenizer's and those the model declares."""
    declared = model.generation_config.eos_token_id
    many = declared if isinstance(declared, list) else [declared]
    return {int(token) for token in (tokenizer.eos_token_id, *many) if token is not None}


def _batch(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    max_tokens: int,
    temperature: float | None,
) -> list[Answer]:
    padded = tokenizer.pad(
        {"input_ids": prompts}, padding=True, padding_side="left", return_tensors="pt"
    )
    inputs = padded.to(model.device)
    stops = stop_ids(model, tokenizer)
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=temperature is not None,
        temperature=temperature,
        # The model's own bounds on the candidates are off.
        top_p=None if temperature is None else 1.0,
        top_k=None if temperature is None else 0,
        max_new_tokens=max_tokens,
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
    )
    width = inputs["input_ids"].shape[1]
    return [_cut(tokenizer, row[width:].tolist(), stops) for row in output]


def _cut(tokenizer: Any, ids: list[int], stops: set[int]) -> Answer:
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    kept = ids if end is None else ids[: end + 1]
    text = split_thinking(tokenizer.decode(kept, skip_special_tokens=True))[1]
    return Answer(text.strip(), tuple(kept), cut=end is None)
