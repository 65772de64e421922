"""Training settings that fit the model, the data and the machine at hand: pure functions.

What the task pins is used as pinned; what it leaves at `auto` follows size and method. Everything
resolved stands in the run's parameters.

- Learning rate: Tinker's cookbook (`tinker_cookbook/hyperparam_utils.py`, `get_lr`): 5e-5, ten
  times that for LoRA, times (2000 / hidden size) to a power of the model's family. Ours is for
  alpha / r = 2 as theirs (alpha 32, r 16). Preference and reinforcement methods move from where
  the model is, by less: the cookbook's recipes take about a tenth of the supervised rate.
- Micro-batches: the largest part of the batch whose activations fit; halved when memory runs out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from everlearn.rules import Train

BASE_RATE, LORA_FACTOR, HIDDEN = 5e-5, 10.0, 2000
EXPONENT = {"llama": 0.781, "qwen": 0.0775}
"""By family; of the flatter kind where nothing is known."""
OF_SUPERVISED = {"sft": 1.0, "kto": 0.1, "dpo": 0.1, "rft": 0.15, "hindsight": 0.5}
"""The rate of a method against SFT's, where it is `auto`."""
PINNED = {"kto": 0.5}
"""The same of a pinned rate, as measured on the text-to-SQL example."""
STEPS, STEPS_OF_RULES = 60, 240
"""Where `max_steps` is `auto`: in general, and while comments teach. Ten rules on a toy took 60
steps to copy and 240 to be mostly kept from where they do not hold."""
WARMUP = 0.05
"""Of the steps, where the rate is `auto`."""
MEMORY_SHARE = 0.6
"""Of what is free, for activations: allocators fragment, and others live here too."""
BF16_ON_CPU_FROM = 50_000_000
"""Parameters from which a CPU with instructions for it computes in bfloat16: below, casting the
weights takes what the products save."""
Precision = Literal["float32", "bfloat16"]
CHECKPOINTED_FROM = 500_000_000
"""Parameters from which a GPU recomputes activations: a third more time, a fifth of the memory."""


@dataclass(frozen=True)
class Shape:
    """What settings depend on of a base model."""

    family: str
    hidden: int
    layers: int
    vocabulary: int
    context: int

    @property
    def parameters(self) -> int:
        """About: attention and feed-forward of every layer, and the embeddings."""
        return 12 * self.layers * self.hidden**2 + self.vocabulary * self.hidden

    @classmethod
    def of(cls, config: Any, context: int) -> "Shape":
        """From transformers' configuration."""
        text = config.get_text_config()
        return cls(
            str(text.model_type),
            int(text.hidden_size),
            int(text.num_hidden_layers),
            int(text.vocab_size),
            context,
        )


