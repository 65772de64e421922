"""What every method trains with: the base model, its tokenizer, a fresh adapter, one set of knobs.

A candidate is always a fresh adapter on the base model, learned from all admitted rows, never a
continuation of the champion's: errors of earlier rounds do not accumulate, the order in which data
arrived does not matter, a version is fully named by its snapshot, and a row that was erased is out
of the next version. What the champion knows comes back by replay of its answers.
"""

import os
import random
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from everlearn.chat import Unsupported
from everlearn.config import Service
from everlearn.errors import ConfigError, TrainingError
from everlearn.task import Task, base_model_path
from trainer.encode import Encoder, template_hash
from trainer.machine import available_memory, four_bit, native_bf16
from trainer.progress import shown
from trainer.render import Conversation, Renderer
from trainer.rows import Message, Messages
from trainer.settings import (
    LEAST_ROWS,
    Load,
    Machine,
    Precision,
    Settings,
    Shape,
    estimate,
    fitting,
    longest_row,
    precision,
    settings,
)
from trainer.tracking import Metrics
from trainer.watch import Send, watching


def quiet() -> None:
    """Before the first import of the libraries: no telemetry, no bars and notices of their own."""
    # Threads that wait by spinning starve each other on a busy machine: measured on two cores
    # beside other work 97 s for a run that takes 12 s when they sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_OFFLINE"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # TRL 1.16 still says gradient_checkpointing, which transformers has renamed.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing` is deprecated.*", FutureWarning)


def import_trainers() -> None:
    """TRL takes 8 to 16 s to import, which is no method's own time."""
    from trl import DPOTrainer, GRPOTrainer, KTOTrainer, SFTTrainer

    assert all((DPOTrainer, GRPOTrainer, KTOTrainer, SFTTrainer))


def seeded(seed: int) -> None:
    """Every random state of this process begins at `seed`."""
    from transformers import set_seed

    set_seed(seed)


def print_nothing(_: str) -> None:
    """For who trains nothing."""


