"""Scores of pairs of query and passage by a cross-encoder of transformers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.dense.card import EncoderCard, fingerprint, longest_of
from search_env.retrieval.dense.encoder import (
    as_tensors,
    batches,
    device_and_dtype,
    load_parts,
    token_ids,
    torch_dtype,
)
from search_env.retrieval.dense.memo import Memo
from search_env.types import Document
from search_env.validation import check_count

_BATCH_TOKENS = 16_384
_REMEMBERED = 20_000  # pairs, of about 1 kB
_TEXT = EncoderCard("cls")  # for its template: title and text on two lines


class CrossEncoder:
    """A model with one output for a pair of texts (``AutoModelForSequenceClassification``).

    The score is the model's output as it is (a logit), as in Search-R1's reranker and in
    sentence-transformers without an activation. Pairs of equal length in tokens make a batch, so
    nothing is padded, and the scores of recent pairs are remembered, as those of an encoder's
    queries are. Safe to call from several threads; one at a time runs.

    Args:
        folder: Such as that of ``cross-encoder/ms-marco-MiniLM-L12-v2``. Code in it is never run.
        device: ``"auto"`` (a GPU where there is one), or a name of torch's.
        dtype: ``"auto"`` (fp32 on CPUs, fp16 on GPUs), ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        max_length: Tokens of a pair, of which the longer text is cut; None for the model's limit,
            at most 512.
        batch_tokens: Tokens in a batch.

    Raises:
        ConfigurationError: A package is missing, the model is of no use, an argument is wrong.
        DataError: A file of the folder is missing or damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        batch_tokens: int = _BATCH_TOKENS,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        longest = longest_of(self.folder)
        self.max_length = longest if max_length is None else min(longest, max_length)
        check_count("max_length", self.max_length, 8)
        self.batch_tokens = check_count("batch_tokens", batch_tokens, 1)
        self.device, dtype = device_and_dtype(device, dtype)
        from transformers import AutoModelForSequenceClassification

        self._tokenizer, self._model = load_parts(
            self.folder,
            AutoModelForSequenceClassification.from_pretrained,
            torch_dtype(dtype),
            self.device,
        )
        outputs = self._model.config.num_labels
        if outputs != 1:
            raise ConfigurationError(
                f"Expected a cross-encoder with one output in {folder}, got {outputs}. Use a model "
                "that was trained to rank, such as cross-encoder/ms-marco-MiniLM-L12-v2."
            )
        self._recent: Memo[tuple[str, str], float] = Memo(_REMEMBERED)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The model's fingerprint and the length."""
        return f"{fingerprint(self.folder)[:12]}, {self.max_length} tokens"

    def score(self, pairs: Sequence[tuple[str, Document]]) -> NDArray[np.float32]:
        """Return the model's output for each pair, float32 ``(N,)``.

        Raises:
            RetrievalError: A score is not finite.
        """
        texts = [(query, _TEXT.passage_text(document)) for query, document in pairs]
        return np.array(self._recent.get(texts, self._scores), np.float32)

    def _scores(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """Return the scores of pairs that are not remembered."""
        import torch

        scores = np.zeros(len(texts), np.float32)
        queries, passages = zip(*texts, strict=True)
        with self._lock, torch.inference_mode():
            encoded = token_ids(self._tokenizer, self._model, self.max_length, queries, passages)
            for rows in batches([len(ids) for ids in encoded.ids], self.batch_tokens):
                scores[rows] = self._forward(encoded.inputs(rows))
        if not np.isfinite(scores).all():
            bad = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise RetrievalError(
                f"Expected finite scores from {self.folder}, got {scores[bad]} for "
                f"{queries[bad]!r:.80}. Compute in fp32 (dtype)."
            )
        return [float(score) for score in scores]

    def _forward(self, inputs: dict[str, list[list[int]]]) -> NDArray[np.float32]:
        """Return the outputs for pairs of one length."""
        logits = self._model(**as_tensors(inputs, self.device)).logits.float()  # (B, 1)
        return np.asarray(logits[:, 0].cpu().numpy(), np.float32)
