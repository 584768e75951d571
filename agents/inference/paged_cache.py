"""A key-value cache whose rows are sequences of their own lengths, kept in pages.

Stock transformers models take it as ``past_key_values``: each layer writes the keys and values of
the new tokens into its rows' pages and hands all pages to the attention function of
:mod:`search_env.agents.inference.attention`. A page holds some consecutive tokens of one row; rows
take pages as they grow, the lowest numbers first, so the pages in use lie together and one batched
product reads all rows, each to its own length (the idea of vLLM's paged attention, Kwon et al.
2023).

Nothing is padded or moved. The first pages may hold a common beginning that any number of rows
share; all other pages have one owner. Every position that is not written is zero, so what a mask
hides is finite.
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
    """Keys and values of one layer, ``(pages, key-value heads, page size, head width)``.

    Args:
        pages: How many.
        page_size: Tokens of each.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, pages: int, page_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pages, self._page_size = pages, page_size

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve the memory, in the shape that the model turns out to need."""
        self.keys, self.values = (
            _zeros(new, (self._pages, new.shape[1], self._page_size, new.shape[3]))
            for new in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens and return all pages.

        Args:
            key_states: ``(B, heads, S, width)``.
            value_states: The same for the values.
            args: Page and place in it of each token, int64 ``(B * S,)`` both.
        """
        pages, places = args
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            kept[pages, :, places] = new.transpose(1, 2).flatten(0, 1).to(kept.dtype)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return that nothing is known: asked only where transformers builds a mask itself."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return 0: there is no one length. Forward passes get their positions explicitly."""
        return 0

    def get_max_length(self) -> int:
        """Return how many tokens fit in all pages together."""
        return self._pages * self._page_size


class RaggedCache(Cache):
    """Per-row cache of all layers.

    Args:
        rows: Sequences side by side.
        max_tokens: Most tokens of each.
        page_size: Tokens of one page.

    Attributes:
        write_pages: int64 ``(S,)``: page of each token of the next forward pass; set it before.
        write_places: int64 ``(S,)``: place of each in its page.
        common: How many pages hold the common beginning: the first ones.
        common_row: The row that stands for the common beginning, behind all others.
        sharers: bool ``(rows + 1,)``: which rows begin with it.
        table: int64 ``(rows + 1, most pages of one)``: the pages of each row.
        owners: int64 ``(pages,)``: the row that holds a page, -1 for none. The last page belongs
            to no row: what is to be forgotten may be written there.
        firsts: int64 ``(pages,)``: position of the page's first token in its row.
    """

    write_pages: Tensor
    write_places: Tensor
    layers: list[RaggedLayer]  # type: ignore[assignment]

    def __init__(self, rows: int, max_tokens: int, page_size: int) -> None:
        super().__init__(layers=[])
        most = -(-max_tokens // page_size)
        pages = (rows + 1) * most
        self.page_size = page_size
        self.common = 0
        self.common_row = rows
        self.sharers: NDArray[np.bool_] = np.zeros(rows + 1, np.bool_)
        self.table: Index = np.zeros((rows + 1, most), np.int64)
        self.owners: Index = np.full(pages + 1, -1)
        self.firsts: Index = np.zeros(pages + 1, np.int64)
        self._held: Index = np.zeros(rows + 1, np.int64)
        self._free = list(range(pages))

    @property
    def used_pages(self) -> int:
        """One more than the highest page that a row holds."""
        held = np.flatnonzero(self.owners >= 0)
        return int(held[-1]) + 1 if held.size else 0

    def pages(self, row: int, tokens: int) -> Index:
        """Return the pages that hold a row's first ``tokens`` tokens."""
        pages: Index = self.table[row, : -(-tokens // self.page_size)]
        return pages

    def reserve(self, index: Index, lengths: Index) -> None:
        """Give rows the pages that they need to hold ``lengths`` tokens."""
        needed = -(-lengths // self.page_size)
        short = np.flatnonzero(needed > self._held[index])
        for row, last in zip(index[short].tolist(), needed[short].tolist(), strict=True):
            for number in range(int(self._held[row]), last):
                page = heapq.heappop(self._free)
                self.table[row, number] = page
                self.owners[page] = row
                self.firsts[page] = number * self.page_size
            self._held[row] = last

    def drop_common(self) -> None:
        """Forget the common beginning; no row may hold a page."""
        self.release(np.array([self.common_row]))
        self.common = 0

    def set_common(self) -> None:
        """Make what ``common_row`` holds, whole pages, the common beginning."""
        self.common = int(self._held[self.common_row])

    def share_common(self, index: Index) -> None:
        """Let rows that hold no page begin with the common beginning."""
        self.table[index, : self.common] = self.table[self.common_row, : self.common]
        self._held[index] = self.common
        self.sharers[index] = True

    @torch.inference_mode()
    def release(self, index: Index) -> None:
        """Take the pages of rows back and clear them."""
        freed = np.flatnonzero(np.isin(self.owners, index))
        self._held[index] = 0
        self.sharers[index] = False
        self.owners[freed] = -1
        for page in freed.tolist():
            heapq.heappush(self._free, page)
        for layer in self.layers if freed.size else ():
            for states in (layer.keys, layer.values):
                states.index_fill_(0, torch.from_numpy(freed).to(states.device), 0)

    @torch.inference_mode()
    def copy(self, source: int, index: Index, tokens: int) -> None:
        """Give rows the first ``tokens`` tokens of another row that begins as they do."""
        self.reserve(index, np.full(len(index), tokens))
        own = slice(self.common * bool(self.sharers[source]), -(-tokens // self.page_size))
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                filled = states[torch.from_numpy(self.table[source, own]).to(states.device)]
                states[torch.from_numpy(self.table[index, own]).to(states.device)] = filled

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object
    ) -> tuple[Tensor, Tensor]:
        """Write one layer's new tokens and return all of its pages."""
        while len(self.layers) <= layer_idx:
            self.layers.append(RaggedLayer(len(self.owners), self.page_size))
        return self.layers[layer_idx].update(
            key_states, value_states, self.write_pages, self.write_places
        )


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return zeros of the model's type; on the CPU in float32, and only reserved until used.

    A CPU multiplies vectors and matrices of bfloat16 several times slower than those of float32,
    and ``torch.zeros`` writes to all of the memory.
    """
    if like.device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, np.float32))
    return like.new_zeros(shape)