@dataclass(frozen=True)
class Workbench:
    """Loads from `base` and keeps scratch files in `folder`."""

    task: Task
    base: str
    folder: Path
    report: Callable[[str], None] = print_nothing
    micro_limit: int | None = None
    """Rows at a time at most, found by running out of memory."""
    free_bytes: int | None = None
    """As it was when the run began, where it is taken up; None: as it is now."""
    resolved: dict[str, Settings] = field(default_factory=dict)
    """Settings by method, as they were used."""

    @classmethod
    def of(cls, service: Service, task: Task, folder: Path = Path()) -> Self:
        """The task's; without a folder of its own it renders, and trains nothing."""
        return cls(task, base_model_path(service, task), folder)

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's; ConfigError without a chat template that renders a conversation."""
        quiet()
        from transformers import AutoTokenizer

        name = f"base_model {self.task.base_model!r}"
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.base, padding_side="left")
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{name}: its tokenizer cannot be loaded: {reason}") from error
        if tokenizer.chat_template is None:
            raise ConfigError(f"{name}: its tokenizer has no template (chat_template)")
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ConfigError(f"{name}: its tokenizer has neither pad nor end token")
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def encoder(self) -> Encoder:
        """Rows as tokens of this model; ConfigError when its template holds no conversation."""
        keep = self.task.train.reasoning == "keep"
        renderer = Renderer(self.tokenizer, self.stop_ids, keep_thinking=keep)
        train = self.task.train
        made = Encoder(
            renderer,
            template_hash(self.tokenizer.chat_template),
            max_length=longest_row(train, self.shape, self.machine),
            max_prompt=self.context - min(train.max_completion_tokens, self.context // 4),
        )
        check_template(renderer, f"base_model {self.task.base_model!r}")
        return made

    @cached_property
    def config(self) -> Any:
        """The base model's configuration; TrainingError when there is none."""
        quiet()
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.base)
        except (OSError, ValueError) as error:
            raise TrainingError(f"base model {self.base}: {str(error).splitlines()[0]}") from error

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together that the model can hold."""
        text = self.config.get_text_config()
        return int(
            getattr(text, "max_position_embeddings", None) or self.tokenizer.model_max_length
        )

    @cached_property
    def stop_ids(self) -> list[int]:
        """Every token that ends an answer: the tokenizer's and those the model declares."""
        from transformers import GenerationConfig

        try:
            declared = GenerationConfig.from_pretrained(self.base).eos_token_id
        except OSError:
            declared = self.config.get_text_config().eos_token_id
        many = declared if isinstance(declared, list) else [declared]
        found = {int(each) for each in (self.tokenizer.eos_token_id, *many) if each is not None}
        return sorted(found)

    @cached_property
    def shape(self) -> Shape:
        """What settings depend on of the base model."""
        return Shape.of(self.config, self.context)

    @cached_property
    def machine(self) -> Machine:
        """What settings depend on of this machine."""
        if self.uses_cpu:
            free = self.free_bytes or available_memory()
            return Machine(cuda=False, free_bytes=free, native_bf16=native_bf16())
        import torch

        free = self.free_bytes or int(torch.cuda.mem_get_info()[0])
        return Machine(cuda=True, free_bytes=free, value_bytes=self.dtype.itemsize)

    def precision(self, method: str) -> Precision:
        """What the method computes in."""
        return precision(self.task.train, method, self.shape, self.machine)

    def settings(self, method: str, load: Load) -> Settings:
        """What the method is trained with, said before the start."""
        made = settings(self.task.train, method, self.shape, self.machine, load)
        if self.micro_limit is not None:
            least = LEAST_ROWS.get(method, 1)
            made = replace(made, micro_batch=fitting(load.batch, self.micro_limit, least))
        self.report(f"{method}: {estimate(made, self.shape, self.machine, load)}")
        self.resolved[method] = made
        return made

    def smaller(self, method: str) -> "Workbench | None":
        """The same with half the micro-batch for `method`; None when it can be no smaller."""
        halved = self.resolved[method].halved()
        if halved is None or halved.micro_batch < LEAST_ROWS.get(method, 1):
            return None
        return replace(self, micro_limit=halved.micro_batch)

    @property
    def uses_cpu(self) -> bool:
        """Whether training runs on the CPU: asked for, or nothing else is there."""
        import torch

        device = self.task.train.device
        if device == "cpu" or torch.cuda.is_available():
            return device == "cpu"
        if device == "cuda":
            raise ConfigError(
                "train.device = 'cuda': this machine has no CUDA device; use auto or cpu"
            )
        return True

    @property
    def dtype(self) -> Any:
        """Of the base model's weights. A CPU's stay float32: their copies are cast as they are
        used, so that what was trained answers as a server without bfloat16 would."""
        import torch

        pinned = self.task.train.precision == "float32"
        return torch.float32 if self.uses_cpu or pinned else torch.bfloat16

    def base_model(self) -> Any:
        """A fresh copy of the base model; TrainingError when it cannot be loaded."""
        quiet()
        from transformers import AutoModelForCausalLM

        options = {"quantization_config": four_bit(self.uses_cpu)} if self.four_bit else {}
        dtype = self.dtype  # a device that is not there is no fault of the model
        try:
            model = AutoModelForCausalLM.from_pretrained(self.base, dtype=dtype, **options)
        except (OSError, ValueError) as error:
            raise TrainingError(f"base model {self.base}: {str(error).splitlines()[0]}") from error
        return model if self.uses_cpu or self.four_bit else model.to("cuda")

    @property
    def four_bit(self) -> bool:
        return self.task.train.load_in_4bit

    def lora(self) -> Any:
        """The adapter's shape, from `train.lora`."""
        quiet()
        from peft import LoraConfig

        shape = self.task.train.lora
        return LoraConfig(
            r=shape.r,
            lora_alpha=shape.alpha,
            lora_dropout=shape.dropout,
            target_modules=shape.target_modules,
            task_type="CAUSAL_LM",
        )

    def adapted(self, adapter: Path | None) -> Any:
        """The base model with that adapter, for answering; None = one that changes nothing.

        So that base model and adapter are compared in the same form, latency included.
        """
        from peft import PeftModel, get_peft_model

        model = self.base_model()
        if adapter is None:
            return get_peft_model(model, self.lora()).eval()
        return PeftModel.from_pretrained(model, str(adapter)).eval()

    def arguments(self, method: str, made: Settings, **own: Any) -> dict[str, Any]:
        """What every TRL config gets; `own` overrides."""
        train = self.task.train
        shared = {
            "output_dir": str(self.folder / method),
            "seed": train.seed,
            "max_steps": made.max_steps,
            "per_device_train_batch_size": made.micro_batch,
            "gradient_accumulation_steps": made.accumulation,
            "learning_rate": made.learning_rate,
            "warmup_steps": made.warmup_steps,
            "lr_scheduler_type": "linear",
            "use_cpu": self.uses_cpu,
            # TRL turns both on by default; on the CPU they cost time and win nothing.
            "bf16": made.precision == "bfloat16",
            "gradient_checkpointing": made.gradient_checkpointing,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "disable_tqdm": True,
            "dataloader_pin_memory": not self.uses_cpu,
        }
        return {**shared, **own}

    def encode(
        self,
        messages: Messages,
        answer: str | Message,
        tools: Messages | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, list[int]] | None:
        """Token ids and labels (-100 on the prompt); None if it is longer than `max_length`,
        Unsupported if the template cannot hold it."""
        said = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
        made = self.encoder.example(Conversation(messages, tools, options), said)
        return None if made is None else {"input_ids": made.input_ids, "labels": made.labels}


