"""Forward passes of the token engine: packed ones, and decoding with static shapes.

:class:`ForwardPass` runs the model on the tokens of a
:class:`~search_env.agents.inference.attention.Plan` and samples. :class:`StaticDecoder` decodes one
token of every row from fixed buffers, so that CUDA can capture the step as a graph; without
capture the same code runs on any device. :mod:`search_env.agents.inference.engine` decides which
tokens to forward.

Shapes, here and in the comment at each tensor:

* R: rows of the engine. n: rows, or positions, of one call.
* B, S: batch and tokens of a forward pass, B = 1 where runs are packed. V: vocabulary.
* W: leading pages of the cache that a static step reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from search_env.agents.errors import ContextLengthError, ModelMismatchError
from search_env.agents.inference.attention import HIDDEN_POSITION, Plan, ragged_model
from search_env.agents.inference.paged_cache import Index, RaggedCache
from search_env.agents.inference.sampling import Sampling, without

_WIDTHS = 16
"""Number of values of W, and so of graphs: one for each sixteenth of the cache in use."""
_LAYERS = {"full_attention", "sliding_attention"}


class Sampled(NamedTuple):
    """One token per row: ids int64 ``(n,)``, log_probs and values float32 ``(n,)``."""

    ids: Tensor
    log_probs: Tensor
    values: Tensor | None


class ForwardPass:
    """A model with its cache, sampling distribution and critic.

    The critic maps the last hidden state, in float32, to values ``(n, 1)``. A model whose kind of
    attention is not supported raises ModelMismatchError.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: RaggedCache,
        sampling: Sampling,
        value_head: nn.Module | None,
    ) -> None:
        self.model, self.cache = model, cache
        self.sampling, self.value_head = sampling, value_head
        check_layers(model)

    def forward(self, ids: Tensor, plan: Plan, keep: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """Forward the plan's tokens, ids int64 ``(B, S)``, and store their keys and values.

        Returns logits ``(n, V)``, and with a critic values float32 ``(n,)``, of the tokens
        ``keep``: indices ``(n,)`` into S, or the number of last ones.
        """
        plan.dtype = self.model.dtype  # some models compute queries in float32
        self.cache.write_pages, self.cache.write_places = plan.write_pages, plan.write_places
        caught: AbstractContextManager[list[Tensor]] = nullcontext([])
        if self.value_head is not None:
            caught = last_hidden_state(self.model)
        with torch.inference_mode(), ragged_model(self.model, plan), caught as hidden:
            output = self.model(
                input_ids=ids,
                position_ids=plan.positions.view(ids.shape),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
                ragged=plan,
            )
            logits = output.logits.flatten(0, 1)  # (n, V)
            if self.value_head is None:
                return logits, None
            return logits, self.value_head(hidden[-1].flatten(0, 1).float())[:, 0]

    @torch.inference_mode()
    def sample(self, logits: Tensor, values: Tensor | None, uniforms: Tensor) -> Sampled:
        """Draw one id per row, at uniforms ``(n,)`` in [0, 1), from logits ``(n, V)``."""
        log_probs = self.sampling.log_probs(logits)  # (n, V)
        ids = self.sampling.draw(log_probs, uniforms)  # (n,)
        return Sampled(ids, log_probs.gather(1, ids[:, None])[:, 0], values)


class StaticDecoder:
    """Decodes one token of every row; rows outside a call are computed and ignored.

    With ``capture`` steps are CUDA graphs, one per combination of W and common prefix.
    """

    def __init__(
        self, forward_pass: ForwardPass, rows: int, device: torch.device, capture: bool
    ) -> None:
        pages = len(forward_pass.cache.owners)
        self._forward_pass, self._rows, self._capture = forward_pass, rows, capture
        self._step = -(-pages // _WIDTHS)
        # One buffer, so that one copy brings a step's integers to the device.
        self._integers = torch.zeros(5 * rows + 2 * pages, dtype=torch.int64, device=device)
        self._uniforms = torch.zeros(rows, device=device)  # (R,)
        self._logits: Tensor | None = None  # (R, V) of the last step in which ids were forbidden
        self._graphs: dict[tuple[int, int, bool], tuple[torch.cuda.CUDAGraph, Sampled]] = {}

    def decode(
        self,
        index: Index,
        ids: Index,
        positions: Index,
        uniforms: Tensor,
        forbidden: Sequence[NDArray[np.integer]] | None = None,
    ) -> Sampled:
        """Forward one token of some rows and draw the next, in the order of ``index``.

        All arrays are ``(n,)``: rows, the token of each, its position, whose page is reserved, and
        on the CPU the uniforms. ``forbidden`` has ids of each row; the draw is then no part of the
        graph.
        """
        cache, rows = self._forward_pass.cache, self._rows
        width = min(-(-cache.used_pages // self._step) * self._step, len(cache.owners))  # W
        host = np.zeros((5, rows), np.int64)
        host[2] = len(cache.owners) - 1  # the page that no row reads
        numbers, places = np.divmod(positions, cache.page_size)  # (n,) each
        host[:, index] = ids, positions, cache.table[index, numbers], places, cache.sharers[index]
        decoding = np.zeros(rows + 2, np.bool_)  # the last two: the common prefix, and no row
        decoding[index] = True
        owners = cache.owners[:width]  # (W,)
        seen = decoding[owners]  # (W,)
        pages = np.where(seen, owners, 0), np.where(seen, cache.firsts[:width], HIDDEN_POSITION)
        integers = torch.from_numpy(np.concatenate([host.reshape(-1), *pages]))  # (5 R + 2 W,)
        chosen = torch.from_numpy(index).to(self._uniforms.device)  # (n,)
        self._integers[: len(integers)].copy_(integers)
        self._uniforms[chosen] = uniforms.to(self._uniforms.device)
        draws = forbidden is None
        sampled = self._replay(width, draws) if self._capture else self._run(width, draws)
        values = None if sampled.values is None else sampled.values[chosen]
        if self._logits is not None and not draws:
            logits = without(self._logits[chosen], forbidden)  # (n, V)
            return self._forward_pass.sample(logits, values, self._uniforms[chosen])
        return Sampled(sampled.ids[chosen], sampled.log_probs[chosen], values)

    def _run(self, width: int, draws: bool = True) -> Sampled:
        """Decode from the buffers, reading the first W = ``width`` pages; draw, or keep logits."""
        rows = self._rows
        ids, positions, write_pages, write_places, shares = self._integers[: 5 * rows].view(5, rows)
        slots, firsts = self._integers[5 * rows : 5 * rows + 2 * width].view(2, width)  # (W,)
        common = self._forward_pass.cache.common
        plan = Plan(
            positions=positions,
            write_pages=write_pages,
            write_places=write_places,
            singles=None,
            runs=[],
            common=common,
            aside=shares == 0,
            pages=slice(common, width),
            slots=slots[common:],
            firsts=firsts[common:],
        )
        logits, values = self._forward_pass.forward(ids[:, None], plan, 1)
        if draws:
            return self._forward_pass.sample(logits, values, self._uniforms)
        with torch.inference_mode():
            if self._logits is None:
                self._logits = torch.empty_like(logits)
            self._logits.copy_(logits)  # where all graphs leave them
        return Sampled(ids, self._uniforms, values)

    def _replay(self, width: int, draws: bool) -> Sampled:
        """Do the same with a graph, captured at the first step of its shape."""
        shape = self._forward_pass.cache.common, width, draws
        if shape not in self._graphs:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries initialise themselves before the capture
                self._run(width, draws)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self._graphs.values()))[0].pool() if self._graphs else None
            with torch.cuda.graph(graph, pool=pool):
                sampled = self._run(width, draws)
            self._graphs[shape] = graph, sampled
        graph, sampled = self._graphs[shape]
        graph.replay()
        return sampled


def check_context(model: PreTrainedModel, max_tokens: int) -> None:
    """Raise ContextLengthError if a model does not support sequences of ``max_tokens``."""
    limit, source = context_limit(model)
    if limit is not None and max_tokens > limit:
        raise ContextLengthError(
            f"Expected max_tokens of at most {limit} ({source} of {type(model).__name__}), got "
            f"{max_tokens}. Lower max_tokens."
        )


def context_limit(model: PreTrainedModel) -> tuple[int | None, str]:
    """Return the longest sequence that a model supports, None for any, and the setting's name.

    It is the number of positions, or the length beyond which rotary frequencies depend on the
    longest sequence of a batch.
    """
    config = model.config.get_text_config(decoder=True)
    limit, source = getattr(config, "max_position_embeddings", None), "max_position_embeddings"
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if part.get("rope_type") in ("dynamic", "longrope"):
            original = part.get("original_max_position_embeddings")
            if original is not None:
                limit, source = original, "original_max_position_embeddings"
    return (limit if limit is None or limit > 0 else None), source


def check_calls(model: PreTrainedModel, calls: int) -> None:
    """Raise ModelMismatchError unless every layer has called the attention once."""
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if calls != layers:
        raise ModelMismatchError(
            f"Expected all {layers} layers of {type(model).__name__} to use transformers' "
            f"attention interface, got {calls}. Use a model whose class sets "
            "_supports_attention_backend."
        )


def check_windows(model: PreTrainedModel, windows: int, length: int) -> None:
    """Raise ModelMismatchError if layers kept their sliding windows from the attention.

    ``windows`` is the number of layers that told it theirs. A window of at least ``length`` tokens
    has no effect.
    """
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    expected = kinds.count("sliding_attention") if kinds else config.num_hidden_layers
    if window is not None and window < length and windows != expected:
        raise ModelMismatchError(
            f"Expected {expected} layers of {type(model).__name__} to pass their window of "
            f"{window} tokens on to the attention, got {windows}. Set sliding_window=None in its "
            f"config if {window} tokens are enough, or use another model."
        )


def check_layers(model: PreTrainedModel) -> None:
    """Raise ModelMismatchError unless only causal full or sliding attention mixes positions."""
    config = model.config.get_text_config(decoder=True)
    unsupported = set(getattr(config, "layer_types", None) or ()) - _LAYERS
    if unsupported or not getattr(config, "is_causal", True):
        raise ModelMismatchError(
            f"Expected layers of causal full or sliding attention, got {type(model).__name__} with "
            f"{', '.join(sorted(unsupported)) or 'attention that is not causal'}. Use another "
            "model."
        )


@contextmanager
def last_hidden_state(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collect the inputs ``(B, n, H)`` of the language-model head in a list, one per call."""
    caught: list[Tensor] = []
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    hook = head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        yield caught
    finally:
        hook.remove()
