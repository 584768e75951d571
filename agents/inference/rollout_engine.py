"""The interface of inference engines: what a rollout needs of a sampler of the policy's tokens.

:class:`RolloutEngine` is a protocol, so engines need no base class;
:class:`search_env.agents.inference.engine.Engine` is one. It is token-level: the environment sees
every token before the next one is sampled. Servers work on segments (ids in; ids and
log-probabilities up to a stop out) and need a protocol of their own; either way the environment,
never the engine, decides where a segment ends.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from search_env.agents.algorithms.config import Algorithm
    from search_env.agents.inference.sampling import Sampling

__all__ = ["Decoded", "RolloutEngine"]

Rows = Sequence[int] | NDArray[np.integer]
AnyTokenIds = NDArray[np.integer]
Weights = Callable[[], Mapping[str, "Tensor"]]
"""Returns all weights by their names in the model's ``state_dict()``, trained ones in the precision
they are trained in. Calling it copies, and gathers a model that is split over processes."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One new token of each of n rows.

    Attributes:
        ids: int64 ``(n,)``.
        log_probs: float32 ``(n,)``: of the distribution that each id was drawn from. NaN from an
            engine without log-probabilities.
        values: float32 ``(n,)``: the value head's estimate of the state in which each id was
            sampled; None without a value head. Recorded only: the learner computes its own.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    values: NDArray[np.float32] | None


@runtime_checkable
class RolloutEngine(Protocol):
    """Rows of a causal LM, independent sequences that grow by sampled and inserted tokens.

    For each episode :func:`search_env.agents.rollouts.collect.collect` calls :meth:`begin` with the
    prompt; then :meth:`decode` for one token at a time, and :meth:`insert` for the environment's
    text after a token (documents, notices); :meth:`release` at its end. It does so for many rows
    at once, of which any subset may decode, and never decodes a full row.
    :func:`search_env.agents.training.train.train` calls :meth:`update_weights` before the first
    rollout and after every training step, when no row is in use.

    ``n`` is the number of rows of one call. Rows are numbers from 0 to ``rows - 1``, distinct in a
    call, in any order.
    """

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of a row: prompt, sampled and inserted ones together."""

    @property
    def sampling(self) -> Sampling:
        """The distribution of tokens and of their log-probabilities."""

    @property
    def has_log_probs(self) -> bool:
        """Whether :attr:`Decoded.log_probs` are numbers; else the learner computes its own.

        Without them the drift between sampler and learner can be neither measured nor corrected.
        """

    @property
    def weights_version(self) -> int:
        """Version of the weights that sample the next token; 0 before any update.

        A trajectory records the version at its beginning.
        """

    @property
    def prefill_seconds(self) -> float:
        """Seconds so far for tokens that no token was sampled from; 0.0 if not measured."""

    def begin(self, rows: Rows, prompts: Sequence[AnyTokenIds], seeds: Sequence[int]) -> None:
        """Begin new sequences, in place of the rows' former ones.

        The draws of a row depend on its seed alone, not on other rows. An engine that draws the
        token at position p (prompt included) with
        :meth:`search_env.agents.inference.sampling.Sampling.draw` from the p-th number of
        ``np.random.default_rng(seed).random(max_tokens, np.float32)`` samples the same tokens as
        the built-in engine. Prompts have at least one id; seeds are from 0 to 2**63 - 1.
        """

    def insert(self, rows: Rows, tokens: Sequence[AnyTokenIds]) -> None:
        """Append ids, possibly none, that the policy did not sample to rows that have begun."""

    def decode(self, rows: Rows) -> Decoded:
        """Sample and append the next token of rows that have begun; return them in that order."""

    def release(self, rows: Rows) -> None:
        """End the sequences of rows; rows that have not begun are allowed."""

    def update_weights(self, weights: Weights, version: int) -> None:
        """Sample with these weights from now on, and set :attr:`weights_version`.

        An engine that shares the learner's parameters need not call ``weights``. With a model split
        over processes, calling it is a collective operation: the engines of all processes must call
        it once, or none. The version is the learner's number of updates; it never decreases.
        """


class ForbiddingEngine(RolloutEngine, Protocol):
    """An engine that can keep rows from sampling some ids, as the built-in one."""

    def decode(self, rows: Rows, forbidden: Sequence[AnyTokenIds] | None = None) -> Decoded:
        """Sample and append the next token of rows that have begun; return them in that order.

        ``forbidden`` has ids for each of the rows, possibly none, that the row may not sample; its
        log-probabilities are those of the distribution without them.
        """


class EngineFactory(Protocol):
    """Makes the engines of a run: a class like the built-in ``Engine``, or a function."""

    def __call__(
        self, model: PreTrainedModel, *, rows: int, max_tokens: int, sampling: Sampling
    ) -> RolloutEngine:
        """Return an engine.

        Called once for the rollouts, and with greedy sampling for each evaluation. The weights
        arrive by :meth:`RolloutEngine.update_weights` before the first token. An engine that does
        not support the sampling raises ConfigurationError.

        The model is in training: read its configuration, and its parameters where they are not
        split over processes; copy it before changing it. ``rows`` and ``max_tokens`` are minimums.
        """


def check_engine(
    engine: RolloutEngine, sampling: Sampling, algorithms: Iterable[Algorithm] = ()
) -> None:
    """Check that an engine suits a run with this sampling, whose algorithms learn from the tokens.

    Raises:
        ConfigurationError: The engine draws from another distribution, or an algorithm needs
            log-probabilities that it does not return.
    """
    if engine.sampling != sampling:
        raise ConfigurationError(
            f"Expected an engine that draws from {sampling}, got {type(engine).__name__} with "
            f"{engine.sampling}. Build it with that sampling, or set the algorithm's temperature "
            "and top_p to the engine's."
        )
    corrections = {algorithm.importance_correction for algorithm in algorithms} - {"none"}
    if corrections and not engine.has_log_probs:
        raise ConfigurationError(
            f"Expected an engine with log-probabilities for importance_correction="
            f"{min(corrections)!r}, got {type(engine).__name__} without. Set it to 'none', or "
            "use another engine."
        )


def check_portable(engine: EngineFactory | None) -> None:
    """Raise ConfigurationError if an engine factory cannot be sent to other processes."""
    try:
        pickle.dumps(engine)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            "Expected an engine that can be pickled (a class or function of a module), got "
            f"{engine!r}: {error}. Move it to a module, or pass processes=1."
        ) from error
