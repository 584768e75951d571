"""Forward passes of the token engine: packed ones, and decoding with shapes that never change.

:class:`ForwardPass` calls the model on whatever a
:class:`~search_env.agents.inference.attention.Plan` says and samples. :class:`StaticDecoder`
decodes one token of every row from buffers that stay where they are, so that CUDA can capture the
step as a graph; without capture the same code runs on any device. Which tokens are due is the
business of :mod:`search_env.agents.inference.engine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from search_env.agents.errors import ContextLengthError, ModelMismatchError
from search_env.agents.inference.attention import HIDDEN_POSITION, Plan, ragged_model
from search_env.agents.inference.paged_cache import Index, RaggedCache
from search_env.agents.inference.sampling import Sampling

_WIDTHS = 16
"""Most graphs of one decoder: one for each sixteenth of the cache that is in use."""
_LAYERS = {"full_attention", "sliding_attention"}


class Sampled(NamedTuple):
    """One token of each row: ids int64 ``(n,)``, log_probs and values float32 ``(n,)``."""

    ids: Tensor
    log_probs: Tensor
    values: Tensor | None


class ForwardPass:
    """A model with its cache, its distribution and its critic.

    Args:
        model: Any causal LM that uses transformers' attention interface.
        cache: Keys and values.
        sampling: The distribution that tokens are drawn from.
        value_head: Maps the last hidden state, in float32, to values ``(n, 1)``.

    Raises:
        ModelMismatchError: The model's attention is none that is computed here.
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
        _check_layers(model)

    def forward(self, ids: Tensor, plan: Plan, keep: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """Forward tokens and keep their keys and values.

        Args:
            ids: int64 ``(B, S)``.
            plan: Positions and pages of these tokens.
            keep: Which of the S tokens logits are wanted of: indices, or how many of the last.

        Returns:
            Logits ``(n, V)``, and values float32 ``(n,)`` where there is a critic.
        """
        self.cache.write_pages, self.cache.write_places = plan.write_pages, plan.write_places
        with (
            torch.inference_mode(),
            ragged_model(self.model),
            _last_hidden_state(self.model, self.value_head is not None) as hidden,
        ):
            output = self.model(
                input_ids=ids,
                position_ids=plan.positions.view(ids.shape),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
                ragged=plan,
            )
            logits = output.logits.flatten(0, 1)
            if self.value_head is None:
                return logits, None
            return logits, self.value_head(hidden[-1].flatten(0, 1).float())[:, 0]

    @torch.inference_mode()
    def sample(self, logits: Tensor, values: Tensor | None, uniforms: Tensor) -> Sampled:
        """Draw one id a row.

        Args:
            logits: ``(n, V)``.
            values: ``(n,)`` or None.
            uniforms: ``(n,)`` in [0, 1).
        """
        log_probs = self.sampling.log_probs(logits)
        ids = self.sampling.draw(log_probs, uniforms)
        return Sampled(ids, log_probs.gather(1, ids[:, None])[:, 0], values)

    def probe(self, ids: Tensor, plan: Plan) -> None:
        """Forward one token: reserves the memory and finds out whether the model takes part.

        Raises:
            ModelMismatchError: Not every layer asked for the attention of this package.
        """
        name = type(self.model).__name__
        advice = "Use a model whose class sets _supports_attention_backend."
        try:
            self.forward(ids, plan, 1)
        except TypeError as error:
            raise ModelMismatchError(
                f"Expected a model that hands options on to its attention, got {name}: {error}. "
                + advice
            ) from error
        layers = self.model.config.get_text_config(decoder=True).num_hidden_layers
        if plan.calls != layers:
            raise ModelMismatchError(
                f"Expected all {layers} layers of {name} to use transformers' attention interface, "
                f"got {plan.calls}. {advice}"
            )


class StaticDecoder:
    """Decodes one token of every row; rows that are not asked for are computed and ignored.

    Args:
        forward_pass: Model and cache.
        rows: Sequences side by side.
        device: Where the model is.
        capture: Whether steps are captured as CUDA graphs, one for each width that comes up.
    """

    def __init__(
        self, forward_pass: ForwardPass, rows: int, device: torch.device, capture: bool
    ) -> None:
        pages = len(forward_pass.cache.owners)
        self._forward_pass, self._rows, self._capture = forward_pass, rows, capture
        self._step = -(-pages // _WIDTHS)
        # One buffer, so that one copy brings a step's integers to the device.
        self._integers = torch.zeros(5 * rows + 2 * pages, dtype=torch.int64, device=device)
        self._uniforms = torch.zeros(rows, device=device)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Sampled]] = {}

    def decode(self, index: Index, ids: Index, positions: Index, uniforms: Tensor) -> Sampled:
        """Forward one token of some rows and draw the next.

        Args:
            index: int64 ``(n,)``: which rows.
            ids: int64 ``(n,)``: the token of each.
            positions: int64 ``(n,)``: its position; its page is reserved.
            uniforms: float32 ``(n,)`` on the CPU.

        Returns:
            In the order of ``index``.
        """
        cache, rows = self._forward_pass.cache, self._rows
        width = min(-(-cache.used_pages // self._step) * self._step, len(cache.owners))
        host = np.zeros((5, rows), np.int64)
        host[2] = len(cache.owners) - 1  # the page that nobody reads
        host[:, index] = (
            ids,
            positions,
            cache.table[index, positions // cache.page_size],
            positions % cache.page_size,
            cache.sharers[index],
        )
        asked = np.zeros(rows + 2, np.bool_)  # the last two: the common beginning, and no row
        asked[index] = True
        owners = cache.owners[:width]
        seen = asked[owners]
        pages = np.where(seen, owners, 0), np.where(seen, cache.firsts[:width], HIDDEN_POSITION)
        integers = torch.from_numpy(np.concatenate([host.reshape(-1), *pages]))
        where = torch.from_numpy(index).to(self._uniforms.device)
        self._integers[: len(integers)].copy_(integers)
        self._uniforms[where] = uniforms.to(self._uniforms.device)
        sampled = self._replay(width) if self._capture else self._run(width)
        values = None if sampled.values is None else sampled.values[where]
        return Sampled(sampled.ids[where], sampled.log_probs[where], values)

    def _run(self, width: int) -> Sampled:
        """Decode from the buffers, reading the first ``width`` pages."""
        rows = self._rows
        ids, positions, write_pages, write_places, shares = self._integers[: 5 * rows].view(5, rows)
        slots, firsts = self._integers[5 * rows : 5 * rows + 2 * width].view(2, width)
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
        return self._forward_pass.sample(logits, values, self._uniforms)

    def _replay(self, width: int) -> Sampled:
        """Do the same by a graph, captured when its shape first comes up."""
        shape = self._forward_pass.cache.common, width
        if shape not in self._graphs:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries set themselves up outside of the capture
                self._run(width)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self._graphs.values()))[0].pool() if self._graphs else None
            with torch.cuda.graph(graph, pool=pool):
                sampled = self._run(width)
            self._graphs[shape] = graph, sampled
        graph, sampled = self._graphs[shape]
        graph.replay()
        return sampled


def check_context(model: PreTrainedModel, max_tokens: int) -> None:
    """Raise where sequences of ``max_tokens`` are beyond the model.

    Raises:
        ContextLengthError: It has fewer positions, or its rotary frequencies change with the
            longest sequence of a batch from there on.
    """
    config = model.config.get_text_config(decoder=True)
    limit, source = getattr(config, "max_position_embeddings", None), "max_position_embeddings"
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if part.get("rope_type") in ("dynamic", "longrope"):
            original = part.get("original_max_position_embeddings")
            if original is not None:
                limit, source = original, "original_max_position_embeddings"
    if limit is not None and max_tokens > limit:
        raise ContextLengthError(
            f"Expected max_tokens of at most {limit} ({source} of {type(model).__name__}), got "
            f"{max_tokens}. Lower max_tokens."
        )


def _check_layers(model: PreTrainedModel) -> None:
    config = model.config.get_text_config(decoder=True)
    others = set(getattr(config, "layer_types", None) or _LAYERS) - _LAYERS
    if others or not getattr(config, "is_causal", True):
        raise ModelMismatchError(
            f"Expected layers of causal full or sliding attention, got {type(model).__name__} with "
            f"{', '.join(sorted(others)) or 'attention that is not causal'}. Use another model."
        )


@contextmanager
def _last_hidden_state(model: PreTrainedModel, wanted: bool) -> Iterator[list[Tensor]]:
    """Catch what goes into the language-model head, whatever the model does before and after."""
    caught: list[Tensor] = []
    if not wanted:
        yield caught
        return
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    hook = head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        yield caught
    finally:
        hook.remove()
