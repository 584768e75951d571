"""A key-value cache whose rows are sequences of their own lengths.

Stock transformers models take it as ``past_key_values``: each layer writes the keys and values of
the new tokens where the forward pass's :class:`Segments` say, and hands the whole layer to the
attention function of :mod:`agents.attention`. Nothing is padded, moved or masked here, and nothing
is ever erased: what lies behind a row's write position is not read.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class Segments:
    """Which tokens one packed forward pass carries: runs of consecutive tokens of some rows.

    Args:
        rows: int64 ``(n,)``: the row of each run.
        starts: int64 ``(n,)``: the position of its first token.
        counts: int64 ``(n,)``: how many tokens, 1 or more.
        device: Where the model is.

    Attributes:
        runs: ``(row, start, count, offset)`` of each run; ``offset`` is where it begins in the
            packed sequence.
        token_rows: int64 ``(S,)`` on the device: the row of each packed token.
        positions: int64 ``(S,)`` on the device: its position in that row.
    """

    __slots__ = ("_masks", "positions", "runs", "token_rows")

    def __init__(
        self,
        rows: NDArray[np.int64],
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        offsets = np.cumsum(counts) - counts
        self.runs: list[tuple[int, int, int, int]] = list(
            zip(rows.tolist(), starts.tolist(), counts.tolist(), offsets.tolist(), strict=True)
        )
        positions = np.repeat(starts - offsets, counts) + np.arange(counts.sum())
        self.positions = torch.from_numpy(positions).to(device)
        self.token_rows = torch.from_numpy(np.repeat(rows, counts)).to(device)
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    def mask(self, start: int, count: int, window: int | None) -> Tensor:
        """Return which keys each token of a run sees, made once for all layers.

        Args:
            start: Position of the run's first token.
            count: Its number of tokens.
            window: The layer's sliding window, None where it sees everything before it.

        Returns:
            bool ``(count, keys)``, where the keys end at the run's last token and begin at 0, or
            at the first token that the run's first one sees.
        """
        mask = self._masks.get((start, count, window))
        if mask is None:
            device = self.positions.device
            low = first_key(start, window)
            queries = torch.arange(start, start + count, device=device)[:, None]
            keys = torch.arange(low, start + count, device=device)
            mask = keys <= queries
            if window is not None:
                mask &= keys > queries - window
            self._masks[start, count, window] = mask
        return mask


def first_key(position: int, window: int | None) -> int:
    """Return the first position that the token at ``position`` attends to."""
    return 0 if window is None else max(0, position - window + 1)


class RaggedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, ``(rows, key-value heads, max_tokens, head width)``."""

    keys: Tensor
    values: Tensor

    def __init__(self, rows: int, max_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shape = rows, max_tokens

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve the memory, in the shape and type that the model turns out to need."""
        rows, max_tokens = self._shape
        self.keys, self.values = (
            new.new_empty(rows, new.shape[1], max_tokens, new.shape[3])
            for new in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Segments
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens and return the whole layer.

        Args:
            key_states: ``(1, heads, S, width)``.
            value_states: The same for the values.
            args: The :class:`Segments` of this forward pass.
        """
        (segments,) = args
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = segments.token_rows, slice(None), segments.positions
        self.keys[place] = key_states[0].transpose(0, 1)
        self.values[place] = value_states[0].transpose(0, 1)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys and 0; asked only where transformers builds a mask itself."""
        return self._shape[1], 0

    def get_seq_length(self) -> int:
        """Return 0: there is no one length. Forward passes get their positions explicitly."""
        return 0

    def get_max_length(self) -> int:
        """Return how many tokens a row holds at most."""
        return self._shape[1]


class RaggedCache(Cache):
    """Per-row cache of all layers.

    Args:
        rows: Sequences side by side.
        max_tokens: Most tokens of each.

    Attributes:
        segments: Where the next forward pass writes; set it before.
    """

    segments: Segments
    layers: list[RaggedLayer]  # type: ignore[assignment]

    def __init__(self, rows: int, max_tokens: int) -> None:
        super().__init__(layers=[])
        self._shape = rows, max_tokens

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object
    ) -> tuple[Tensor, Tensor]:
        """Write one layer's new tokens and return the whole layer."""
        while len(self.layers) <= layer_idx:
            self.layers.append(RaggedLayer(*self._shape))
        return self.layers[layer_idx].update(key_states, value_states, self.segments)

    def copy(self, source: int, rows: list[int], tokens: int) -> None:
        """Copy the first ``tokens`` tokens of one row to others."""
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                states[rows, :, :tokens] = states[source, :, :tokens]