@dataclass(frozen=True)
class Machine:
    """Where it is trained."""

    cuda: bool
    free_bytes: int
    native_bf16: bool = False
    """Of a CPU: whether it has instructions for products in bfloat16."""
    value_bytes: int = 4
    """Of a weight and of an activation."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a run is made with."""

    learning_rate: float
    max_steps: int
    batch_size: int
    micro_batch: int
    warmup_steps: int
    precision: Precision
    gradient_checkpointing: bool
    epochs: float
    """Passes over the learned rows."""

    @property
    def accumulation(self) -> int:
        """Micro-batches of one step."""
        return self.batch_size // self.micro_batch

    def halved(self) -> "Settings | None":
        """With half the micro-batch; None when it is one row already."""
        parts = [n for n in range(1, self.micro_batch) if self.batch_size % n == 0]
        small = [n for n in parts if n <= max(1, self.micro_batch // 2)]
        return replace(self, micro_batch=max(small)) if small else None


@dataclass(frozen=True)
class Load:
    """What a method has to train on."""

    batch: int
    """Sequences of one step."""
    longest: int
    """Tokens of the longest."""
    rows: int
    """Learned rows, for epochs."""
    taught: int | None = None
    """Of them in one step, where that is not `batch`: SFT's batches hold replay too, RFT answers a
    prompt more than once."""
    ruled: bool = False
    """Comments teach, and what their rules leave as it is stands beside."""

    @property
    def per_step(self) -> int:
        return max(1, self.batch if self.taught is None else self.taught)


def settings(train: Train, method: str, shape: Shape, machine: Machine, load: Load) -> Settings:
    """What `method` is trained with."""
    steps = steps_for(train, load)
    return Settings(
        learning_rate=rate(train, method, shape),
        max_steps=steps,
        batch_size=load.batch,
        micro_batch=fitting(
            load.batch, room(shape, machine) / max(1, load.longest), LEAST_ROWS.get(method, 1)
        ),
        warmup_steps=round(WARMUP * steps) if train.learning_rate == "auto" else 0,
        precision=precision(train, method, shape, machine),
        gradient_checkpointing=checkpointed(shape, machine),
        epochs=steps * load.per_step / max(1, load.rows),
    )


def precision(train: Train, method: str, shape: Shape, machine: Machine) -> Precision:
    """Of the products of a training step; weights of adapters and what is summed are float32."""
    if train.precision != "auto":
        return train.precision
    # An answer is generated token by token, and each casts every weight: on a CPU RFT loses by it.
    pays = machine.native_bf16 and method != "rft" and shape.parameters >= BF16_ON_CPU_FROM
    return "bfloat16" if machine.cuda or pays else "float32"


def checkpointed(shape: Shape, machine: Machine) -> bool:
    """Whether activations are recomputed."""
    return machine.cuda and shape.parameters >= CHECKPOINTED_FROM


def room(shape: Shape, machine: Machine) -> int:
    """Tokens of one micro-batch that fit into memory."""
    budget = MEMORY_SHARE * (machine.free_bytes - weights_bytes(shape, machine))
    return max(0, int(budget / activation_bytes(shape, 1, machine, checkpointed(shape, machine))))


def longest_row(train: Train, shape: Shape, machine: Machine) -> int:
    """Tokens of prompt and answer together that are trained on."""
    if train.max_length != "auto":
        return min(train.max_length, shape.context)
    return max(16, min(shape.context, room(shape, machine)))


def rate(train: Train, method: str, shape: Shape) -> float:
    """The peak learning rate."""
    if train.learning_rate != "auto":
        return train.learning_rate * PINNED.get(method, 1.0)
    family = next((name for name in EXPONENT if name in shape.family.lower()), "qwen")
    lora = BASE_RATE * LORA_FACTOR * (HIDDEN / shape.hidden) ** EXPONENT[family]
    return float(lora * OF_SUPERVISED[method])


def steps_for(train: Train, load: Load) -> int:
    """Optimizer steps: `max_steps`, less where `epochs` passes over the learned rows are fewer."""
    most = train.max_steps
    if most == "auto":
        most = STEPS_OF_RULES if load.ruled else STEPS
    if train.epochs is None:
        return most
    return max(1, min(most, round(train.epochs * load.rows / load.per_step)))


LEAST_ROWS = {"kto": 2}
"""Of a micro-batch: KTO estimates its KL term by the answer of another row of it."""


def fitting(batch_size: int, rows: float, least: int = 1) -> int:
    """The largest divisor of the batch that is at most `rows`, but at least `least`."""
    parts = [n for n in range(least, batch_size + 1) if batch_size % n == 0]
    return max((n for n in parts if n <= rows), default=min(parts, default=batch_size))


def weights_bytes(shape: Shape, machine: Machine) -> int:
    """Of the base model, and of what autocast keeps of it for the way back."""
    cast = 2 if machine.native_bf16 and shape.parameters >= BF16_ON_CPU_FROM else 0
    return shape.parameters * (machine.value_bytes + cast)


def activation_bytes(shape: Shape, length: int, machine: Machine, checkpointing: bool) -> int:
    """Of one row of that many tokens, forward and backward.

    A layer keeps about 17 values per token and hidden unit (Korthikanti et al., arXiv:2205.05198,
    eq. 1-2, without dropout's masks), with checkpointing one; logits are there three times, in
    float32.
    """
    kept = shape.layers if checkpointing else 17 * shape.layers
    return length * (kept * shape.hidden * machine.value_bytes + 3 * 4 * shape.vocabulary)


def estimate(made: Settings, shape: Shape, machine: Machine, load: Load) -> str:
    """What training will take, for people, before it starts."""
    row = activation_bytes(shape, load.longest, machine, made.gradient_checkpointing)
    memory = weights_bytes(shape, machine) + made.micro_batch * row
    # 6 operations per parameter and token; a CPU core does some 2e10 in a second, a GPU 1e14.
    work = 6 * shape.parameters * made.batch_size * load.longest * made.max_steps
    seconds = work / (1e14 if machine.cuda else 4e10)
    return (
        f"{made.max_steps} steps of {made.batch_size} rows ({made.micro_batch} at a time) up to "
        f"{load.longest} tokens, rate {made.learning_rate:.2g}: about {memory / 2**30:.1f} GiB and "
        f"at most {max(1, round(seconds / 60))} min in {made.precision}"
    )


def parameters(made: Settings) -> Mapping[str, Any]:
    """For the run's record."""
    return {
        "learning_rate": made.learning_rate,
        "max_steps": made.max_steps,
        "micro_batch": made.micro_batch,
        "accumulation": made.accumulation,
        "warmup_steps": made.warmup_steps,
        "precision": made.precision,
        "gradient_checkpointing": made.gradient_checkpointing,
    }
