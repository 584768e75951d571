"""Token engine: sequences that grow by sampled and inserted tokens, over any causal LM.

Every row is an independent sequence that begins, takes inserted tokens and ends at any time. Each
token is forwarded once, without padding. A sampled token is forwarded in the next
:meth:`Engine.decode` of its row, together with the tokens inserted after it.

The engine works on ids alone, without tokenizer, tags or end of sequence. The model is any
transformers causal LM that uses the library's attention interface (Qwen, Llama, GPT-2, SmolLM,
Gemma, ...). It may be trained in place between calls; cached states stay as they were computed.

Shapes in the comments: n rows of a call, R rows of the engine, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from search_env.agents.errors import (
    ContextLengthError,
    ModelMismatchError,
    NonFiniteError,
    memory_errors,
)
from search_env.agents.inference.agreement import (
    SUFFIX,
    check_agreement,
    own_log_probs,
    probes,
    refused,
)
from search_env.agents.inference.attention import Plan, packed_positions
from search_env.agents.inference.forward import (
    ForwardPass,
    Sampled,
    StaticDecoder,
    check_calls,
    check_context,
    check_windows,
)
from search_env.agents.inference.paged_cache import Index, RaggedCache
from search_env.agents.inference.rollout_engine import AnyTokenIds, Decoded, Rows, Weights
from search_env.agents.inference.sampling import Sampling, without
from search_env.agents.inference.shapes import are_rounded, rounded
from search_env.errors import ConfigurationError
from search_env.validation import check_count

__all__ = ["Engine"]

_PAGE_SIZES = {"cpu": 32}
"""Tokens of a page: small pages waste less, but GPUs are more efficient on large matrices."""


@dataclass(slots=True)
class Timings:
    """Time and tokens of the engine since the last :meth:`reset`.

    In a forward pass of both prefill and decoding, attention is timed separately for each, and the
    rest is divided by the number of tokens.
    """

    prefill_seconds: float = 0.0  # for tokens that no token was sampled from
    decode_seconds: float = 0.0  # for the others, sampling included
    prefill_tokens: int = 0
    decode_tokens: int = 0
    copied_tokens: int = 0  # not forwarded because another row has the same prefix

    def reset(self) -> None:
        """Set everything to zero."""
        self.prefill_seconds = self.decode_seconds = 0.0
        self.prefill_tokens = self.decode_tokens = self.copied_tokens = 0

    def add(self, seconds: float, prefilled: int, decoded: int, plan: Plan | None) -> None:
        """Add one forward pass; ``plan`` is None for one of prefill or decoding alone."""
        fraction = prefilled / (prefilled + decoded)
        prefill = seconds * fraction
        if plan is not None:
            rest = seconds - plan.run_seconds - plan.single_seconds
            prefill = plan.run_seconds + rest * fraction
        self.prefill_seconds += prefill
        self.decode_seconds += seconds - prefill
        self.prefill_tokens += prefilled
        self.decode_tokens += decoded


class Engine:
    """Rows of a causal LM that are decoded together.

    It is a :class:`~search_env.agents.inference.rollout_engine.RolloutEngine`, which documents the
    arguments of its methods.

    Args:
        model: Any transformers causal LM. Each call restores its configuration and mode.
        max_tokens: Maximum number of tokens of a row, prompt and inserted tokens included.
        prefill_chunk: Maximum number of prefill tokens in one forward pass, which bounds the
            memory.
        value_head: Maps the last hidden state ``(n, H)`` to values ``(n, 1)``.
        graphs: Decode with static shapes and, on CUDA, captured graphs; None for CUDA only. Graphs
            see weights that change in place, but no replaced ones.
        shares_weights: The model itself is trained in place, so that :meth:`update_weights` has
            nothing to copy.

    Raises:
        ModelMismatchError: The model does not run with the attention of
            :mod:`search_env.agents.inference.attention`, or computes something else with it.
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
        shares_weights: bool = False,
    ) -> None:
        check_count("rows", rows, 1)
        check_count("max_tokens", max_tokens, 1)
        check_count("prefill_chunk", prefill_chunk, 1)
        check_context(model, max_tokens)
        self.rows, self.max_tokens = rows, max_tokens
        embeddings: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
        self.lengths: Index = np.zeros(rows, np.int64)
        self.timings = Timings()
        self.has_log_probs, self.weights_version = True, 0
        self._shares_weights = shares_weights
        self._prefill_chunk = prefill_chunk
        self._vocabulary = embeddings.num_embeddings
        self._device = model.device
        # The last row is the common prefix.
        self._written: Index = np.zeros(rows + 1, np.int64)
        self._tokens: Index = np.zeros((rows + 1, max_tokens), np.int64)
        self._uniforms: NDArray[np.float32] = np.zeros((rows, max_tokens), np.float32)
        page_size = _PAGE_SIZES.get(self._device.type, 128)
        is_latent = hasattr(model.config.get_text_config(decoder=True), "kv_lora_rank")
        self._cache = RaggedCache(rows, max_tokens, page_size, widens=not is_latent)
        self._forward_pass = ForwardPass(model, self._cache, sampling or Sampling(), value_head)
        cuda = self._device.type == "cuda"
        self._plan: Plan | None = None  # of the last packed pass
        self._static: StaticDecoder | None = None
        if cuda if graphs is None else graphs:
            self._static = StaticDecoder(self._forward_pass, rows, self._device, capture=cuda)
        self._probe()

    @property
    def sampling(self) -> Sampling:
        """The distribution that tokens are drawn from."""
        return self._forward_pass.sampling

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache when all rows are full; 0 before the first token."""
        return self._cache.nbytes

    @property
    def prefill_seconds(self) -> float:
        """Seconds for tokens that no token was sampled from, since timings were reset."""
        return self.timings.prefill_seconds

    def begin(self, rows: Rows, prompts: Sequence[AnyTokenIds], seeds: Sequence[int]) -> None:
        """Begin new sequences, in place of the rows' former ones.

        Equal prompts of one call are forwarded once. So is the common prefix of all prompts of a
        call if no other row is in use; later prompts with the prefix reuse it until a weight
        changes.

        Raises:
            ContextLengthError: A prompt has more than ``max_tokens``.
            ModelMismatchError: An id is outside the model's vocabulary.
            ConfigurationError: Rows, prompts and seeds do not match.
        """
        index = self._checked(rows, len(prompts))
        if len(seeds) != len(index):
            raise ConfigurationError(
                f"Expected one seed for each of {len(index)} rows, got {len(seeds)}. Pass as many."
            )
        prompts = self._checked_ids(index, prompts, np.zeros_like(index))
        if not all(prompt.size for prompt in prompts):
            raise ConfigurationError(
                "Expected prompts of at least one token, got an empty one. Begin with the "
                "tokenizer's start token."
            )
        self.release(index)
        if not self.lengths.any():
            self._find_common(prompts)
        equal: dict[bytes, list[int]] = {}  # rows by prompt
        for row, prompt, seed in zip(index.tolist(), prompts, seeds, strict=True):
            self._tokens[row, : prompt.size] = prompt
            self._uniforms[row] = np.random.default_rng(seed).random(self.max_tokens, np.float32)
            equal.setdefault(prompt.tobytes(), []).append(row)
        self.lengths[index] = [prompt.size for prompt in prompts]
        self._share_common(index)
        self._share([group for group in equal.values() if len(group) > 1])

    def insert(self, rows: Rows, tokens: Sequence[AnyTokenIds]) -> None:
        """Append tokens that the model did not sample; the next decode forwards them.

        Raises:
            ContextLengthError: A row would exceed ``max_tokens``. No row was changed.
            ModelMismatchError: An id is outside the model's vocabulary.
            ConfigurationError: A row has not begun, or rows and tokens do not match.
        """
        index = self._checked(rows, len(tokens), begun=True)
        tokens = self._checked_ids(index, tokens, self.lengths[index])
        for row, ids in zip(index.tolist(), tokens, strict=True):
            length = int(self.lengths[row])
            self._tokens[row, length : length + ids.size] = ids
            self.lengths[row] = length + ids.size

    def decode(self, rows: Rows, forbidden: Sequence[AnyTokenIds] | None = None) -> Decoded:
        """Sample the next token of each row and append it.

        Args:
            rows: Those that decode.
            forbidden: Ids that each of them may not sample, possibly none; None for no row. The
                log-probability is that of the distribution without them.

        Raises:
            ContextLengthError: A row is full.
            DeviceMemoryError: Memory ran out. The rows are unchanged.
            NonFiniteError: The model's weights are not finite. The rows are unchanged.
            ConfigurationError: A row has not begun, all its ids are forbidden, or rows and
                forbidden ids do not match.
        """
        index = self._checked(rows, None if forbidden is None else len(forbidden), begun=True)
        full = index[self.lengths[index] >= self.max_tokens]
        if full.size:
            raise ContextLengthError(
                f"Expected room for a token in row {full[0]}, got a row that has all "
                f"{self.max_tokens} tokens. Release it, or raise max_tokens."
            )
        if max(map(len, forbidden or ()), default=0) >= self._vocabulary:
            raise ConfigurationError(
                "Expected an id that is allowed, got all forbidden. Forbid fewer."
            )
        if not index.size:
            empty = np.zeros(0, np.float32)
            values = None if self._forward_pass.value_head is None else empty
            return Decoded(np.zeros(0, np.int64), empty, values)
        # Static steps decode one token of each row and nothing else.
        remaining = self._prefill_chunk if self._static is None else 0
        self._prefill(index, self.lengths[index] - 1, remaining)
        start = time.perf_counter()
        pending = int((self.lengths[index] - self._written[index]).sum())
        with self._memory_errors():
            sampled = self._decode(index, forbidden)
            decoded = Decoded(
                sampled.ids.cpu().numpy(),
                sampled.log_probs.cpu().numpy(),
                None if sampled.values is None else sampled.values.cpu().numpy(),
            )
        seconds = time.perf_counter() - start
        self.timings.add(seconds, pending - len(index), len(index), self._plan)
        bad = ~np.isfinite(decoded.log_probs)
        if bad.any():
            self._written[index] -= 1  # as if the last token had not been forwarded
            raise NonFiniteError(
                f"Expected finite log-probabilities, got {decoded.log_probs[bad][0]} in row "
                f"{index[bad][0]}. Restore the model's last good weights."
            )
        self._tokens[index, self.lengths[index]] = decoded.ids
        self.lengths[index] += 1
        return decoded

    def release(self, rows: Rows) -> None:
        """End the sequences of distinct rows; rows that have not begun are allowed."""
        index = self._checked(rows)
        self.lengths[index] = 0
        self._written[index] = 0
        self._cache.release(index)

    def update_weights(self, weights: Weights, version: int) -> None:
        """Copy weights into the model, unless it shares them, and set their version.

        Cached states of rows in use stay as they were computed.

        Raises:
            ModelMismatchError: They are another model's. Nothing was changed.
        """
        if not self._shares_weights:
            old, new = self._forward_pass.model.state_dict(), weights()
            wrong = old.keys() ^ new.keys() or [n for n in old if old[n].shape != new[n].shape]
            if wrong:
                kind = type(self._forward_pass.model).__name__
                raise ModelMismatchError(
                    f"Expected the weights of this engine's {kind}, "
                    f"got others: {min(wrong)!r} differs. Build the engine for the trained model."
                )
            for name, tensor in old.items():
                tensor.copy_(new[name])  # in place, where CUDA graphs read them
        self.weights_version = version

    def _find_common(self, prompts: Sequence[Index]) -> None:
        """Forward the common prefix of these prompts, in whole pages."""
        self._cache.drop_common()
        row = np.array([self._cache.common_row])
        self._written[row] = 0
        shortest = min(prompt.size for prompt in prompts) - 1 if len(prompts) > 1 else 0
        alike = np.all([prompt[:shortest] == prompts[0][:shortest] for prompt in prompts], 0)
        length = int(alike.argmin()) if not alike.all() else shortest
        length -= length % self._cache.page_size
        if length:
            self._tokens[row, :length] = prompts[0][:length]
            self._prefill(row, np.array([length]), 0)
            self._cache.set_common()
            self.timings.copied_tokens -= length  # the first row's are forwarded, not copied
        self._weights = _version(self._forward_pass.model)

    def _share_common(self, index: Index) -> None:
        """Let rows share the common prefix that they begin with."""
        length = int(self._written[self._cache.common_row])
        common = self._tokens[self._cache.common_row, :length]  # (length,)
        fits = (self._tokens[index, :length] == common).all(1) & (self.lengths[index] > length)
        if not length or self._weights != _version(self._forward_pass.model):
            return
        sharers = index[fits]
        self._cache.share_common(sharers)
        self._written[sharers] = length
        self.timings.copied_tokens += length * len(sharers)

    def _share(self, groups: list[list[int]]) -> None:
        """Forward each group's prompt once, up to its last token, and copy the cache."""
        groups = [group for group in groups if self.lengths[group[0]] > 1]
        if not groups:
            return
        firsts = np.array([group[0] for group in groups])
        self._prefill(firsts, self.lengths[firsts] - 1, 0)
        start = time.perf_counter()
        for first, *rest in groups:
            shared, tokens = self._written[rest[0]], self._written[first]
            self._cache.copy(first, np.array(rest), int(tokens))
            self._written[rest] = tokens
            self.timings.copied_tokens += int(tokens - shared) * len(rest)
        self.timings.prefill_seconds += time.perf_counter() - start

    def _prefill(self, index: Index, ends: Index, remaining: int) -> None:
        """Forward tokens before ``ends`` in chunks, until at most ``remaining`` are left."""
        while (pending := ends - self._written[index]).sum() > remaining:  # (n,)
            before = np.cumsum(pending) - pending
            counts = np.clip(self._prefill_chunk - before, 0, pending)
            chosen = counts > 0
            start = time.perf_counter()
            with self._memory_errors():
                self._forward(index[chosen], counts[chosen], 1)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # else the time would count as decoding
            self.timings.add(time.perf_counter() - start, int(counts.sum()), 0, None)

    def _decode(self, index: Index, forbidden: Sequence[AnyTokenIds] | None) -> Sampled:
        """Forward the remaining tokens of the rows, and sample after the last token of each."""
        uniforms = torch.from_numpy(self._uniforms[index, self.lengths[index]])  # (n,)
        if self._static is None:
            counts = self.lengths[index] - self._written[index]
            last = torch.from_numpy(np.cumsum(counts) - 1).to(self._device)  # (n,)
            logits, values = self._forward(index, counts, last)
            logits = without(logits, forbidden)
            return self._forward_pass.sample(logits, values, uniforms.to(self._device))
        positions = self._written[index]
        self._plan = None
        self._cache.reserve(index, positions + 1)
        ids = self._tokens[index, positions]
        sampled = self._static.decode(index, ids, positions, uniforms, forbidden)
        self._written[index] += 1
        return sampled

    def _forward(
        self, index: Index, counts: Index, keep: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Forward the next ``counts`` tokens of the rows, ``(n,)`` each, as one packed sequence.

        ``keep`` has the packed tokens to return logits ``(kept tokens, V)`` of, and with a value
        head values ``(kept tokens,)``: indices, or the number of last ones.
        """
        starts = self._written[index]
        self._cache.reserve(index, starts + counts)
        positions = packed_positions(starts, counts)
        ids = torch.from_numpy(self._tokens[np.repeat(index, counts), positions])  # (S,)
        kept = len(keep) if isinstance(keep, Tensor) else keep
        padding = 0
        if are_rounded(self._device, self._forward_pass.model.dtype):
            padding = rounded(len(ids), 8) - len(ids)
            if isinstance(keep, Tensor):
                keep = pad(keep, (0, rounded(kept, 8) - kept))
        plan = Plan.of(self._cache, index, starts, counts, self._device, padding)
        self._plan, ids = plan, pad(ids, (0, padding))
        logits, values = self._forward_pass.forward(ids[None].to(self._device), plan, keep)
        self._written[index] += counts
        return logits[:kept], None if values is None else values[:kept]

    def _checked(self, rows: Rows, sequences: int | None = None, begun: bool = False) -> Index:
        """Return the rows as an array, or raise; ``sequences`` is how many go with them."""
        index = np.asarray(rows, np.int64).reshape(-1)
        if sequences is not None and sequences != len(index):
            raise ConfigurationError(
                f"Expected token ids for each of {len(index)} rows, got {sequences}. Pass as many."
            )
        if index.size and (index.min() < 0 or index.max() >= self.rows):
            raise ConfigurationError(
                f"Expected rows from 0 to {self.rows - 1}, got {index.tolist()}. "
                "Raise the engine's rows."
            )
        if len(np.unique(index)) != len(index):
            raise ConfigurationError(
                f"Expected distinct rows, got {index.tolist()}. Remove duplicates."
            )
        if begun and not self.lengths[index].all():
            idle = index[self.lengths[index] == 0]
            raise ConfigurationError(
                f"Expected rows that have begun, got row {idle[0]}. Call begin for it first."
            )
        return index

    def _checked_ids(
        self, index: Index, tokens: Sequence[AnyTokenIds], lengths: Index
    ) -> list[Index]:
        """Return ids as int64, or raise if they cannot follow the rows' ``lengths`` tokens."""
        checked = [np.asarray(ids, np.int64).reshape(-1) for ids in tokens]
        for row, ids, length in zip(index, checked, lengths, strict=True):
            if length + ids.size > self.max_tokens:
                raise ContextLengthError(
                    f"Expected at most {self.max_tokens} tokens in row {row}, got {length} and "
                    f"{ids.size} more. Raise max_tokens or shorten what is inserted."
                )
            if ids.size and (ids.min() < 0 or ids.max() >= self._vocabulary):
                raise ModelMismatchError(
                    f"Expected ids from 0 to {self._vocabulary - 1}, got {ids.min()} to "
                    f"{ids.max()} in row {row}. Use the tokenizer that the model was trained with."
                )
        return checked

    def _probe(self) -> None:
        """Check that cached passes agree with the model's own; the first allocates the cache."""
        model, where = self._forward_pass.model, "the engine"
        # In the first row and in that of the common prefix, so that one row is enough.
        index: Index = np.array([0, self._cache.common_row])
        with self._memory_errors(), refused(model, where):
            first, _, last = probes(model)
            lengths = np.minimum([len(first), len(last)], self.max_tokens)
            for row, ids, length in zip(index, (first, last), lengths, strict=True):
                self._tokens[row, :length] = ids[:length].numpy()
            singles = min(SUFFIX, int(lengths.min()) - 1)
            parts: list[list[Tensor]] = [[], []]  # (tokens, V) of each row
            for counts in (lengths - singles, *np.ones((singles, 2), np.int64)):
                backwards = torch.arange(int(counts.sum()), device=self._device).flip(0)
                logits, _ = self._forward(index, counts, backwards)  # (tokens, V)
                split = torch.split(logits.flip(0).float().log_softmax(-1), counts.tolist())
                for row_parts, part in zip(parts, split, strict=True):
                    row_parts.append(part)
                assert self._plan is not None
                check_calls(model, self._plan.calls)
                check_windows(model, self._plan.windows, self.max_tokens)
            with torch.no_grad():
                expected = own_log_probs(model, [first, last])
                check_agreement(model, expected, [torch.cat(part) for part in parts], where)
        self._tokens[index] = 0
        self._written[index] = 0
        self._plan = None
        self._cache.release(index)

    def _memory_errors(self) -> AbstractContextManager[None]:
        return memory_errors(
            f"memory for rows={self.rows} of max_tokens={self.max_tokens} and "
            f"prefill_chunk={self._prefill_chunk}",
            "Lower rows or max_tokens (the cache), or prefill_chunk (one forward pass).",
        )


def _version(model: PreTrainedModel) -> int:
    """Return a number that increases when a weight is changed in place."""
    return sum(parameter._version for parameter in model.parameters())
