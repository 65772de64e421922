"""LoRA adapters: read once, immutable, applied to mixed batches without touching the model.

Every adapter of a batch is laid side by side in one pair of matrices per linear layer (a bank);
a row's share is kept by a mask. So a batch of many adapters costs two matrix products per layer,
not a loop over adapters, and an adapter may come or go while others run: rows hold the adapter
they started with. Numerically the same as PEFT's own layers; a bank is in the model's own dtype.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from everlearn.errors import ServingError
from registry.servable import refusal

PREFIX = "base_model.model."


@dataclass(frozen=True, eq=False)
class Adapter:
    """One loaded adapter; float32, scaling already in B, every pair padded to the same rank."""

    name: str
    path: str
    rank: int
    weights: Mapping[str, tuple[Tensor, Tensor]]
    """Module name -> A [rank, in], B [out, rank]."""


@dataclass(frozen=True)
class Bank:
    """Several adapters side by side; `columns` says which rank columns are whose."""

    adapters: tuple[Adapter, ...]
    weights: Mapping[str, tuple[Tensor, Tensor]]
    """Module name -> A [ranks, in], B [out, ranks]."""
    columns: Mapping[Adapter, slice]

    @property
    def ranks(self) -> int:
        return sum(adapter.rank for adapter in self.adapters)


def read_adapter(name: str, folder: Path, shapes: Mapping[str, tuple[int, int]]) -> Adapter:
    """The adapter in a PEFT folder; ServingError says why it cannot be served.

    `shapes` is (out, in) of each linear layer of the base model.
    """
    config = _read_config(folder)
    pairs = _pairs(_read_weights(folder), folder)
    if not pairs:
        raise ServingError(f"{folder}: the adapter holds no LoRA weights")
    rank = max(a.shape[0] for a, _ in pairs.values())
    weights = {}
    for module, (a, b) in pairs.items():
        _check(module, a, b, shapes, folder)
        rows = a.shape[0]
        scaled = b * _scaling(config, module, rows)
        weights[module] = (
            functional.pad(a, (0, 0, 0, rank - rows)),
            functional.pad(scaled, (0, rank - rows)),
        )
    return Adapter(name, str(folder), rank, weights)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ServingError(f"{folder}: adapter_config.json cannot be read: {error}") from error
    problem = refusal(config)
    if problem is not None:
        raise ServingError(f"{folder}: {problem}")
    return dict(config)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ServingError(
            f"{folder}: adapter_model.safetensors cannot be read: {error}"
        ) from error


def _pairs(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, half = key.removeprefix(PREFIX).rpartition(".lora_")
        if half not in ("A.weight", "B.weight"):
            raise ServingError(f"{folder}: {key} is no plain LoRA weight")
        if not torch.isfinite(tensor).all():
            raise ServingError(f"{folder}: {key} holds NaN or infinite numbers")
        halves.setdefault(module, {})[half[0]] = tensor.float()
    for module, pair in halves.items():
        if len(pair) != 2:
            raise ServingError(f"{folder}: {module} has only one of lora_A and lora_B")
    return {module: (pair["A"], pair["B"]) for module, pair in halves.items()}


def _check(
    module: str, a: Tensor, b: Tensor, shapes: Mapping[str, tuple[int, int]], folder: Path
) -> None:
    if module not in shapes:
        raise ServingError(f"{folder}: the base model has no linear layer {module}")
    outs, ins = shapes[module]
    if a.shape[1:] != (ins,) or b.shape != (outs, a.shape[0]):
        raise ServingError(
            f"{folder}: {module} is {tuple(a.shape)} x {tuple(b.shape)}, "
            f"but the base model's layer is {ins} -> {outs}"
        )


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns, module), config["lora_alpha"])
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def make_bank(adapters: Sequence[Adapter], dtype: torch.dtype = torch.float32) -> Bank:
    """Lay adapters side by side, zeros where one does not reach a layer."""
    weights = {}
    for module in dict.fromkeys(name for adapter in adapters for name in adapter.weights):
        a, b = next(adapter.weights[module] for adapter in adapters if module in adapter.weights)
        pairs = [
            adapter.weights.get(
                module, (a.new_zeros(adapter.rank, a.shape[1]), b.new_zeros(len(b), adapter.rank))
            )
            for adapter in adapters
        ]
        weights[module] = (
            torch.cat([a for a, _ in pairs]).to(dtype),
            torch.cat([b for _, b in pairs], dim=1).to(dtype),
        )
    stops = torch.tensor([adapter.rank for adapter in adapters]).cumsum(0).tolist()
    columns = {
        adapter: slice(stop - adapter.rank, stop)
        for adapter, stop in zip(adapters, stops, strict=True)
    }
    return Bank(tuple(adapters), weights, columns)


@dataclass
class LoraLayers:
    """Hooks on every linear layer of a model; without a selection they do nothing."""

    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    _bank: Bank | None = None
    _weights: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _drop: Tensor | None = None

    def install(self, model: nn.Module) -> None:
        """Hook every linear layer and note its (out, in)."""
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                self.shapes[name] = (module.out_features, module.in_features)
            elif isinstance(module, Conv1D):
                self.shapes[name] = (module.weight.shape[1], module.weight.shape[0])
            else:
                continue
            module.register_forward_hook(partial(self._add, name))

    def select(self, rows: Sequence[Adapter | None]) -> None:
        """Which adapter each row of the next forwards uses; None is the base model."""
        needed = tuple(dict.fromkeys(adapter for adapter in rows if adapter is not None))
        if not needed:
            self._weights = {}
            return
        if self._bank is None or not set(needed) <= set(self._bank.adapters):
            self._bank = make_bank(needed, self.dtype)
        self._weights = self._bank.weights
        drop = torch.ones(len(rows), 1, self._bank.ranks, dtype=torch.bool)
        for number, adapter in enumerate(rows):
            if adapter is not None:
                drop[number, 0, self._bank.columns[adapter]] = False
        self._drop = drop if bool(drop.any()) else None

    def forget(self, adapter: Adapter) -> None:
        """Free an unloaded adapter's memory once no row uses it."""
        if self._bank is not None and adapter in self._bank.adapters:
            self._bank = None

    def _add(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        pair = self._weights.get(name)
        if pair is None:
            return None
        hidden = functional.linear(inputs[0], pair[0])
        if self._drop is not None:
            hidden = hidden.masked_fill_(self._drop, 0.0)
        return output.add_(functional.linear(hidden, pair[1]))
