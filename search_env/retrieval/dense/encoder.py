"""Texts to vectors with any encoder that transformers loads, on the CPU or a GPU.

torch and transformers are imported when an encoder is loaded, not before.
"""

from __future__ import annotations

import importlib.util
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.dense.card import EncoderCard, fingerprint, read_card
from search_env.retrieval.dense.memo import Memo
from search_env.types import Document
from search_env.validation import check_choice, check_count

if TYPE_CHECKING:
    import torch

Vectors: TypeAlias = NDArray[np.float32]
"""float32 ``(N, D)``, a row for each text."""

DTYPES = ("auto", "fp32", "bf16", "fp16")
"""Types to compute in; ``"auto"`` is fp32 on CPUs and fp16 on GPUs."""

_BATCH_TOKENS = 16_384
_REMEMBERED = 1 << 24  # numbers in the vectors of recent queries


class Encoder:
    """Encodes queries and passages as a card says.

    Texts of equal length in tokens make a batch, so nothing is ever padded: no time is spent on
    padding, and a text's vector does not depend on the lengths of its neighbours. Their number may
    change its last bits, as matrix products please; a query's vector is remembered, so that it
    stays the same. Equal texts are encoded once. Safe to call from several threads; one at a time
    runs.

    Args:
        folder: A model of transformers, with its tokenizer. Code in it is never run.
        card: How to pool, and so on; by default what :func:`read_card` finds in the folder.
        device: ``"auto"`` (a GPU where there is one), or a name of torch's such as ``"cuda:1"``.
        dtype: One of :data:`DTYPES`.
        batch_tokens: Tokens in a batch.

    Raises:
        ConfigurationError: A package is missing, the model is of no use, an argument is wrong.
        DataError: A file of the folder is missing or damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        card: EncoderCard | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = _BATCH_TOKENS,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.card = read_card(self.folder) if card is None else card
        self.batch_tokens = check_count("batch_tokens", batch_tokens, 1)
        self.device, self.dtype = device_and_dtype(device, dtype)
        import torch
        from transformers import AutoModel

        self._tokenizer, self._model = load_parts(
            self.folder, AutoModel.from_pretrained, torch_dtype(self.dtype), self.device
        )
        config = self._model.config
        if config.is_encoder_decoder:
            raise ConfigurationError(
                f"Expected a model with an encoder or a decoder alone in {folder}, got "
                f"{config.model_type}, which has both. Use another model."
            )
        config.use_cache = False
        self.dimension = int(config.hidden_size)
        self._queries: Memo[str, Vectors] = Memo(_REMEMBERED // self.dimension)
        self._lock = threading.Lock()
        self._no_grad = torch.inference_mode

    @property
    def fingerprint(self) -> str:
        """See :func:`search_env.retrieval.dense.card.fingerprint`."""
        return fingerprint(self.folder)

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        """Return the vectors of queries, float32 ``(N, D)``; see :meth:`encode`.

        Those of the last queries are remembered, in 64 MB.
        """
        texts = [self.card.query_text(query) for query in queries]
        vectors = self._queries.get(texts, self._copies)
        return np.stack(vectors) if vectors else np.zeros((0, self.dimension), np.float32)

    def _copies(self, texts: list[str]) -> list[Vectors]:
        """Return vectors by themselves: a row would keep the whole batch in memory."""
        return [vector.copy() for vector in self.encode(texts)]

    def encode_passages(self, documents: Sequence[Document]) -> Vectors:
        """Return the vectors of passages, float32 ``(N, D)``; see :meth:`encode`."""
        return self.encode([self.card.passage_text(document) for document in documents])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts as they are, without a prefix: float32 ``(N, D)``.

        Raises:
            RetrievalError: The model returned numbers that are not finite.
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros((0, self.dimension), np.float32)
        with self._lock, self._no_grad():
            encoded = token_ids(self._tokenizer, self._model, self.card.max_length, distinct)
            vectors = np.empty((len(distinct), self.dimension), np.float32)
            for rows in batches([len(ids) for ids in encoded.ids], self.batch_tokens):
                vectors[rows] = self._forward(encoded.inputs(rows))
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise RetrievalError(
                f"Expected finite vectors from {self.folder}, got others for "
                f"{distinct[bad]!r:.80}. Compute in fp32 (dtype)."
            )
        row_of = {text: row for row, text in enumerate(distinct)}
        return vectors[[row_of[text] for text in texts]]

    def _forward(self, inputs: dict[str, list[list[int]]]) -> Vectors:
        """Return the vectors of texts of one length."""
        import torch

        hidden = self._model(**as_tensors(inputs, self.device)).last_hidden_state  # (B, T, D)
        hidden = hidden.float()
        pooling = self.card.pooling
        if pooling == "mean":
            pooled = hidden.mean(dim=1)
        else:
            pooled = hidden[:, 0 if pooling == "cls" else -1]
        if self.card.normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        return np.asarray(pooled.cpu().numpy(), np.float32)


def as_tensors(inputs: dict[str, list[list[int]]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return inputs of a model as tensors, ``(B, T)``."""
    import torch

    return {name: torch.tensor(rows, device=device) for name, rows in inputs.items()}


