"""Anchors: what the served model holds for likely, and what moving away from it costs."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.examples import corrected, make_row
from tests.trainer.test_workbench import make_bench
from tests.trainer.tiny import question
from trainer.anchor import TOP, WEIGHT, Anchored, anchors, answers, divergence, joined, told_apart
from trainer.lessons.rows import AUTHOR
from trainer.methods import TrainingData, sft
from trainer.methods.sft import encoded
from trainer.render import Example
from trainer.replay import Likelihood, adding, padded
from trainer.rows import Row
from trainer.settings import Load
from trainer.workbench import Workbench

PAD = 0


class Table(torch.nn.Module):
    """A model that holds the same tokens for likely wherever it is asked."""

    device = "cpu"

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, input_ids: Any, **_: Any) -> Any:
        there = self.logits.expand(*input_ids.shape, len(self.logits))
        return type("Output", (), {"logits": there})()


EXAMPLES = [Example((1, 2, 3), (2, 1)), Example((1,), (3,)), Example((2, 2), (1, 1, 3))]


def added(served: Table, learning: Table) -> Any:
    """What the term costs the model that learns."""
    term = Anchored(anchors(served, EXAMPLES, PAD), pad=PAD, seed=0)
    return term(learning, next(term.batches))


def test_a_model_that_has_not_moved_is_not_pulled() -> None:
    model = Table(0.5, 2.0, -1.0, 0.0)
    loss = added(model, model)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert model.logits.grad is not None
    assert model.logits.grad.abs().max() < 1e-5


def test_what_moved_costs_the_divergence_of_the_whole_distribution() -> None:
    served, moved = Table(0.5, 2.0, -1.0, 0.0), Table(0.5, 2.0, 1.0, 0.0)
    ours, theirs = (torch.log_softmax(each.logits, 0) for each in (served, moved))
    expected = WEIGHT * (ours.exp() * (ours - theirs)).sum().item()
    assert added(served, moved).item() == pytest.approx(expected, rel=1e-3)


def test_what_the_served_model_holds_for_next_best_counts_too() -> None:
    # Both are as sure of the answer; a target would not tell them apart.
    served, swapped = Table(3.0, 1.0, 0.0, 0.0), Table(3.0, 0.0, 1.0, 0.0)
    assert added(served, swapped).item() > 0.1


def test_beyond_the_likeliest_tokens_the_others_are_one() -> None:
    wide = torch.log_softmax(torch.randn(3, 10 * TOP, generator=torch.Generator()), -1)
    tokens = wide.topk(TOP).indices
    found = told_apart(wide, tokens)
    assert found.shape == (3, TOP + 1)
    assert found.exp().sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    assert divergence(found, found).item() == 0.0


def test_distributions_stand_with_their_tokens_whatever_is_padded(
    model: Path, tmp_path: Path
) -> None:
    bench = make_bench(model, tmp_path)
    network = bench.base_model().eval()
    rows = [row(thing, "shade", "red") for thing in ("thing1", "thing2 thing3 thing4", "thing5")]
    examples, _ = encoded(rows, bench)
    pad = bench.tokenizer.pad_token_id
    made = joined(anchors(network, examples, pad), pad)
    with torch.no_grad():
        alone = [
            answers(network(**inputs).logits, labels)
            for inputs, labels in (split(padded([each], pad)) for each in examples)
        ]
        expected = told_apart(torch.cat(alone), made["tokens"])
    assert (made["likely"] - expected).abs().max() < 1e-4


def split(batch: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    labels = batch.pop("labels")
    return batch, labels


def row(thing: str, word: str, text: str, **fields: Any) -> Row:
    return make_row(messages=question(thing, word), completion=text, **fields)


def shades(author: str) -> list[Row]:
    return [
        corrected(
            messages=question(f"thing{n}", "shade"), completion="red", target="blue", author=author
        )
        for n in range(10)
    ]


def trainer_of(bench: Workbench, **replayed: Any) -> Any:
    ordinary = [row(f"thing{n}", "colour", "green", **replayed) for n in range(10)]
    return sft.build(TrainingData((*shades(AUTHOR), *ordinary)), bench, lambda rows: None)


def test_while_comments_teach_anchors_stand_beside_whole_batches_of_lessons(
    model: Path, tmp_path: Path
) -> None:
    bench = make_bench(model, tmp_path, replay=0.25, epochs=2, max_steps=50)
    lesson = bench.encode(question("thing1", "shade"), "blue")
    assert lesson is not None
    blue = [each for each in lesson["labels"] if each != -100]

    def lessons(trainer: Any) -> int:
        firsts = trainer.train_dataset[:4]["labels"]
        return sum([each for each in one if each != -100] == blue for one in firsts)

    assert lessons(trainer_of(bench)) == 3
    # Two passes over ten lessons, three or four of them in a step.
    assert bench.resolved["sft"].max_steps == 7
    anchored = trainer_of(bench, author=AUTHOR)
    assert lessons(anchored) == 4
    assert bench.resolved["sft"].max_steps == 5
    anchored.train()
    logged = [each["anchor_kl"] for each in anchored.state.log_history if "anchor_kl" in each]
    assert len(logged) == 5
    # The adapter begins as the served model and then moves.
    assert logged[0] == pytest.approx(0.0, abs=1e-4)
    assert logged[-1] > 1e-4


class Plain:
    """A trainer with a loss of 1, over two micro-batches a step."""

    def __init__(self, kwargs: bool, done: int = 0) -> None:
        self.model_accepts_loss_kwargs = kwargs
        self.args = type("Args", (), {"gradient_accumulation_steps": 2})()
        self.state = type("State", (), {"global_step": done})()

    def compute_loss(self, *_: Any) -> Any:
        return torch.tensor(1.0)


class Numbers:
    """A term whose batches count up."""

    name = "number"

    def __init__(self) -> None:
        self.batches = ({"number": torch.tensor(float(n))} for n in range(1, 99))

    def __call__(self, model: Any, batch: Any) -> Any:
        return batch["number"]


@pytest.mark.parametrize(
    ("kwargs", "items", "loss"), [(True, 5, 1.5), (False, 5, 2), (True, None, 2)]
)
def test_a_term_has_the_weight_of_a_step_however_losses_are_put_together(
    kwargs: bool, items: int | None, loss: float
) -> None:
    trainer = adding(Plain, Numbers())(kwargs)
    model = Table(0.0)
    assert trainer.compute_loss(model, {}, False, items).item() == loss


def test_terms_stand_beside_each_other_and_catch_up_after_a_kill() -> None:
    trainer = adding(adding(Plain, Numbers()), Numbers())(False, done=3)
    # Six micro-batches are done: both go on with the seventh.
    assert trainer.compute_loss(Table(0.0), {}).item() == 1.0 + 7.0 + 7.0
    assert adding(Plain, None) is Plain


def test_anchors_are_read_off_the_champion(model: Path, tmp_path: Path) -> None:
    from trainer import adapter as adapters
    from trainer.anchor import beside

    bench = make_bench(model, tmp_path)
    champion = bench.adapted(None)
    with torch.no_grad():
        for name, weights in champion.named_parameters():
            if "lora_B" in name:
                weights.fill_(0.05)
    folder = adapters.save(champion, bench, tmp_path / "champion")
    ordinary = [row(f"thing{n}", "colour", "green", author=AUTHOR) for n in range(4)]
    shown, _ = encoded(ordinary, bench)
    made = bench.settings("sft", Load(4, 8, 4))
    costs = {}
    for name, served in (("champion", folder), ("base", None)):
        term = beside(shown, TrainingData(tuple(ordinary), served=served), bench, made)
        assert isinstance(term, Anchored)
        costs[name] = term(champion, next(term.batches)).item()
    assert costs["champion"] == pytest.approx(0.0, abs=1e-4)
    assert costs["base"] > 0.01
    plain = TrainingData((make_row(),))
    assert isinstance(beside(shown, plain, bench, made), Likelihood)
    assert beside([], plain, bench, made) is None
    assert not math.isnan(costs["base"])
