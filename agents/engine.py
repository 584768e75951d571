"""Token engine: sequences that grow by sampled and by inserted tokens, over any causal LM.

Every row is a sequence of its own. Rows begin, take inserted tokens and end at any time, side by
side; each token is forwarded once, nothing is padded and nothing is computed twice. A sampled
token waits until the next :meth:`Engine.decode` of its row, where it is forwarded together with
whatever was inserted behind it.

The engine deals in ids: it knows no tokenizer, no tag and no end of sequence. The model is any
transformers causal LM that uses the library's attention interface (Qwen, Llama, GPT-2, SmolLM,
Gemma, ...). It may be trained between calls, in place; what a row has in its cache stays as it was
computed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from agents.attention import Plan, ragged_model
from agents.cache import RaggedCache
from agents.errors import ContextLengthError, DeviceMemoryError, ModelMismatchError
from agents.sampling import Sampling
from search_env.errors import ConfigurationError

Rows = Sequence[int] | NDArray[np.integer]
Ids = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One new token of each of n rows.

    Attributes:
        ids: int64 ``(n,)``.
        log_probs: float32 ``(n,)``: of the distribution that each id was drawn from.
        values: float32 ``(n,)``: the value head's estimate of the state in which each id was
            chosen; None without a value head.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    values: NDArray[np.float32] | None


@dataclass(slots=True)
class Timings:
    """Where the engine's time went since the last :meth:`reset`.

    A forward pass that carries prompts or documents beside tokens to decode is shared out by the
    number of tokens.

    Attributes:
        prefill_seconds: Seconds for tokens that no token was sampled from.
        decode_seconds: Seconds for the others, sampling included.
        prefill_tokens: Tokens that no token was sampled from.
        decode_tokens: Tokens sampled.
        copied_tokens: Tokens whose keys and values were copied from a row with the same prompt.
    """

    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    copied_tokens: int = 0

    def reset(self) -> None:
        """Begin at zero."""
        self.prefill_seconds = self.decode_seconds = 0.0
        self.prefill_tokens = self.decode_tokens = self.copied_tokens = 0

    def add(self, seconds: float, prefilled: int, decoded: int) -> None:
        """Count one forward pass."""
        share = prefilled / (prefilled + decoded)
        self.prefill_seconds += seconds * share
        self.decode_seconds += seconds * (1.0 - share)
        self.prefill_tokens += prefilled
        self.decode_tokens += decoded


class Engine:
    """Rows of a causal LM that are decoded together.

    Args:
        model: Any transformers causal LM. Its configuration and mode are as before after each call.
        rows: Sequences side by side.
        max_tokens: Most tokens of one, prompt and inserted tokens included.
        sampling: The distribution that tokens are drawn from.
        prefill_chunk: Most tokens without a sampled one in one forward pass: bounds the memory.
        value_head: Maps the last hidden state ``(n, width)`` to values ``(n, 1)``.
        graphs: Whether decoding is captured as CUDA graphs; None captures on CUDA.

    Raises:
        ModelMismatchError: The model does not take the attention of :mod:`agents.attention`.
        ContextLengthError: ``max_tokens`` exceeds the model's positions.
        DeviceMemoryError: The cache does not fit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rows: int,
        max_tokens: int,
        sampling: Sampling | None = None,
        prefill_chunk: int = 2048,
        value_head: nn.Module | None = None,
        graphs: bool | None = None,
    ) -> None:
        for name, count in (
            ("rows", rows),
            ("max_tokens", max_tokens),
            ("prefill_chunk", prefill_chunk),
        ):
            if count < 1:
                raise ConfigurationError(
                    f"Expected {name} of 1 or more, got {count}. Raise {name}."
                )
        _check_context(model, max_tokens)
        self.model = model
        self.sampling = sampling or Sampling()
        self.value_head = value_head
        self.lengths: NDArray[np.int64] = np.zeros(rows, np.int64)
        self.timings = Timings()
        self._prefill_chunk = prefill_chunk
        self._device = model.device
        embeddings: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
        self._vocabulary = embeddings.num_embeddings
        self._written = np.zeros(rows, np.int64)
        self._tokens = np.zeros((rows, max_tokens), np.int64)
        self._uniforms = np.zeros((rows, max_tokens), np.float32)
        self._cache = RaggedCache(
            rows, max_tokens, 32, torch.float32 if self._device.type == "cpu" else None
        )
        self._probe()

    @property
    def rows(self) -> int:
        """Sequences side by side."""
        return int(self._tokens.shape[0])

    @property
    def max_tokens(self) -> int:
        """Most tokens of one sequence."""
        return int(self._tokens.shape[1])

    def begin(self, rows: Rows, prompts: Sequence[Ids], seeds: Sequence[int]) -> None:
        """Begin new sequences; what the rows held before is dropped.

        Equal prompts of one call are forwarded once. The token at position p of a row is drawn by
        the p-th number of ``np.random.default_rng(seed)``, whatever the other rows do.

        Args:
            rows: ``(n,)``, distinct.
            prompts: Ids of each, at least one.
            seeds: One for each.

        Raises:
            ContextLengthError: A prompt leaves no room for a token.
            ModelMismatchError: An id is none of the model's.
            ConfigurationError: Rows, prompts and seeds do not match.
        """
        index = self._checked(rows, len(prompts))
        if len(seeds) != len(index):
            raise ConfigurationError(
                f"Expected one seed for each of {len(index)} rows, got {len(seeds)}. Pass as many."
            )
        prompts = [
            self._checked_ids(row, prompt, 0) for row, prompt in zip(index, prompts, strict=True)
        ]
        twins: dict[bytes, list[int]] = {}
        for row, prompt, seed in zip(index.tolist(), prompts, seeds, strict=True):
            if not prompt.size:
                raise ConfigurationError(
                    f"Expected a prompt of at least one token for row {row}, got none. "
                    "Begin with the tokenizer's start token."
                )
            self._tokens[row, : prompt.size] = prompt
            self._uniforms[row] = np.random.default_rng(seed).random(self.max_tokens, np.float32)
            twins.setdefault(prompt.tobytes(), []).append(row)
        self.lengths[index] = [prompt.size for prompt in prompts]
        self._written[index] = 0
        self._cache.release(index)
        self._share([group for group in twins.values() if len(group) > 1])

    def insert(self, rows: Rows, tokens: Sequence[Ids]) -> None:
        """Append tokens that the model did not choose; they are forwarded with the next decode.

        Args:
            rows: ``(n,)``, distinct, all begun.
            tokens: Ids for each; none is allowed.

        Raises:
            ContextLengthError: A row would grow beyond ``max_tokens``. No row has changed then.
            ModelMismatchError: An id is none of the model's.
            ConfigurationError: A row has not begun, or rows and tokens do not match.
        """
        index = self._checked(rows, len(tokens), begun=True)
        tokens = [
            self._checked_ids(row, ids, int(self.lengths[row]))
            for row, ids in zip(index, tokens, strict=True)
        ]
        for row, ids in zip(index.tolist(), tokens, strict=True):
            length = int(self.lengths[row])
            self._tokens[row, length : length + ids.size] = ids
            self.lengths[row] = length + ids.size

    def decode(self, rows: Rows) -> Decoded:
        """Sample the next token of each row.

        Args:
            rows: ``(n,)``, distinct, all begun; in any order.

        Returns:
            Ids, log-probabilities and values in the order of ``rows``.

        Raises:
            ContextLengthError: A row is full.
            DeviceMemoryError: Memory ran out.
            ConfigurationError: A row has not begun.
        """
        index = self._checked(rows, begun=True)
        full = index[self.lengths[index] >= self.max_tokens]
        if full.size:
            raise ContextLengthError(
                f"Expected room for a token in row {full[0]}, got a row that has all "
                f"{self.max_tokens} tokens. Release it, or raise max_tokens."
            )
        if not index.size:
            empty = np.zeros(0, np.float32)
            return Decoded(np.zeros(0, np.int64), empty, None if self.value_head is None else empty)
        self._prefill(index, self._prefill_chunk)
        decoded = self._forward_and_sample(index)
        self._tokens[index, self.lengths[index]] = decoded.ids
        self.lengths[index] += 1
        return decoded

    def release(self, rows: Rows) -> None:
        """Drop what the rows hold.

        Args:
            rows: Distinct; rows that have not begun are allowed.
        """
        index = self._checked(rows)
        self.lengths[index] = 0
        self._written[index] = 0
        self._cache.release(index)

    def _share(self, groups: list[list[int]]) -> None:
        """Forward each group's common prompt once, up to its last token, and copy the cache."""
        groups = [group for group in groups if self.lengths[group[0]] > 1]
        if not groups:
            return
        self._prefill(np.array([group[0] for group in groups]), 0)
        start = time.perf_counter()
        with torch.inference_mode():
            for first, *others in groups:
                tokens = int(self._written[first])
                self._cache.copy(first, np.array(others), tokens)
                self._written[others] = tokens
                self.timings.copied_tokens += tokens * len(others)
        self.timings.prefill_seconds += time.perf_counter() - start

    def _prefill(self, index: NDArray[np.int64], leave: int) -> None:
        """Forward tokens before each row's last until at most ``leave`` are left, in chunks."""
        while (ahead := self.lengths[index] - 1 - self._written[index]).sum() > leave:
            before = np.cumsum(ahead) - ahead
            counts = np.clip(self._prefill_chunk - before, 0, ahead)
            chosen = counts > 0
            start = time.perf_counter()
            self._forward(index[chosen], counts[chosen], 1)
            self.timings.add(time.perf_counter() - start, int(counts.sum()), 0)

    def _forward_and_sample(self, index: NDArray[np.int64]) -> Decoded:
        """Forward all that is left of the rows, and sample behind the last token of each."""
        start = time.perf_counter()
        counts = self.lengths[index] - self._written[index]
        last = torch.from_numpy(np.cumsum(counts) - 1).to(self._device)
        uniforms = torch.from_numpy(self._uniforms[index, self.lengths[index]]).to(self._device)
        logits, values = self._forward(index, counts, last)
        with torch.inference_mode():
            log_probs = self.sampling.log_probs(logits)
            ids = self.sampling.draw(log_probs, uniforms)
            chosen = log_probs.gather(1, ids[:, None])[:, 0]
        decoded = Decoded(
            ids.cpu().numpy(),
            chosen.cpu().numpy(),
            None if values is None else values.float().cpu().numpy(),
        )
        seconds = time.perf_counter() - start
        self.timings.add(seconds, int(counts.sum()) - len(index), len(index))
        return decoded

    def _forward(
        self, index: NDArray[np.int64], counts: NDArray[np.int64], keep: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Forward the next ``counts`` tokens of the rows as one packed sequence.

        Args:
            index: The rows.
            counts: How many tokens of each.
            keep: Indices of packed tokens whose logits are wanted, or how many of the last.

        Returns:
            Logits ``(k, V)``, and values ``(k,)`` where there is a value head.
        """
        starts = self._written[index]
        self._cache.reserve(index, starts + counts)
        plan = Plan.of(self._cache, index, starts, counts, self._device)
        offsets = np.cumsum(counts) - counts
        rows = np.repeat(index, counts)
        columns = np.repeat(starts - offsets, counts) + np.arange(len(rows))
        page = self._cache.page_size
        self._cache.write_pages = self._to(self._cache.table[rows, columns // page])
        self._cache.write_places = self._to(columns % page)
        ids = self._to(self._tokens[rows, columns])
        with torch.inference_mode(), ragged_model(self.model), _named_out_of_memory(self):
            with _hidden_state(self.model, self.value_head is not None) as hidden:
                logits = self.model(
                    input_ids=ids[None],
                    position_ids=plan.positions[None],
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=keep,
                    ragged=plan,
                ).logits[0]
            values = None if self.value_head is None else self.value_head(hidden[-1][0])[:, 0]
        self._written[index] += counts
        return logits, values

    def _to(self, array: NDArray[np.generic]) -> Tensor:
        """Return a tensor of the array on the model's device."""
        return torch.from_numpy(array).to(self._device)

    def _probe(self) -> None:
        """Forward one token: reserves the cache and finds out whether the model takes part."""
        self.lengths[0] = 1
        try:
            self._forward(np.zeros(1, np.int64), np.ones(1, np.int64), 1)
        except TypeError as error:
            raise ModelMismatchError(
                f"Expected a model that takes attention functions, got {type(self.model).__name__} "
                f"({error}). Use one whose class has _supports_attention_backend."
            ) from error
        self.release([0])

    def _checked(
        self, rows: Rows, given: int | None = None, begun: bool = False
    ) -> NDArray[np.int64]:
        """Return the rows as an array, or say what is wrong with them."""
        index = np.asarray(rows, np.int64).reshape(-1)
        if given is not None and given != len(index):
            raise ConfigurationError(
                f"Expected token ids for each of {len(index)} rows, got {given}. Pass as many."
            )
        if index.size and (index.min() < 0 or index.max() >= self.rows):
            raise ConfigurationError(
                f"Expected rows from 0 to {self.rows - 1}, got {index.tolist()}. "
                "Raise the engine's rows."
            )
        if len(np.unique(index)) != len(index):
            raise ConfigurationError(f"Expected distinct rows, got {index.tolist()}. Drop doubles.")
        if begun and not self.lengths[index].all():
            idle = index[self.lengths[index] == 0]
            raise ConfigurationError(
                f"Expected rows that have begun, got row {idle[0]}. Call begin for it first."
            )
        return index

    def _checked_ids(self, row: int, ids: Ids, length: int) -> NDArray[np.int64]:
        """Return ids as int64, or say why they cannot follow a row's ``length`` tokens."""
        ids = np.asarray(ids, np.int64).reshape(-1)
        if length + ids.size > self.max_tokens:
            raise ContextLengthError(
                f"Expected at most {self.max_tokens} tokens in row {row}, got {length} and "
                f"{ids.size} more. Raise max_tokens or shorten what is inserted."
            )
        if ids.size and (ids.min() < 0 or ids.max() >= self._vocabulary):
            raise ModelMismatchError(
                f"Expected ids from 0 to {self._vocabulary - 1}, got {ids.min()} to {ids.max()} "
                f"in row {row}. Use the tokenizer that the model was trained with."
            )
        return ids


def _check_context(model: PreTrainedModel, max_tokens: int) -> None:
    """Raise where the model has too few positions."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise ContextLengthError(
            f"Expected max_tokens of at most {positions} (max_position_embeddings of "
            f"{type(model).__name__}), got {max_tokens}. Lower max_tokens."
        )


@contextmanager
def _hidden_state(model: PreTrainedModel, wanted: bool) -> Iterator[list[Tensor]]:
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


@contextmanager
def _named_out_of_memory(engine: Engine) -> Iterator[None]:
    """Turn the device's own errors into one that says which setting to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        text = str(error)
        short = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text
        if not short:
            raise
        raise DeviceMemoryError(
            f"Expected memory for rows={engine.rows} of max_tokens={engine.max_tokens} and "
            f"prefill_chunk={engine._prefill_chunk}, got: {text.splitlines()[0]} "
            "Lower rows or max_tokens (the cache), or prefill_chunk (one forward pass)."
        ) from error
