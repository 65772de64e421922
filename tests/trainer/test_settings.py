"""Settings follow the model, the data and the machine; what a task pins is used as pinned."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.rules import Train
from trainer.settings import (
    Load,
    Machine,
    Settings,
    Shape,
    estimate,
    fitting,
    longest_row,
    precision,
    rate,
    settings,
    steps_for,
)

SMOLLM2 = Shape("llama", 576, 30, 49152, 8192)
LLAMA_8B = Shape("llama", 4096, 32, 128256, 131072)
TOY = Shape("llama", 128, 4, 512, 256)
CPU = Machine(cuda=False, free_bytes=8 * 2**30)
BF16_CPU = replace(CPU, native_bf16=True)
H100 = Machine(cuda=True, free_bytes=78 * 2**30, value_bytes=2)


def make(train: Train, shape: Shape = SMOLLM2, machine: Machine = CPU, **data: Any) -> Settings:
    load = Load(**{"batch": train.batch_size, "longest": 512, "rows": 300, **data})
    return settings(train, "sft", shape, machine, load)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (LLAMA_8B, 2.86e-4),
        (Shape("qwen3", 2560, 36, 151936, 32768), 4.9e-4),
        (SMOLLM2, 1.32e-3),
        (Shape("unknown", 2000, 1, 1, 1), 5e-4),
    ],
)
def test_the_rate_follows_the_hidden_size_as_in_tinkers_cookbook(
    shape: Shape, expected: float
) -> None:
    assert rate(Train(), "sft", shape) == pytest.approx(expected, rel=0.01)


def test_methods_that_start_from_the_model_itself_move_less() -> None:
    supervised = rate(Train(), "sft", SMOLLM2)
    assert all(rate(Train(), each, SMOLLM2) < supervised / 5 for each in ("dpo", "kto", "rft"))


def test_a_pinned_rate_is_used_as_pinned_without_warm_up() -> None:
    pinned = Train(learning_rate=1e-3)
    assert [rate(pinned, each, SMOLLM2) for each in ("sft", "dpo", "kto", "rft")] == [
        1e-3,
        1e-3,
        5e-4,
        1e-3,
    ]
    assert make(pinned).warmup_steps == 0
    assert make(Train()).warmup_steps == 3


def test_epochs_bound_the_steps_and_never_exceed_max_steps() -> None:
    def steps(rows: int, taught: int | None = 24, **train: Any) -> int:
        made = Train(**{"max_steps": 60, "epochs": 3, "batch_size": 32, "replay": 0.25, **train})
        return steps_for(made, Load(32, 512, rows, taught))

    assert steps(10_000, epochs=None) == 60
    assert steps(80) == 10
    assert steps(10_000) == 60
    assert steps(1) == 1


@pytest.mark.parametrize(("taught", "steps"), [(None, 8), (24, 10), (8, 30)])
def test_a_pass_counts_the_learned_rows_of_the_methods_own_steps(
    taught: int | None, steps: int
) -> None:
    # All of a batch; SFT with a quarter of replay; RFT, which answers each prompt four times.
    made = make(Train(max_steps=60, epochs=3, batch_size=32), rows=80, taught=taught)
    assert made.max_steps == steps
    assert made.epochs == pytest.approx(3, abs=0.25)


def test_where_rules_end_takes_more_steps_unless_they_are_pinned() -> None:
    assert make(Train()).max_steps == 60
    assert make(Train(), ruled=True).max_steps == 240
    assert make(Train(max_steps=80), ruled=True).max_steps == 80


def test_micro_batches_fit_what_is_free() -> None:
    assert make(Train(batch_size=32), longest=64).micro_batch == 32
    tight = make(Train(batch_size=32), longest=4096)
    assert tight.micro_batch == 1
    assert tight.accumulation == 32


def test_a_gpu_computes_in_bfloat16_and_recomputes_what_is_large() -> None:
    large = make(Train(), LLAMA_8B, H100)
    assert (large.precision, large.gradient_checkpointing) == ("bfloat16", True)
    assert make(Train(), SMOLLM2, H100).gradient_checkpointing is False


@pytest.mark.parametrize(
    ("machine", "shape", "method", "expected"),
    [
        (CPU, SMOLLM2, "sft", "float32"),
        (BF16_CPU, SMOLLM2, "sft", "bfloat16"),
        (BF16_CPU, SMOLLM2, "dpo", "bfloat16"),
        # It generates, token by token.
        (BF16_CPU, SMOLLM2, "rft", "float32"),
        (BF16_CPU, TOY, "sft", "float32"),
        (H100, TOY, "rft", "bfloat16"),
    ],
)
def test_precision_is_what_pays_on_the_machine_and_as_pinned_where_it_is(
    machine: Machine, shape: Shape, method: str, expected: str
) -> None:
    assert precision(Train(), method, shape, machine) == expected
    assert precision(Train(precision="float32"), method, shape, machine) == "float32"
    assert precision(Train(precision="bfloat16"), method, shape, machine) == "bfloat16"


def test_weights_that_are_cast_leave_less_room_for_rows() -> None:
    assert longest_row(Train(), SMOLLM2, BF16_CPU) < longest_row(Train(), SMOLLM2, CPU)
    assert longest_row(Train(), TOY, BF16_CPU) == longest_row(Train(), TOY, CPU)


def test_a_row_may_be_as_long_as_context_and_memory_allow() -> None:
    assert longest_row(Train(max_length=512), SMOLLM2, CPU) == 512
    assert longest_row(Train(max_length=100_000), SMOLLM2, CPU) == SMOLLM2.context
    assert 2000 < longest_row(Train(), SMOLLM2, CPU) < 4000
    assert longest_row(Train(), SMOLLM2, H100) == SMOLLM2.context
    assert longest_row(Train(), LLAMA_8B, CPU) == 16


@given(st.integers(1, 64), st.floats(0, 100))
def test_a_micro_batch_divides_its_batch(batch: int, rows: float) -> None:
    found = fitting(batch, rows)
    assert batch % found == 0
    assert found <= max(1, rows)


@pytest.mark.parametrize(("batch", "least"), [(8, 2), (32, 2), (9, 3), (7, 7)])
def test_kto_has_another_row_in_every_micro_batch(batch: int, least: int) -> None:
    """By whose answer it estimates its KL term; TRL refuses to train on one row at a time."""
    narrow = replace(CPU, free_bytes=1)
    made = settings(Train(batch_size=batch), "kto", SMOLLM2, narrow, Load(batch, 4096, 100))
    assert made.micro_batch == least
    assert settings(Train(), "sft", SMOLLM2, narrow, Load(batch, 4096, 100)).micro_batch == 1


def test_running_out_of_memory_halves_until_one_row_is_left() -> None:
    made: Settings | None = replace(make(Train(batch_size=24), longest=64), micro_batch=24)
    seen = []
    while made is not None:
        seen.append(made.micro_batch)
        made = made.halved()
    assert seen == [24, 12, 6, 3, 1]


def test_the_estimate_says_memory_time_and_rate() -> None:
    said = estimate(make(Train(batch_size=8)), SMOLLM2, CPU, Load(8, 512, 300))
    assert said.startswith("60 steps of 8 rows (")
    assert "rate 0.0013" in said
    assert "GiB" in said
    assert said.endswith(" in float32")
