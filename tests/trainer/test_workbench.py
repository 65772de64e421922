import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import ConfigError, TrainingError
from everlearn.rules import Train
from everlearn.task import Task
from tests.trainer.examples import accepted
from tests.trainer.tiny import question
from trainer import adapter as adapters
from trainer.machine import native_bf16
from trainer.methods import TrainingData, kto, sft
from trainer.render import Example
from trainer.replay import padded
from trainer.workbench import Workbench, fit, seeded, shuffled_cycles


def make_bench(model: Path, scratch: Path, **train: Any) -> Workbench:
    knobs = {"device": "cpu", "max_steps": 2, "batch_size": 4, **train}
    task = Task(
        task="colours",
        base_model=str(model),
        upstream="local",
        graders=({"type": "feedback", "name": "thumbs"},),
        train=knobs,
    )
    return Workbench(task, str(model), scratch)


def test_labels_are_on_the_answer_only_and_end_with_the_stop_token(
    model: Path, tmp_path: Path
) -> None:
    bench = make_bench(model, tmp_path)
    row = bench.encode(question("thing1", "colour"), "green")
    assert row is not None
    told = [token for token in row["labels"] if token != -100]
    assert bench.tokenizer.decode(told) == "green <end>"
    assert len(row["labels"]) == len(row["input_ids"])


def test_an_example_longer_than_max_length_is_left_out(model: Path, tmp_path: Path) -> None:
    bench = make_bench(model, tmp_path, max_length=16)
    assert bench.encode(question("thing1 " * 20, "colour"), "green") is None


def test_batches_are_padded_outside_of_attention_and_loss() -> None:
    rows = [Example((5,), (6, 7)), Example((), (8,))]
    batch = padded(rows, pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]


def test_rows_come_as_often_as_their_weight_says_within_limits() -> None:
    counts = Counter(shuffled_cycles(3, [1.0, 1.0, 100.0], slots=6000, seed=0))
    assert counts[0] == pytest.approx(counts[1], rel=0.15)
    assert 8 < counts[2] / counts[0] < 14
    assert shuffled_cycles(0, [], 10, 0) == []


def test_equal_weights_are_seen_equally_often() -> None:
    assert set(Counter(shuffled_cycles(5, [2.0] * 5, 50, 3)).values()) == {10}


def test_rows_that_are_all_believed_less_are_learned_from_as_fast() -> None:
    weights = [0.5, 0.125, 1.0, 0.125]
    less = [weight / 4 for weight in weights]
    assert shuffled_cycles(4, less, 100, 0) == shuffled_cycles(4, weights, 100, 0)
    assert shuffled_cycles(4, [0.5, 0.5, 1.0, 0.5], 100, 0) != shuffled_cycles(4, weights, 100, 0)


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_kto_shows_each_side_by_what_its_rows_weigh_against_each_other(scale: float) -> None:
    def side(tokens: range) -> list[tuple[Example, float]]:
        return [(Example((1,), (token,)), scale * (1.0 if token % 2 else 0.25)) for token in tokens]

    train = Train(batch_size=8)
    shown = Counter(
        row["completion_ids"][0]
        for row in kto.layout(side(range(8)), side(range(8, 16)), train, 50)
    )
    assert len(shown) == 16
    assert sum(shown.values()) == 400
    assert all(shown[even] < 0.45 * shown[even + 1] for even in range(0, 16, 2))


def test_each_batch_holds_its_share_of_replay(model: Path, tmp_path: Path) -> None:
    from tests.trainer.examples import make_row

    bench = make_bench(model, tmp_path, replay=0.25)
    learned = [accepted(messages=question("thing1", "shade"), completion="green")]
    replay = [make_row(messages=question("thing2", "colour"), completion="blue")]
    rows = sft.layout(TrainingData((*learned, *replay)), bench, 2)
    blue = bench.encode(question("thing2", "colour"), "blue")
    assert [row == blue for row in rows] == [False, False, False, True] * 2


def test_a_loss_that_is_no_number_ends_the_training_with_the_step(
    model: Path, tmp_path: Path
) -> None:
    bench = make_bench(model, tmp_path, learning_rate=1e30, max_steps=5)
    rows = [accepted(messages=question(f"thing{n}", "shade"), completion="red") for n in range(10)]
    trainer = sft.METHOD.build(TrainingData(tuple(rows)), bench, lambda rows: None)
    with pytest.raises(TrainingError, match=r"sft: (loss|grad_norm) is (nan|inf) at step \d"):
        fit("sft", trainer, lambda line: None)


def test_running_out_of_memory_is_a_reason(model: Path, tmp_path: Path) -> None:
    bench = make_bench(model, tmp_path)
    rows = [accepted(messages=question("thing1", "shade"), completion="red") for _ in range(10)]
    trainer = sft.METHOD.build(TrainingData(tuple(rows)), bench, lambda rows: None)

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise MemoryError

    trainer.training_step = out_of_memory
    with pytest.raises(TrainingError, match="sft: out of memory"):
        fit("sft", trainer, lambda line: None)


def test_memory_that_runs_out_is_tried_again_with_half_the_rows(
    model: Path, tmp_path: Path
) -> None:
    bench: Workbench | None = make_bench(model, tmp_path)
    rows = TrainingData(
        tuple(accepted(messages=question("thing1", "shade"), completion="red") for _ in range(10))
    )
    tried = []
    while bench is not None:
        trainer = sft.METHOD.build(rows, bench, lambda rows: None)
        tried.append(trainer.args.per_device_train_batch_size)
        bench = bench.smaller("sft")
    assert tried == [4, 2, 1]


def test_a_base_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    bench = make_bench(tmp_path / "nothing", tmp_path)
    with pytest.raises(TrainingError, match="nothing"):
        bench.base_model()
    with pytest.raises((ConfigError, OSError, ValueError)):
        assert bench.tokenizer


def test_an_adapter_that_changes_nothing_answers_like_the_base_model(
    model: Path, tmp_path: Path
) -> None:
    import torch

    bench = make_bench(model, tmp_path)
    ids = torch.tensor([bench.encode(question("thing3", "shade"), "red")["input_ids"]])  # type: ignore[index]
    with torch.inference_mode():
        plain, adapted = (
            m(input_ids=ids).logits for m in (bench.base_model(), bench.adapted(None))
        )
    assert math.isclose(float((plain - adapted).abs().max()), 0.0, abs_tol=1e-6)


def test_what_was_trained_in_bfloat16_has_float32_weights_and_answers_as_it_is_served(
    model: Path, tmp_path: Path
) -> None:
    import torch

    rows = TrainingData(
        tuple(accepted(messages=question("thing1", "shade"), completion="red") for _ in range(10))
    )
    digests, asked = {}, torch.tensor([[2, 10, 3]])
    for name, precision in (("a", "bfloat16"), ("b", "bfloat16"), ("c", "float32")):
        bench = make_bench(model, tmp_path, precision=precision, max_steps=3)
        seeded(0)
        trained = fit("sft", sft.METHOD.build(rows, bench, lambda rows: None), lambda line: None)
        saved = adapters.save(trained.model, bench, tmp_path / name)
        digests[name] = adapters.content_digest(saved)
        assert {each.dtype for each in trained.model.parameters()} == {torch.float32}
        served = bench.adapted(saved)
        with torch.inference_mode():
            now, then = (each(input_ids=asked).logits for each in (trained.model, served))
        assert torch.equal(now, then)
    assert digests["a"] == digests["b"] != digests["c"]


def test_a_cpu_has_bfloat16_where_the_kernel_says_so() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert native_bf16() == bool({"avx512_bf16", "amx_bf16"} & set(flags))
