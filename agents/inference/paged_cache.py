"""A paged key-value cache whose rows are sequences of different lengths.

Stock transformers models take it as ``past_key_values``: each layer writes the keys and values of
the new tokens into its rows' pages and passes all pages to the attention function of
:mod:`search_env.agents.inference.attention`. A page holds consecutive tokens of one row. Rows take
pages as they grow, the lowest numbers first, so the pages in use are adjacent and one batched
product reads all rows, each to its own length (the idea of vLLM's paged attention, Kwon et al.
2023).

Nothing is padded or moved. The first pages may hold a common prefix that any number of rows share;
all other pages have one owner. Positions that are not written are zero, so masked values are
finite.

Shapes in the comments: A pages, k key-value heads, z tokens of a page, D width of a head.
"""

from __future__ import annotations

import heapq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

Index = NDArray[np.int64]


class RaggedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, ``(A, k, z, D)`` each."""

    keys: Tensor
    values: Tensor

    def __init__(self, pages: int, page_size: int, *, widens: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pages, self._page_size, self._widens = pages, page_size, widens

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the memory, with the heads and width of the first states."""
        self.keys, self.values = (  # (A, k, z, D) each
            _zeros(new, (self._pages, new.shape[1], self._page_size, new.shape[3]), self._widens)
            for new in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens, ``(B, k, S, D)`` each, and return all pages.

        ``args`` are the page and the place in it of each token, int64 ``(B * S,)`` both.
        """
        pages, places = args
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for cached, new in ((self.keys, key_states), (self.values, value_states)):
            cached[pages, :, places] = new.transpose(1, 2).flatten(0, 1).to(cached.dtype)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return sizes without a past: called only where transformers builds a mask itself."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return 0: rows differ in length, and forward passes get positions explicitly."""
        return 0

    def get_max_length(self) -> int:
        """Return the number of tokens that all pages hold together."""
        return self._pages * self._page_size


class RaggedCache(Cache):
    """Per-row cache of all layers, for ``rows`` sequences of at most ``max_tokens``.

    With ``widens`` states are float32 on a CPU, whatever the model's type: not for models that
    compute keys and values from what they cache (latent attention), with weights of their type.
    """

    write_pages: Tensor  # int64 (S,): page of each token of the next forward pass; set it before
    write_places: Tensor  # int64 (S,): place of each token in its page
    layers: list[RaggedLayer]  # type: ignore[assignment]

    def __init__(self, rows: int, max_tokens: int, page_size: int, *, widens: bool = True) -> None:
        super().__init__(layers=[])
        self._widens = widens
        pages_per_row = -(-max_tokens // page_size)
        pages = (rows + 1) * pages_per_row
        self.page_size = page_size
        self.common = 0  # number of pages, the first ones, with the common prefix
        self.common_row = rows  # stands for the common prefix, after all other rows
        self.sharers: NDArray[np.bool_] = np.zeros(rows + 1, np.bool_)  # rows that begin with it
        self.table: Index = np.zeros((rows + 1, pages_per_row), np.int64)  # pages of each row
        # (A,): the row that owns a page, -1 for none. The last page has no owner: states to discard
        # may be written there.
        self.owners: Index = np.full(pages + 1, -1)
        self.firsts: Index = np.zeros(pages + 1, np.int64)  # (A,): position of its first token
        self._counts: Index = np.zeros(rows + 1, np.int64)  # pages of each row
        self._free = list(range(pages))

    @property
    def nbytes(self) -> int:
        """Bytes of all pages of the layers that have begun."""
        layers = [layer for layer in self.layers if layer.is_initialized]
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    @property
    def used_pages(self) -> int:
        """One more than the highest page with an owner."""
        owned = np.flatnonzero(self.owners >= 0)
        return int(owned[-1]) + 1 if owned.size else 0

    def pages(self, row: int, tokens: int) -> Index:
        """Return the pages of a row's first ``tokens`` tokens."""
        pages: Index = self.table[row, : -(-tokens // self.page_size)]
        return pages

    def reserve(self, index: Index, lengths: Index) -> None:
        """Give rows the pages that they need for ``lengths`` tokens."""
        needed = -(-lengths // self.page_size)  # (n,)
        short = np.flatnonzero(needed > self._counts[index])
        for row, count in zip(index[short].tolist(), needed[short].tolist(), strict=True):
            for number in range(int(self._counts[row]), count):
                page = heapq.heappop(self._free)
                self.table[row, number] = page
                self.owners[page] = row
                self.firsts[page] = number * self.page_size
            self._counts[row] = count

    def drop_common(self) -> None:
        """Release the common prefix; no row may have a page."""
        self.release(np.array([self.common_row]))
        self.common = 0

    def set_common(self) -> None:
        """Make the pages of ``common_row``, all of them full, the common prefix."""
        self.common = int(self._counts[self.common_row])

    def share_common(self, index: Index) -> None:
        """Let rows without pages begin with the common prefix."""
        self.table[index, : self.common] = self.table[self.common_row, : self.common]
        self._counts[index] = self.common
        self.sharers[index] = True

    @torch.inference_mode()
    def release(self, index: Index) -> None:
        """Free the pages of rows, and zero them."""
        freed = np.flatnonzero(np.isin(self.owners, index))
        self._counts[index] = 0
        self.sharers[index] = False
        self.owners[freed] = -1
        for page in freed.tolist():
            heapq.heappush(self._free, page)
        for layer in self.layers if freed.size else ():
            for states in (layer.keys, layer.values):
                states.index_fill_(0, torch.from_numpy(freed).to(states.device), 0)

    @torch.inference_mode()
    def copy(self, source: int, index: Index, tokens: int) -> None:
        """Copy the first ``tokens`` tokens of a row to rows that begin with the same."""
        self.reserve(index, np.full(len(index), tokens))
        copied = slice(self.common * bool(self.sharers[source]), -(-tokens // self.page_size))
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                filled = states[torch.from_numpy(self.table[source, copied]).to(states.device)]
                states[torch.from_numpy(self.table[index, copied]).to(states.device)] = filled

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object
    ) -> tuple[Tensor, Tensor]:
        """Write one layer's new tokens and return all of its pages."""
        while len(self.layers) <= layer_idx:
            layer = RaggedLayer(len(self.owners), self.page_size, widens=self._widens)
            self.layers.append(layer)
        return self.layers[layer_idx].update(
            key_states, value_states, self.write_pages, self.write_places
        )


def _zeros(like: Tensor, shape: tuple[int, ...], widens: bool) -> Tensor:
    """Return zeros of the model's type; if it widens on the CPU in float32, not touched before use.

    A CPU multiplies bfloat16 vectors and matrices several times slower than float32 ones, and
    ``torch.zeros`` writes to all of the memory.
    """
    if like.device.type == "cpu" and (widens or like.dtype == torch.float32):
        return torch.from_numpy(np.zeros(shape, np.float32))
    return like.new_zeros(shape)
