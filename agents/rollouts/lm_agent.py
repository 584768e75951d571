"""A language model as an agent of single episodes, and as the player of whole question sets.

:class:`LanguageModelAgent` has the two methods of :class:`search_env.evaluation.agent.Agent`, so
any transformers causal LM can take the place of a baseline. :func:`play_questions` plays many
episodes side by side and is much faster. Greedy answers of both agree up to rounding.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.rollout_engine import RolloutEngine, check_engine
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.agents.rollouts.collect import Progress, collect
from search_env.agents.types import Trajectory
from search_env.envs.search_qa import Observation, SearchQAEnv
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import EpisodeOverError
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Question

__all__ = ["LanguageModelAgent", "play_questions"]


class LanguageModelAgent:
    """Writes what a model samples; every token is forwarded once.

    What it samples in an episode depends on ``seed`` and the prompt, not on earlier episodes.

    Args:
        model: Any causal LM that :class:`~search_env.agents.inference.engine.Engine` takes. Its ids
            are those of the environment's tokenizer.
        sampling: The distribution that tokens are drawn from.
        max_tokens: Size of the cache; None for the size of the environment's context.
        seed: Seed of the draws, non-negative.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        sampling: Sampling = GREEDY,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        self._model, self._sampling = model, sampling
        self._max_tokens, self._seed = max_tokens, seed
        self._engine: Engine | None = None
        self._length = 0  # tokens in the engine: after act(), all of the episode

    def begin(self, env: SearchQAEnv, observation: Observation) -> None:
        """Read the prompt; the model must have the environment's ids and hold its context."""
        _check_ids(self._model, env.tokenizer)
        size = self._max_tokens or env.protocol.max_tokens
        if self._engine is None or self._engine.max_tokens != size:
            self._engine = Engine(self._model, rows=1, max_tokens=size, sampling=self._sampling)
        prompt = _tokens(observation)
        seeds = np.random.SeedSequence((self._seed, zlib.crc32(prompt.tobytes())))
        self._engine.begin([0], [prompt], [int(seeds.generate_state(1)[0])])
        self._length = len(prompt)

    def act(self, observation: Observation) -> int:
        """Return the next token id; newly inserted documents are read first."""
        if self._engine is None:
            raise EpisodeOverError("Expected begin() before act(), got act(). Call begin() first.")
        self._engine.insert([0], [_tokens(observation)[self._length :]])
        decoded = self._engine.decode([0])
        self._length = int(self._engine.lengths[0])
        return int(decoded.ids[0])


def spread(questions: Sequence[Question], count: int) -> list[int]:
    """Return the indices of at most ``count`` questions, in order, spread evenly over each set.

    Evenly over all of them could pass over a set of a mixture, whose sets alternate.

    Example:
        >>> mixture = [Question(str(i), "?", ("a",), dataset="ab"[i % 2]) for i in range(8)]
        >>> spread(mixture, 4)
        [0, 1, 6, 7]
    """
    by_set: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        by_set.setdefault(question.dataset, []).append(index)
    count = min(count, len(questions))
    quotas = {name: count * len(members) / len(questions) for name, members in by_set.items()}
    sizes = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: sizes[name] - quotas[name])
    for name in by_remainder[: count - sum(sizes.values())]:
        sizes[name] += 1
    return sorted(
        members[place]
        for name, members in by_set.items()
        for place in np.linspace(0, len(members) - 1, sizes[name]).round().astype(int).tolist()
    )


def play_questions(
    player: PreTrainedModel | RolloutEngine,
    envs: SearchQAVectorEnv,
    questions: Sequence[int] | None = None,
    *,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Trajectory]:
    """Play each question once and return the episodes in the order of the questions.

    Args:
        player: A model as for :class:`LanguageModelAgent`, or an engine of at least as many rows
            and tokens as ``envs``, which samples from ``sampling``.
        envs: With ``autoreset_mode="Disabled"``; more rows are faster and take more memory.
        questions: Indices into ``envs.questions``; None for all.
        sampling: The distribution that tokens are drawn from.
        seed: Seed of the draws, non-negative.
        progress: Called after each finished episode.

    Raises:
        ConfigurationError: The environment has another mode, the engine another sampling, or
            there is no question.
        ModelMismatchError: The model has more ids than the environment, or fewer.
        ContextLengthError: The environment's context is longer than the model's.
        DeviceMemoryError: Memory ran out.
        RetrievalError: A search failed.
    """
    if isinstance(player, RolloutEngine):
        check_engine(player, sampling)
        engine = player
    else:  # no isinstance: a model with adapters of peft is no PreTrainedModel
        _check_ids(player, envs.tokenizer)
        size = envs.protocol.max_tokens
        engine = Engine(player, rows=envs.num_envs, max_tokens=size, sampling=sampling)
    questions = range(len(envs.questions)) if questions is None else questions
    return collect(envs, engine, questions, seed=seed, progress=progress).trajectories


def _tokens(observation: Observation) -> NDArray[np.int32]:
    """Return the tokens of an observation without its padding."""
    tokens: NDArray[np.int32] = observation["tokens"][: int(np.max(observation["length"]))]
    return tokens


def _check_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Raise where the model's ids are not those of the environment's tokenizer."""
    ids = len(cast(nn.Embedding, model.get_input_embeddings()).weight)
    if ids == tokenizer.size:
        return
    advice = (
        f"If the tokenizer is the model's own, pass vocab_size={ids} to the environment."
        if ids > tokenizer.size
        else "Use the tokenizer that the model was trained with."
    )
    raise ModelMismatchError(
        f"Expected a model with the {tokenizer.size} ids of tokenizer {tokenizer.name!r}, got one "
        f"with {ids}. {advice}"
    )