def check_template(renderer: Renderer, name: str) -> None:
    """ConfigError when the template cannot hold a question and its answer."""
    asked = Conversation([{"role": "user", "content": "question"}])
    try:
        renderer.example(asked, {"role": "assistant", "content": "answer"})
    except Unsupported as error:
        if error.reason == "template_opens_thinking":
            return  # a matter of the task: its rows say so one by one
        raise ConfigError(
            f"{name}: its chat template cannot hold a question and its answer "
            f"({error.reason}: {error})"
        ) from error


def until(deadline: float | None, method: str, report: Callable[[str], None]) -> Any:
    """A callback that ends training at the deadline, of the monotonic clock: what was learned by
    then is examined."""
    from transformers import TrainerCallback

    class Until(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if (
                deadline is None
                or time.monotonic() < deadline
                or state.global_step >= args.max_steps
            ):
                return
            control.should_training_stop = True
            report(
                f"{method}: stopped at step {state.global_step}/{args.max_steps}: "
                "train.budget_minutes is spent"
            )

    return Until()


class OutOfMemory(TrainingError):
    """A smaller micro-batch may do."""


@dataclass(frozen=True)
class Trained:
    """A fitted adapter on its base model, with what was measured on the way."""

    method: str
    model: Any
    seconds: float
    metrics: Metrics


def fit(
    method: str,
    trainer: Any,
    report: Callable[[str], None],
    *,
    resume: Path | None = None,
    send: Send | None = None,
) -> Trained:
    """Train, from checkpoint `resume` on; TrainingError with the reason on NaN loss or when memory
    runs out. `send` gets the metrics of each step."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    started = time.monotonic()
    try:
        with shown(method, trainer.args.max_steps, report) as update:
            watch = watching(method, update, send)
            trainer.add_callback(watch)
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except (RuntimeError, MemoryError) as error:
        if not _is_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0][:200]
        raise OutOfMemory(f"{method}: out of memory: {reason}") from error
    # As it will be served: without autocast, whatever it was trained in.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
    return Trained(method, model, time.monotonic() - started, watch.metrics)


def _is_memory(error: Exception) -> bool:
    """CUDA has an error of its own; the CPU's allocator raises a plain RuntimeError."""
    import torch

    text = str(error).lower()
    plain = "can't allocate memory" in text or "not enough memory" in text
    return plain or isinstance(error, torch.OutOfMemoryError | MemoryError)


def shuffled_cycles(count: int, weights: list[float], slots: int, seed: int) -> list[int]:
    """`slots` indices below `count`: shuffled passes in which a row comes about as often as its
    weight against the mean says, a quarter to three times."""
    if count == 0 or slots == 0:
        return []
    rng = random.Random(seed)
    mean = sum(weights) / count
    shares = [min(3.0, max(0.25, weight / mean)) for weight in weights]
    order: list[int] = []
    while len(order) < slots:
        cycle = [
            index
            for index, share in enumerate(shares)
            for _ in range(int(share) + (rng.random() < share % 1))
        ]
        rng.shuffle(cycle)
        order += cycle
    return order[:slots]
