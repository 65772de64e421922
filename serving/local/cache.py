"""Keys and values of every running row, so that requests may join and leave between tokens.

Row i of the batch holds its tokens in columns 0 to length-1 (padding is on the right and never
attended to). A row that leaves is filled with the last one, so the running rows stay together and
attention reads plain views. There are cells for as many rows and columns as ran at once, no more,
and `release` gives back what a long prompt took.
"""

import ctypes
import platform

import torch
from torch import Tensor
from transformers.cache_utils import Cache

KEPT_BYTES = 64 * 2**20
"""Cells of idle times: less than the weights of any model, and enough for short conversations."""


class RowCache(Cache):  # type: ignore[misc]  # transformers has no types
    """A transformers cache that is told before each forward which cells the new tokens go to."""

    def __init__(self, max_rows: int, max_columns: int) -> None:
        super().__init__(layers=[])
        self._max_rows = max_rows
        self._max_columns = max_columns
        self._stores: list[tuple[Tensor, Tensor]] = []
        self._start = 0
        self._columns: Tensor | None = None
        self._rows: Tensor | None = None
        self._width = 0

    def begin_prefill(self, start: int) -> None:
        """Next forward: whole prompts, one per row from row `start` on."""
        self._start, self._columns = start, None

    def begin_decode(self, columns: Tensor) -> None:
        """Next forward: one token per row; row i writes column `columns[i]`."""
        self._columns = columns
        self._rows = torch.arange(len(columns))
        self._width = int(columns.max()) + 1

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Store [rows, heads, tokens, size] and return what the new tokens may attend to."""
        if self._columns is None:
            return self._prefill(key_states, value_states, layer_idx)
        rows = len(self._columns)
        keys, values = self._room(layer_idx, key_states, value_states, rows, self._width)
        keys[self._rows, :, self._columns] = key_states[:, :, 0]
        values[self._rows, :, self._columns] = value_states[:, :, 0]
        return keys[:rows, :, : self._width], values[:rows, :, : self._width]

    def _prefill(self, new_keys: Tensor, new_values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        rows, width = slice(self._start, self._start + len(new_keys)), new_keys.shape[2]
        keys, values = self._room(layer, new_keys, new_values, rows.stop, width)
        keys[rows, :, :width] = new_keys
        values[rows, :, :width] = new_values
        return new_keys, new_values

    def _room(
        self, layer: int, key: Tensor, value: Tensor, rows: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """The layer's tensors, grown by half or more until `rows` and `width` fit."""
        if layer == len(self._stores):
            self._stores.append((key[:0, :, :0], value[:0, :, :0]))
        keys, values = self._stores[layer]
        if keys.shape[0] < rows or keys.shape[2] < width:
            size = (
                _grown(keys.shape[0], rows, 4, self._max_rows),
                _grown(keys.shape[2], width, 128, self._max_columns),
            )
            self._stores[layer] = keys, values = _larger(keys, *size), _larger(values, *size)
        return keys, values

    def release(self) -> None:
        """Nothing runs: give large cells back to the system."""
        held = sum(keys.nbytes + values.nbytes for keys, values in self._stores)
        if held > KEPT_BYTES:
            self._stores.clear()
            _trim()

    def move(self, source: int, target: int, length: int) -> None:
        """Row `source` takes the place of row `target`."""
        for keys, values in self._stores:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before this forward; masks and positions are given explicitly."""
        return 0 if self._columns is None else self._width - 1


def _grown(now: int, needed: int, least: int, most: int) -> int:
    return now if now >= needed else min(most, max(needed, least, now + now // 2))


def _larger(old: Tensor, rows: int, columns: int) -> Tensor:
    new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _trim() -> None:
    # The allocator of glibc keeps what was freed; others have no such call.
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
