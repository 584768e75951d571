"""The seam of inference: what a rollout needs of whatever samples the policy's tokens.

:class:`RolloutEngine` is a protocol, so an engine inherits from nothing:
:class:`search_env.agents.inference.engine.Engine` is one. It is token-level: the environment is
told of every token before the next one is sampled. Servers work by segments (ids in; ids and
log-probabilities up to a stop out) and will have a protocol of their own beside this one; either
way it is the environment, never the engine, that decides where a segment ends.
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

Rows = Sequence[int] | NDArray[np.integer]
AnyTokenIds = NDArray[np.integer]
Weights = Callable[[], Mapping[str, "Tensor"]]
"""Returns all weights by their names in the model's ``state_dict()``, trained ones in the precision
they are trained in. To call it copies, and gathers a model that is split over processes."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One new token of each of n rows.

    Attributes:
        ids: int64 ``(n,)``.
        log_probs: float32 ``(n,)``: of the distribution that each id was drawn from. NaN from an
            engine that has none.
        values: float32 ``(n,)``: the value head's estimate of the state in which each id was
            chosen; None without a value head. They are recorded, never learnt from: the learner
            makes its own.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    values: NDArray[np.float32] | None


@runtime_checkable
class RolloutEngine(Protocol):
    """Rows of a causal LM, each a sequence of its own, that grow by sampled and inserted tokens.

    :func:`search_env.agents.rollouts.collect.collect` calls, for each episode: :meth:`begin` with
    the prompt; then :meth:`decode` for one token at a time, and :meth:`insert` for what the
    environment writes behind a token (documents, notices); :meth:`release` at its end. It does so
    for many rows at once, of which any subset may decode, and never decodes a row that is full.
    Whoever trains calls :meth:`update_weights`: :func:`search_env.agents.training.train.train`
    before the first rollout and after every training step, when no row is in use.

    ``n`` is the number of rows of one call. Rows are numbers from 0 to ``rows - 1``, distinct in a
    call, in any order.
    """

    @property
    def rows(self) -> int:
        """Sequences side by side."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of one sequence: prompt, sampled and inserted ones together."""

    @property
    def sampling(self) -> Sampling:
        """The distribution that tokens are drawn from, and whose log-probabilities are told."""

    @property
    def has_log_probs(self) -> bool:
        """Whether :attr:`Decoded.log_probs` are numbers. Where not, the learner computes its own.

        Then nothing can be measured or corrected of how far sampler and learner are apart.
        """

    @property
    def weights_version(self) -> int:
        """The version of the weights that the next token is sampled with; 0 before any update.

        A trajectory carries the version that its episode began with.
        """

    @property
    def prefill_seconds(self) -> float:
        """Seconds spent so far on tokens that none was sampled from; 0.0 where nobody measures."""

    def begin(self, rows: Rows, prompts: Sequence[AnyTokenIds], seeds: Sequence[int]) -> None:
        """Begin new sequences; what the rows held before is dropped.

        A row's seed alone decides what is drawn in it, whatever the other rows do. An engine that
        draws the token at position p (prompt counted) by
        :meth:`search_env.agents.inference.sampling.Sampling.draw` from the p-th number of
        ``np.random.default_rng(seed).random(max_tokens, np.float32)`` samples what the built-in
        engine samples.

        Args:
            rows: ``(n,)``.
            prompts: Ids of each, at least one.
            seeds: One for each, from 0 to 2**63 - 1.
        """

    def insert(self, rows: Rows, tokens: Sequence[AnyTokenIds]) -> None:
        """Append tokens that the policy did not choose; they stand behind the last sampled one.

        Args:
            rows: ``(n,)``, all begun.
            tokens: Ids for each; none is allowed.
        """

    def decode(self, rows: Rows) -> Decoded:
        """Sample the next token of each row and append it.

        Args:
            rows: ``(n,)``, all begun.

        Returns:
            AnyTokenIds, log-probabilities and values in the order of ``rows``.
        """

    def release(self, rows: Rows) -> None:
        """Drop what the rows hold; rows that have not begun are allowed."""

    def update_weights(self, weights: Weights, version: int) -> None:
        """Sample with these weights from now on, and say so in :attr:`weights_version`.

        An engine that shares the learner's parameters need not call ``weights``. Where several
        processes train a split model, calling it takes part in a collective operation: the engines
        of all processes must call it once, or none.

        Args:
            weights: See :data:`Weights`.
            version: Never lower than before: the learner's number of updates.
        """


class EngineFactory(Protocol):
    """Makes the engines of a run: a class such as the built-in ``Engine``, or a function."""

    def __call__(
        self, model: PreTrainedModel, *, rows: int, max_tokens: int, sampling: Sampling
    ) -> RolloutEngine:
        """Return an engine.

        It is called once for the rollouts, and with greedy sampling for each evaluation. The
        weights come by :meth:`RolloutEngine.update_weights` before the first token.

        Args:
            model: The model that is trained: to read its configuration, and its parameters where
                they are not split over processes. Whoever changes it must copy it first.
            rows: The least number of rows.
            max_tokens: The least number of tokens of a row.
            sampling: What tokens must be drawn from.

        Raises:
            ConfigurationError: It cannot sample so.
        """


def check_engine(
    engine: RolloutEngine, sampling: Sampling, algorithms: Iterable[Algorithm] = ()
) -> None:
    """Check that an engine gives what it is wanted for.

    Args:
        engine: The engine.
        sampling: The distribution that tokens are to be drawn from.
        algorithms: Those that are to learn from them.

    Raises:
        ConfigurationError: It draws from another distribution, or an algorithm needs
            log-probabilities that it does not give.
    """
    if engine.sampling != sampling:
        raise ConfigurationError(
            f"Expected an engine that draws from {sampling}, got {type(engine).__name__} with "
            f"{engine.sampling}. Build it with the wanted sampling, or set the algorithm's "
            "temperature and top_p to what the engine can do."
        )
    corrections = {algorithm.importance_correction for algorithm in algorithms} - {"none"}
    if corrections and not engine.has_log_probs:
        raise ConfigurationError(
            f"Expected an engine with log-probabilities for importance_correction="
            f"{min(corrections)!r}, got {type(engine).__name__} without. Set it to 'none', or "
            "use another engine."
        )


def check_portable(engine: EngineFactory | None) -> None:
    """Check that other processes can be given an engine's factory.

    Raises:
        ConfigurationError: It cannot be pickled.
    """
    try:
        pickle.dumps(engine)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            "Expected an engine that other processes can make (a class or function of a module), "
            f"got {engine!r}: {error}. Move it to a module, or pass processes=1."
        ) from error
