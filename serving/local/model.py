"""The base model and its tokenizer: load, prefill, decode one step.

Computed on the CPU, in float32 unless told otherwise; logits leave as float32 either way.

Full attention only: a model with sliding windows is served up to its window, any other kind of
layer is refused at start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from serving.local.cache import RowCache
from serving.local.lora import Adapter, LoraLayers
from serving.local.shape import Grammars

MAX_MODEL_LEN = 8192
"""Cap of the context: the cache is memory for max_batch rows of the longest one."""


@dataclass(frozen=True)
class Defaults:
    """What a request that says nothing gets: the model's generation_config, as vLLM does."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None


class Model:
    """One base model, its running rows and its adapters."""

    def __init__(self, path: str, max_rows: int, *, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, attn_implementation="sdpa"
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"model_server.model {path!r} cannot be loaded: {reason}") from error
        self._model.eval().requires_grad_(False)
        self._dtype = dtype
        self.root = path
        self.max_len = context_length(self._model.config, path)
        self.lora = LoraLayers(dtype=dtype)
        self.lora.install(self._model)
        self.cache = RowCache(max_rows, self.max_len)
        generation = self._model.generation_config
        self.stop_ids = frozenset(_stop_ids(generation.eos_token_id, self.tokenizer.eos_token_id))
        self.grammars = Grammars(self.tokenizer, self.vocabulary, self.stop_ids)
        self.defaults = Defaults(
            **{
                key: value
                for key, value in (
                    ("temperature", generation.temperature),
                    ("top_p", generation.top_p),
                    ("top_k", generation.top_k),
                    ("max_tokens", generation.max_new_tokens),
                )
                if value is not None
            }
        )

    @property
    def vocabulary(self) -> int:
        return int(self._model.config.get_text_config().vocab_size)

    def prefill(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None], start: int
    ) -> Tensor:
        """Run whole prompts into the rows from `start` on; last logits [rows, vocabulary]."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        mask = self._masked(torch.ones(width, width, dtype=torch.bool).triu(1))[None, None]
        ends, place = torch.unique(lengths - 1, return_inverse=True)
        self.lora.select(adapters)
        self.cache.begin_prefill(start)
        logits = self._forward(ids, mask, torch.arange(width)[None], ends)
        return logits[torch.arange(len(prompts)), place]

    def decode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """One more token per row; `lengths` is what each holds already. Adapters as selected."""
        width = int(lengths.max()) + 1
        unseen = torch.arange(width)[None] > lengths[:, None]
        mask = self._masked(unseen)[:, None, None]
        self.cache.begin_decode(lengths)
        return self._forward(tokens[:, None], mask, lengths[:, None], 1)[:, 0]

    def _masked(self, unseen: Tensor) -> Tensor:
        """What is added to attention's scores: nothing, or as good as minus infinity."""
        mask = torch.zeros(unseen.shape, dtype=self._dtype)
        return mask.masked_fill_(unseen, torch.finfo(self._dtype).min)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: Tensor | int) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: Tensor = output.logits.float()
        return logits


def context_length(config: Any, path: str) -> int:
    """Tokens of prompt and answer together; ConfigError for layers this server cannot run."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        raise ConfigError(
            f"model_server.model {path!r} has layers of kind {', '.join(sorted(kinds))}; "
            "the local server runs attention only, serve it with vLLM"
        )
    limits = (getattr(text, "max_position_embeddings", None), getattr(text, "sliding_window", None))
    return min(MAX_MODEL_LEN, *(int(limit) for limit in limits if limit))


def _stop_ids(*values: int | list[int] | None) -> set[int]:
    ids: set[int] = set()
    for value in values:
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    return ids


def resolve(root: Path, model: str) -> str:
    """A folder relative to the config file, else a hub id."""
    folder = root / model
    return str(folder.resolve()) if folder.is_dir() else model