def need_packages() -> None:
    """Raise an error that says what to install if a package of the extra ``dense`` is missing."""
    for name in ("torch", "transformers", "faiss"):
        if importlib.util.find_spec(name) is None:
            raise ConfigurationError(
                f"Expected torch, transformers and faiss for dense retrieval, got no {name}. Run "
                '`pip install "search-env[dense]"`.'
            )


def device_and_dtype(device: str, dtype: str) -> tuple[torch.device, str]:
    """Return where and in which type to compute, ``"auto"`` resolved.

    Raises:
        ConfigurationError: An unknown name, a GPU that is not there, or a package that is missing.
    """
    check_choice("dtype", dtype, DTYPES)
    need_packages()
    place = as_device(device)
    if dtype == "auto":
        dtype = "fp32" if place.type == "cpu" else "fp16"
    return place, dtype


def as_device(name: str) -> torch.device:
    """Return a device of torch; ``"auto"`` is the GPU where there is one."""
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_gpu else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(
            f"Expected a device such as 'cpu' or 'cuda:0', got {name!r}. Pass 'auto' to choose."
        ) from error
    if device.type == "cuda" and not has_gpu:
        raise ConfigurationError(f"Expected a GPU for {name!r}, got none. Pass device='cpu'.")
    return device


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's type of a name in :data:`DTYPES` other than ``"auto"``."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def load_parts(
    folder: Path, load: Callable[..., Any], dtype: torch.dtype, device: torch.device
) -> tuple[Any, Any]:
    """Return tokenizer and model of a folder; ``load`` is a ``from_pretrained`` of transformers.

    Raises:
        ConfigurationError: transformers cannot load them.
    """
    from transformers import AutoTokenizer

    try:
        with _without_progress_bars():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            model = load(folder, local_files_only=True, trust_remote_code=False, dtype=dtype)
    except Exception as error:  # what transformers raises depends on the file
        raise ConfigurationError(
            f"Expected a model that transformers loads in {folder}, got {error!r:.300}. Download "
            "it again, with config.json, the weights and the tokenizer's files."
        ) from error
    return tokenizer, model.to(device).eval()


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Load without a progress bar: retrievers are loaded in the middle of other displays."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class TokenIds(NamedTuple):
    """Texts, or pairs of texts, as ids, with their segments where the model knows segments."""

    ids: list[list[int]]
    segments: list[list[int]] | None

    def inputs(self, rows: Sequence[int]) -> dict[str, list[list[int]]]:
        """Return what the model's forward pass takes for some of the texts."""
        found = {"input_ids": [self.ids[row] for row in rows]}
        if self.segments is not None:
            found["token_type_ids"] = [self.segments[row] for row in rows]
        return found


def token_ids(tokenizer: Any, model: Any, max_length: int, *texts: Sequence[str]) -> TokenIds:
    """Return the ids of texts, or with two lists of pairs of texts, special ones included.

    Segments are left out where the tokenizer returns some that the model does not take. The end of
    a text that is too long is cut off, of a pair that of its longer text. Lone surrogates, which
    are text in this package but not in UTF-8, become U+FFFD.
    """
    clean = [[_utf8(text) for text in part] for part in texts]
    encoded = tokenizer(*clean, truncation=True, max_length=max_length, verbose=False)
    takes_segments = "token_type_ids" in inspect.signature(model.forward).parameters
    segments = encoded.get("token_type_ids") if takes_segments else None
    return TokenIds(encoded["input_ids"], segments)


def _utf8(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of texts in batches of one length, the longest first.

    The longest first, so that too large a batch fails at once and not after hours.

    Example:
        >>> list(batches([3, 5, 3, 3], batch_tokens=6))
        [[1], [0, 2], [3]]
    """
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(length, []).append(index)
    for length in sorted(by_length, reverse=True):
        rows, size = by_length[length], max(1, batch_tokens // max(1, length))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))
