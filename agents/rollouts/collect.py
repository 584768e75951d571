"""Rollouts: an engine in the vector environment, whole groups, one token a row at a time.

The ids that the policy sampled are the ids that are stored; nothing is decoded or encoded here. A
row whose episode ended begins the next one of the queue at once. What an episode samples depends on
the seed, the question and the member's number alone, not on the number of rows or on other rows.
Episodes in which retrieval failed are returned and marked as not valid.

No advantage, no loss and no torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import search_env  # noqa: F401 - registers the ids
from search_env.agents.errors import ModelMismatchError
from search_env.agents.rollouts.episode_queue import EpisodeSource, PlannedEpisode, QuestionQueue
from search_env.agents.rollouts.groups import Finished, WholeGroups
from search_env.agents.rollouts.metrics import SCORES
from search_env.agents.rollouts.player import Player, check_rows
from search_env.agents.types import Trajectory
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import ConfigurationError
from search_env.rewards import GroupReward, get_group_reward
from search_env.types import StopReason, Transcript
from search_env.validation import check_count

if TYPE_CHECKING:
    from search_env.agents.inference.rollout_engine import Decoded, RolloutEngine

__all__ = ["collect", "make_envs"]

Progress = Callable[[int, int], None]
"""Called after each finished episode with how many are finished, and how many there will be."""
OnEpisode = Callable[[int, Transcript, Trajectory], None]
"""Called with each finished episode: index of its question, its transcript, its trajectory."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The result of one collection.

    ``seconds`` is wall time by ``environment``, ``retrieval`` (waiting for documents and inserting
    them), ``prefill`` and ``decode`` (all else of the engine).
    """

    trajectories: list[Trajectory]  # by group, then by member, failed retrievals included
    seconds: dict[str, float]
    policy_tokens: int  # number of tokens that the policy wrote
    format_faults: int  # number of its format faults in valid episodes
    decode_steps: int  # number of calls of the engine's decode

    @property
    def num_invalid(self) -> int:
        """Number of episodes in which retrieval failed."""
        return sum(not trajectory.valid for trajectory in self.trajectories)


def collect(
    envs: SearchQAVectorEnv,
    engine: RolloutEngine,
    questions: Sequence[int],
    *,
    group_size: int = 1,
    group_reward: str | GroupReward | None = None,
    first_group: int = 0,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    token_limit: int | None = None,
    wait_for_all: bool = True,
    progress: Progress | None = None,
    on_episode: OnEpisode | None = None,
) -> Rollouts:
    """Play ``group_size`` episodes of each question and return them.

    All rows of ``envs`` are reset; episodes that ran in them are lost. After an error the same
    environment and engine can be used again.

    Args:
        envs: With ``autoreset_mode="Disabled"``; ``copy=False`` is fastest.
        engine: With at least as many rows, and as long a context. The version of its weights is
            noted in every trajectory.
        questions: Indices into ``envs.questions``; each of them is one group.
        group_size: Episodes of each question.
        group_reward: Paid in addition to the environment's reward: trajectories have the sum and
            the parts of both. Groups are whole with any ``shard`` and ``token_limit``.
        first_group: Number of the first question's group; the others follow.
        seed: Non-negative; decides, with question and member, what is sampled.
        shard: ``(i, n)``: play only every n-th group from the i-th on. Groups keep the numbers and
            the episodes that they have without it, so n processes play what one would.
        token_limit: Begin no further group once the policy has written so many tokens; None for
            no limit. Which groups are played then depends on the number of rows.
        wait_for_all: Decode only when every row has its documents. Results are then the same to the
            last bit in every run, and with a fast retriever no time is lost. With False, rows go on
            while others wait, which suits slow retrievers.
        progress: Called after each finished episode.
        on_episode: Called with each finished episode, in the order in which they finish; with a
            group reward, when its group is complete.

    Raises:
        ConfigurationError: A bad argument, a shard without a group, an environment in another
            mode, or a group reward with a part that the environment's reward has.
        ContextLengthError: Episodes may grow longer than the engine's cache.
        RetrievalError: A search failed and the environment was not told to truncate.
        RewardError: A reward failed.
    """
    _check(questions, group_size)
    check_rows(envs, engine)
    if group_reward is not None:
        group_reward = get_group_reward(group_reward, beside=envs.reward)
    queue = QuestionQueue(questions, group_size, seed, shard, token_limit, first_group)
    groups = WholeGroups(group_reward, group_size)
    collector = _Collector(envs, engine, queue, progress, on_episode, groups)
    collector.play(wait_for_all)
    return collector.result()


def make_envs(
    env_id: str,
    *,
    num_envs: int,
    vocabulary: int,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> SearchQAVectorEnv:
    """Return a vector environment as :func:`collect` needs it.

    Args:
        env_id: A registered id.
        num_envs: Episodes side by side.
        vocabulary: Number of ids that the model samples from.
        options: Arguments of the environment.

    Raises:
        ModelMismatchError: The tokenizer has ids that the model does not know.
        ConfigurationError: Another kind of environment, or arguments that cannot work.
    """

    def make(**size: int) -> SearchQAVectorEnv:
        arguments = {"on_retrieval_error": "truncate", **options, **size}
        envs = gym.make_vec(
            env_id, num_envs=num_envs, autoreset_mode="Disabled", copy=False, **arguments
        ).unwrapped
        if not isinstance(envs, SearchQAVectorEnv):
            raise ConfigurationError(
                f"Expected {env_id!r} to be a SearchQAVectorEnv, got {type(envs).__name__}. Choose "
                "one of this package's ids."
            )
        return envs

    envs = make()
    size = envs.components.size
    if size > vocabulary:
        raise ModelMismatchError(
            f"Expected a tokenizer of at most the model's {vocabulary} ids, got "
            f"{envs.tokenizer.name!r} with {size}. Pass the model's own tokenizer."
        )
    return envs if size == vocabulary else make(vocab_size=vocabulary)


class _Collector(Player):
    """Keeps trajectories of what it plays."""

    def __init__(
        self,
        envs: SearchQAVectorEnv,
        engine: RolloutEngine,
        queue: EpisodeSource,
        progress: Progress | None,
        on_episode: OnEpisode | None,
        groups: WholeGroups,
    ) -> None:
        super().__init__(envs, engine, queue)
        rows = envs.num_envs
        self._groups, self._progress, self._on_episode = groups, progress, on_episode
        self._versions = np.zeros(rows, np.int64)  # of the weights that each episode began with
        self._log_probs = np.full((rows, envs.protocol.max_tokens), np.nan, np.float32)
        self._values: NDArray[np.float32] | None = None
        self._kept: list[tuple[int, Trajectory]] = []
        self._num_finished = self._num_faults = 0

    def result(self) -> Rollouts:
        """Return all episodes in order, with the totals."""
        ordered = [trajectory for _, trajectory in sorted(self._kept, key=lambda f: f[0])]
        return Rollouts(
            ordered, self.seconds, self.num_policy_tokens, self._num_faults, self.num_decodes
        )

    def _begun(self, rows: list[int]) -> None:
        self._versions[rows] = self._engine.weights_version
        self._log_probs[rows] = np.nan
        if self._values is not None:
            self._values[rows] = np.nan

    def _decoded(self, rows: NDArray[np.intp], decoded: Decoded) -> None:
        self._log_probs[rows, self._length[rows]] = decoded.log_probs
        if decoded.values is not None:
            if self._values is None:
                self._values = np.full_like(self._log_probs, np.nan)
            self._values[rows, self._length[rows]] = decoded.values

    def _finished(
        self,
        row: int,
        episode: PlannedEpisode,
        transcript: Transcript,
        reward: float,
        infos: Mapping[str, Any],
    ) -> None:
        trajectory = self._trajectory(row, episode, transcript, reward, infos)
        self._num_finished += 1
        self._num_faults += trajectory.valid * len(transcript.faults)
        if self._progress is not None:
            self._progress(self._num_finished, self._source.total)
        finished = Finished(episode.order, episode.question, transcript, trajectory)
        for order, question, transcript, trajectory in self._groups.take(finished):
            self._kept.append((order, trajectory))
            if self._on_episode is not None:
                self._on_episode(question, transcript, trajectory)

    def _trajectory(
        self,
        row: int,
        episode: PlannedEpisode,
        transcript: Transcript,
        reward: float,
        infos: Mapping[str, Any],
    ) -> Trajectory:
        """Return a finished episode for the learner, with what the infos have on its row."""
        length = len(transcript.tokens)
        valid = bool(infos["valid"][row])
        parts = infos.get("reward_parts", {}) if valid else {}
        return Trajectory(
            question_id=transcript.question.id,
            group=episode.group,
            member=episode.member,
            tokens=transcript.tokens,
            sources=transcript.sources,
            log_probs=self._log_probs[row, :length].copy(),
            values=None if self._values is None else self._values[row, :length].copy(),
            reward=reward,
            reward_parts={n: float(by[row]) for n, by in parts.items() if not n.startswith("_")},
            stop_reason=StopReason(infos["stop_reason"][row]),
            valid=valid,
            well_formed=bool(infos["well_formed"][row]),
            answer=transcript.answer,
            scores={name: float(infos[name][row]) for name in SCORES},
            num_searches=len(transcript.searches),
            hops=len(transcript.question.hops),
            kind=transcript.question.kind,
            version=int(self._versions[row]),
            queries=tuple(search.query for search in transcript.searches),
            dataset=transcript.question.dataset,
        )


def _check(questions: Sequence[int], group_size: int) -> None:
    check_count("group_size", group_size, 1)
    if not len(questions):
        raise ConfigurationError(
            "Expected at least one question, got none. Check the split and the curriculum."
        )
