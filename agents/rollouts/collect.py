"""Rollouts: an engine in the vector environment, whole groups, one token a row at a time.

The ids that the policy sampled are the ids that are stored; nothing is decoded or encoded here. A
row whose episode ended begins the next one of the queue at once. What an episode samples depends on
the seed, the question and the member's number alone, not on the number of rows or on other rows.
Episodes in which retrieval failed are returned and marked as not valid.

No advantage, no loss and no torch here.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

import search_env  # noqa: F401 - registers the ids
from search_env.agents.errors import ContextLengthError, ModelMismatchError
from search_env.agents.rollouts.groups import Finished, WholeGroups
from search_env.agents.rollouts.metrics import SCORES
from search_env.agents.types import Trajectory
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import ConfigurationError
from search_env.rewards import GroupReward, get_group_reward
from search_env.types import StopReason, Transcript
from search_env.validation import check_count

if TYPE_CHECKING:
    from search_env.agents.inference.rollout_engine import RolloutEngine

__all__ = ["collect", "make_envs"]

_TIMES = ("environment", "retrieval", "prefill", "decode")

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
    _check(envs, engine, questions, group_size)
    if group_reward is not None:
        group_reward = get_group_reward(group_reward, beside=envs.reward)
    queue = _EpisodeQueue(questions, group_size, seed, shard, token_limit, first_group)
    groups = WholeGroups(group_reward, group_size)
    collector = _Collector(envs, engine, queue, progress, on_episode, groups)
    try:
        collector.start()
        while collector.running:
            collector.step(wait_for_all)
    finally:
        engine.release(range(envs.num_envs))
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


class _PlannedEpisode(NamedTuple):
    """An episode that is to be played."""

    order: int  # its place among all episodes
    group: int
    member: int  # its number in the group
    question: int
    seed: int


class _EpisodeQueue:
    """The episodes that are still to be played, groups in order."""

    def __init__(
        self,
        questions: Sequence[int],
        group_size: int,
        seed: int,
        shard: tuple[int, int],
        token_limit: int | None,
        first_group: int,
    ) -> None:
        self._token_limit = math.inf if token_limit is None else token_limit
        self._size = group_size
        episodes = []
        first, every = shard
        repeats: Counter[int] = Counter()  # a repeated question is a group with seeds of its own
        for group, question in enumerate(map(int, questions)):
            for member in range(group_size) if group % every == first else ():
                seed_sequence = np.random.SeedSequence((seed, question, repeats[question], member))
                number = int(seed_sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
                order = group * group_size + member
                planned = _PlannedEpisode(order, first_group + group, member, question, number)
                episodes.append(planned)
            repeats[question] += 1
        if not episodes:
            raise ConfigurationError(
                f"Expected a shard of {len(questions)} groups, got shard={shard}, which has none "
                "of them. Pass more questions, or fewer processes."
            )
        self.total = len(episodes)
        self._pending = deque(episodes)

    def take(self, count: int, policy_tokens: int) -> list[_PlannedEpisode]:
        """Return up to ``count`` episodes; none of a new group once the limit is reached."""
        taken: list[_PlannedEpisode] = []
        while self._pending and len(taken) < count:
            begins_group = self._pending[0].order % self._size == 0
            if begins_group and policy_tokens >= self._token_limit:
                self.total -= len(self._pending)
                self._pending.clear()
                break
            taken.append(self._pending.popleft())
        return taken


@dataclass(slots=True)
class _Timer:
    """Sums of wall time by name."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_TIMES, 0.0))
    _last: float = field(default_factory=time.perf_counter)

    def add(self, name: str) -> None:
        """Add the time since the last call."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now


class _Collector:
    """Rows of the environment and of the engine, advanced together."""

    def __init__(
        self,
        envs: SearchQAVectorEnv,
        engine: RolloutEngine,
        queue: _EpisodeQueue,
        progress: Progress | None,
        on_episode: OnEpisode | None,
        groups: WholeGroups,
    ) -> None:
        rows = envs.num_envs
        self._envs, self._engine, self._queue, self._groups = envs, engine, queue, groups
        self._progress, self._on_episode = progress, on_episode
        self._episodes: dict[int, _PlannedEpisode] = {}  # those under way, by row
        self._ready = np.zeros(rows, np.bool_)  # the row waits for the policy's next token
        self._length = np.zeros(rows, np.int64)
        self._versions = np.zeros(rows, np.int64)  # of the weights that each episode began with
        self._log_probs = np.full((rows, envs.protocol.max_tokens), np.nan, np.float32)
        self._values: NDArray[np.float32] | None = None
        self._finished: list[tuple[int, Trajectory]] = []
        self._num_finished = self._num_policy_tokens = self._num_faults = self._num_decodes = 0
        self._timer = _Timer()
        self._prefill_before = engine.prefill_seconds

    @property
    def running(self) -> bool:
        """Whether an episode is under way."""
        return bool(self._episodes)

    def start(self) -> None:
        """Begin the first episodes; rows without one are reset too and stay idle."""
        rows = self._envs.num_envs
        episodes = self._queue.take(rows, 0)
        index = [episode.question for episode in episodes]
        index += index[:1] * (rows - len(index))
        obs, _ = self._envs.reset(seed=0, options={"index": index})
        self._begin(list(range(len(episodes))), episodes, obs)

    def step(self, wait_for_all: bool) -> None:
        """Write a token in every row that is ready, and process what the environment returns."""
        rows = np.flatnonzero(self._ready)
        if len(rows):
            self._decode(rows)
        self._timer.add("decode")
        min_ready = len(self._episodes) if wait_for_all else 1
        obs, rewards, terminated, truncated, infos = self._envs.recv(min_ready)
        self._timer.add("retrieval" if "_document_ids" in infos else "environment")
        self._process(obs, rewards, terminated | truncated, infos)

    def result(self) -> Rollouts:
        """Return all episodes in order, with the totals."""
        seconds = self._timer.seconds
        prefill = self._engine.prefill_seconds - self._prefill_before
        seconds["prefill"], seconds["decode"] = prefill, seconds["decode"] - prefill
        ordered = [trajectory for _, trajectory in sorted(self._finished, key=lambda f: f[0])]
        return Rollouts(
            ordered, seconds, self._num_policy_tokens, self._num_faults, self._num_decodes
        )

    def _decode(self, rows: NDArray[np.intp]) -> None:
        decoded = self._engine.decode(rows)
        self._log_probs[rows, self._length[rows]] = decoded.log_probs
        if decoded.values is not None:
            if self._values is None:
                self._values = np.full_like(self._log_probs, np.nan)
            self._values[rows, self._length[rows]] = decoded.values
        self._num_policy_tokens += len(rows)
        self._num_decodes += 1
        self._ready[rows] = False
        self._timer.add("decode")
        self._envs.send(decoded.ids, rows)
        self._timer.add("environment")

    def _process(
        self,
        obs: Mapping[str, Any],
        rewards: NDArray[np.float64],
        ended: NDArray[np.bool_],
        infos: Mapping[str, Any],
    ) -> None:
        """Pass inserted tokens to the engine; close episodes that ended and begin the next."""
        ready: NDArray[np.bool_] = infos["ready"]
        length, is_running = obs["length"].ravel(), ready & ~ended
        has_documents = np.flatnonzero(is_running & (length > self._length + 1))
        if len(has_documents):
            inserted = [
                obs["tokens"][row, self._length[row] + 1 : length[row]].copy()
                for row in has_documents
            ]
            self._engine.insert(has_documents, inserted)
        self._length[ready] = length[ready]
        self._ready[is_running] = True
        done = np.flatnonzero(ready & ended).tolist()
        for row in done:
            self._finish(row, float(rewards[row]), infos)
        if done:
            self._begin_next(done)
        self._timer.add("environment")

    def _finish(self, row: int, reward: float, infos: Mapping[str, Any]) -> None:
        episode, transcript = self._episodes.pop(row), self._envs.transcripts[row]
        trajectory = self._trajectory(row, episode, transcript, reward, infos)
        self._num_finished += 1
        self._num_faults += trajectory.valid * len(transcript.faults)
        if self._progress is not None:
            self._progress(self._num_finished, self._queue.total)
        finished = Finished(episode.order, episode.question, transcript, trajectory)
        for order, question, transcript, trajectory in self._groups.take(finished):
            self._finished.append((order, trajectory))
            if self._on_episode is not None:
                self._on_episode(question, transcript, trajectory)

    def _trajectory(
        self,
        row: int,
        episode: _PlannedEpisode,
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

    def _begin_next(self, rows: list[int]) -> None:
        self._engine.release(rows)
        episodes = self._queue.take(len(rows), self._num_policy_tokens)
        if not episodes:
            return
        rows = rows[: len(episodes)]
        mask = np.zeros(self._envs.num_envs, np.bool_)
        mask[rows] = True
        index = np.zeros(self._envs.num_envs, np.int64)
        index[rows] = [episode.question for episode in episodes]
        obs, _ = self._envs.reset(options={"reset_mask": mask, "index": index})
        self._begin(rows, episodes, obs)

    def _begin(
        self, rows: list[int], episodes: Sequence[_PlannedEpisode], obs: Mapping[str, Any]
    ) -> None:
        self._length[rows] = obs["length"].ravel()[rows]
        self._versions[rows] = self._engine.weights_version
        self._log_probs[rows] = np.nan
        if self._values is not None:
            self._values[rows] = np.nan
        self._episodes.update(zip(rows, episodes, strict=True))
        self._ready[rows] = True
        prompts = [obs["tokens"][row, : self._length[row]].copy() for row in rows]
        self._timer.add("environment")
        self._engine.begin(rows, prompts, [episode.seed for episode in episodes])
        self._timer.add("decode")


def _check(
    envs: SearchQAVectorEnv, engine: RolloutEngine, questions: Sequence[int], group_size: int
) -> None:
    check_count("group_size", group_size, 1)
    if not len(questions):
        raise ConfigurationError(
            "Expected at least one question, got none. Check the split and the curriculum."
        )
    mode = envs.metadata["autoreset_mode"]
    if mode is not AutoresetMode.DISABLED:
        raise ConfigurationError(
            f"Expected a vector environment with autoreset_mode='Disabled', got {mode.value!r}. "
            "Pass it to gym.make_vec: this function resets a row itself when its episode ends."
        )
    if envs.num_envs > engine.rows:
        raise ConfigurationError(
            f"Expected an engine with at least {envs.num_envs} rows, got {engine.rows}. Build both "
            "with the same number."
        )
    context = envs.components.protocol.max_tokens
    if context > engine.max_tokens:
        raise ContextLengthError(
            f"Expected episodes of at most {engine.max_tokens} tokens, which the engine's rows "
            f"hold, got an environment with max_tokens={context}. Lower the environment's "
            "max_tokens, or raise the engine's."
        )
