"""Rollouts: an engine against the vector environment, whole groups, one token a row at a time.

Rules. What the policy sampled is what is stored; nothing is decoded or encoded here. A row whose
episode ended begins the next one of the queue at once. What an episode samples is decided by the
seed, the question and the member's number alone, so it does not depend on the number of rows or on
which rows it ran beside. Episodes in which retrieval failed are returned, marked, and left out by
:func:`learnable`.

No advantage, no loss and no torch here.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

import search_env  # noqa: F401 - registers the ids
from search_env.agents.errors import ContextLengthError, ModelMismatchError
from search_env.agents.rollouts.groups import Finished, WholeGroups
from search_env.agents.types import Trajectory
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import ConfigurationError
from search_env.rewards import GroupReward, get_group_reward
from search_env.types import Question, StopReason, Transcript
from search_env.validation import check_count

if TYPE_CHECKING:
    from search_env.agents.inference.rollout_engine import RolloutEngine

Progress = Callable[[int, int], None]
"""Called after each finished episode with how many are finished, and how many there will be."""
OnEpisode = Callable[[int, Transcript, Trajectory], None]
"""Called with each finished episode: index of its question, its transcript, its trajectory."""

_SCORES = ("exact_match", "f1", "cover_exact_match")


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What one collection came to.

    Attributes:
        trajectories: By group, then by member; those whose retrieval failed are among them.
        seconds: Wall time by ``environment``, ``retrieval`` (waiting for documents and inserting
            them), ``prefill`` and ``decode`` (all else of the engine).
        policy_tokens: How many tokens the policy wrote.
        format_faults: How many faults of format it made, in valid episodes.
        decode_steps: How many times the engine was asked for a token of each row.
    """

    trajectories: list[Trajectory]
    seconds: dict[str, float]
    policy_tokens: int
    format_faults: int
    decode_steps: int

    @property
    def num_invalid(self) -> int:
        """How many episodes retrieval failed in."""
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

    All rows of ``envs`` are reset; what ran in them before is lost. An error in between leaves
    nothing that the next call minds.

    Args:
        envs: With ``autoreset_mode="Disabled"``; ``copy=False`` is fastest.
        engine: With at least as many rows, and as long a context. The version of its weights is
            noted in every trajectory.
        questions: Indices into ``envs.questions``; each of them is one group.
        group_size: Episodes of each question.
        group_reward: Paid beside the environment's reward: trajectories have the sum and the parts
            of both. Groups are whole here, whatever ``shard`` and ``token_limit`` say.
        first_group: Number of the first question's group; the others follow.
        seed: Non-negative; with question and member it decides what is sampled.
        shard: ``(i, n)``: play only every n-th group from the i-th on. Its groups have the numbers
            and the episodes that they have among all, so n processes play what one would.
        token_limit: Begin no further group once the policy has written so many tokens; None for
            no limit. Which groups are played then depends on the number of rows.
        wait_for_all: Decode when every row has its documents. Then results are the same to the
            last bit in every run, and a fast retriever costs nothing. With False, rows go on while
            others wait: right for slow retrievers.
        progress: Told of each finished episode.
        on_episode: Given each finished episode, in the order in which they finish; with a group
            reward, when its group is complete.

    Raises:
        ConfigurationError: A bad argument, a shard without a group, an environment in another
            mode, or a group reward with a part that the environment's reward has.
        ContextLengthError: Episodes may grow longer than the engine's cache.
        RetrievalError: A search failed and the environment was not told to truncate.
        RewardError: A reward failed.
    """
    _check(envs, engine, questions, group_size)
    beside = None
    if group_reward is not None:
        beside = get_group_reward(group_reward, beside=envs.reward)
    queue = _Queue(questions, group_size, seed, shard, token_limit, first_group)
    groups = WholeGroups(beside, group_size)
    play = _Play(envs, engine, queue, progress, on_episode, groups)
    try:
        play.start()
        while play.running:
            play.step(wait_for_all)
    finally:
        engine.release(range(envs.num_envs))
    return play.result()


def make_envs(
    env_id: str,
    *,
    num_envs: int,
    vocabulary: int,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> SearchQAVectorEnv:
    """Return rows in the form that :func:`search_env.agents.rollouts.collect.collect` wants.

    Args:
        env_id: A registered id.
        num_envs: Episodes side by side.
        vocabulary: Number of ids that the model knows.
        options: Arguments of the environment.

    Raises:
        ModelMismatchError: The tokenizer has ids that the model does not know.
        ConfigurationError: Another kind of environment, or arguments that cannot work.
    """

    def make(**more: Any) -> SearchQAVectorEnv:
        arguments = {"on_retrieval_error": "truncate", **options, **more}
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
            f"Expected a tokenizer of at most {vocabulary} ids, which the model knows, got "
            f"{envs.tokenizer.name!r} with {size}. Pass the model's own tokenizer."
        )
    return envs if size == vocabulary else make(vocab_size=vocabulary)


@dataclass(frozen=True, slots=True)
class _Ticket:
    """One episode that is to be played."""

    order: int  # among all episodes
    group: int
    question: int
    seed: int


class _Queue:
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
        self._limit = token_limit
        self._size = group_size
        tickets = []
        first, every = shard
        asked: Counter[int] = Counter()  # a question asked twice is two groups with other seeds
        for group, question in enumerate(map(int, questions)):
            for member in range(group_size) if group % every == first else ():
                own = np.random.SeedSequence((seed, question, asked[question], member))
                number = int(own.generate_state(1, np.uint64)[0] >> np.uint64(1))
                order = group * group_size + member
                tickets.append(_Ticket(order, first_group + group, question, number))
            asked[question] += 1
        if not tickets:
            raise ConfigurationError(
                f"Expected a shard of {len(questions)} groups, got shard={shard}, which has none "
                "of them. Pass more questions, or fewer processes."
            )
        self.total = len(tickets)
        self._left = deque(tickets)

    def take(self, count: int, policy_tokens: int) -> list[_Ticket]:
        """Return up to ``count`` episodes; none of a new group once the limit is reached."""
        taken: list[_Ticket] = []
        while self._left and len(taken) < count:
            begins_group = self._left[0].order % self._size == 0
            if begins_group and self._limit is not None and policy_tokens >= self._limit:
                self.total -= len(self._left)
                self._left.clear()
                break
            taken.append(self._left.popleft())
        return taken


@dataclass(slots=True)
class _Clock:
    """Adds up wall time by name."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("environment", "retrieval", "prefill", "decode"), 0.0
        )
    )
    _last: float = field(default_factory=time.perf_counter)

    def book(self, name: str) -> None:
        """Book the time since the last booking."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now


class _Play:
    """Rows of the environment and of the engine, moved together."""

    def __init__(
        self,
        envs: SearchQAVectorEnv,
        engine: RolloutEngine,
        queue: _Queue,
        progress: Progress | None,
        on_episode: OnEpisode | None,
        groups: WholeGroups,
    ) -> None:
        rows = envs.num_envs
        self._groups = groups
        self._ended = 0
        self._envs, self._engine, self._queue = envs, engine, queue
        self._progress, self._on_episode = progress, on_episode
        self._tickets: dict[int, _Ticket] = {}  # by row, of the episodes under way
        self._ready = np.zeros(rows, np.bool_)  # plays, and waits for the policy's next token
        self._length = np.zeros(rows, np.int64)
        self._versions = np.zeros(rows, np.int64)  # of the weights that each episode began with
        size = envs.components.protocol.max_tokens
        self._log_probs = np.full((rows, size), np.nan, np.float32)
        self._values: NDArray[np.float32] | None = None
        self._finished: list[tuple[int, Trajectory]] = []
        self._policy_tokens = self._faults = self._steps = 0
        self._clock = _Clock()
        self._prefill = engine.prefill_seconds

    @property
    def running(self) -> bool:
        """Whether an episode is under way."""
        return bool(self._tickets)

    def start(self) -> None:
        """Begin the first episodes. Rows without one stand idle behind a question nobody asks."""
        rows = self._envs.num_envs
        tickets = self._queue.take(rows, 0)
        asked = [ticket.question for ticket in tickets]
        obs, _ = self._envs.reset(
            seed=0, options={"index": asked + asked[:1] * (rows - len(asked))}
        )
        self._begin(list(range(len(tickets))), tickets, obs)

    def step(self, wait_for_all: bool) -> None:
        """Write a token in every row that can take one, and settle what comes of it."""
        rows = np.flatnonzero(self._ready)
        if len(rows):
            self._decode(rows)
        self._clock.book("decode")
        wanted = len(self._tickets) if wait_for_all else 1
        obs, rewards, terminated, truncated, infos = self._envs.recv(wanted)
        searched = infos.get("_document_ids")
        self._clock.book("environment" if searched is None else "retrieval")
        self._settle(obs, rewards, terminated | truncated, infos)

    def result(self) -> Rollouts:
        """Return everything that was played, in order."""
        seconds = self._clock.seconds
        prefill = self._engine.prefill_seconds - self._prefill
        seconds["prefill"], seconds["decode"] = prefill, seconds["decode"] - prefill
        ordered = [trajectory for _, trajectory in sorted(self._finished, key=lambda f: f[0])]
        return Rollouts(ordered, seconds, self._policy_tokens, self._faults, self._steps)

    def _decode(self, rows: NDArray[np.intp]) -> None:
        decoded = self._engine.decode(rows)
        self._log_probs[rows, self._length[rows]] = decoded.log_probs
        if decoded.values is not None:
            if self._values is None:
                self._values = np.full_like(self._log_probs, np.nan)
            self._values[rows, self._length[rows]] = decoded.values
        self._policy_tokens += len(rows)
        self._steps += 1
        self._ready[rows] = False
        self._clock.book("decode")
        self._envs.send(decoded.ids, rows)
        self._clock.book("environment")

    def _settle(
        self,
        obs: Mapping[str, Any],
        rewards: NDArray[np.float64],
        ended: NDArray[np.bool_],
        infos: Mapping[str, Any],
    ) -> None:
        """Hand inserted tokens to the engine; close what ended and begin what is next."""
        ready: NDArray[np.bool_] = infos["ready"]
        length = obs["length"]
        going = ready & ~ended
        grown = np.flatnonzero(going & (length > self._length + 1))
        if len(grown):
            inserted = [
                obs["tokens"][row, self._length[row] + 1 : length[row]].copy() for row in grown
            ]
            self._engine.insert(grown, inserted)
        self._length[ready] = length[ready]
        self._ready[going] = True
        done = np.flatnonzero(ready & ended).tolist()
        for row in done:
            self._finish(row, float(rewards[row]), infos)
        if done:
            self._refill(done)
        self._clock.book("environment")

    def _finish(self, row: int, reward: float, infos: Mapping[str, Any]) -> None:
        ticket, transcript = self._tickets.pop(row), self._envs.transcripts[row]
        length = len(transcript.tokens)
        values = None if self._values is None else self._values[row, :length].copy()
        trajectory = _trajectory(
            transcript,
            ticket.group,
            log_probs=self._log_probs[row, :length].copy(),
            values=values,
            reward=reward,
            info=_of_row(infos, row),
            version=int(self._versions[row]),
        )
        self._ended += 1
        self._faults += trajectory.valid * len(transcript.faults)
        if self._progress is not None:
            self._progress(self._ended, self._queue.total)
        finished = Finished(ticket.order, ticket.question, transcript, trajectory)
        for order, question, transcript, trajectory in self._groups.take(finished):
            self._finished.append((order, trajectory))
            if self._on_episode is not None:
                self._on_episode(question, transcript, trajectory)

    def _refill(self, rows: list[int]) -> None:
        self._engine.release(rows)
        tickets = self._queue.take(len(rows), self._policy_tokens)
        if not tickets:
            return
        rows = rows[: len(tickets)]
        mask = np.zeros(self._envs.num_envs, np.bool_)
        mask[rows] = True
        index = np.zeros(self._envs.num_envs, np.int64)
        index[rows] = [ticket.question for ticket in tickets]
        obs, _ = self._envs.reset(options={"reset_mask": mask, "index": index})
        self._begin(rows, tickets, obs)

    def _begin(self, rows: list[int], tickets: Sequence[_Ticket], obs: Mapping[str, Any]) -> None:
        self._length[rows] = obs["length"][rows]
        self._versions[rows] = self._engine.weights_version
        self._log_probs[rows] = np.nan
        if self._values is not None:
            self._values[rows] = np.nan
        self._tickets.update(zip(rows, tickets, strict=True))
        self._ready[rows] = True
        prompts = [obs["tokens"][row, : self._length[row]].copy() for row in rows]
        self._clock.book("environment")
        self._engine.begin(rows, prompts, [ticket.seed for ticket in tickets])
        self._clock.book("decode")


def _trajectory(
    transcript: Transcript,
    group: int,
    *,
    log_probs: NDArray[np.float32],
    values: NDArray[np.float32] | None,
    reward: float,
    info: Mapping[str, Any],
    version: int,
) -> Trajectory:
    question: Question = transcript.question
    return Trajectory(
        question_id=question.id,
        group=group,
        tokens=transcript.tokens,
        sources=transcript.sources,
        log_probs=log_probs,
        values=values,
        reward=reward,
        reward_parts=info["reward_parts"],
        stop_reason=StopReason(info["stop_reason"]),
        valid=bool(info["valid"]),
        well_formed=bool(info["well_formed"]),
        answer=transcript.answer,
        scores={name: float(info[name]) for name in _SCORES},
        num_searches=len(transcript.searches),
        hops=len(question.hops),
        kind=question.kind,
        version=version,
        queries=tuple(search.query for search in transcript.searches),
    )


def _of_row(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return what the infos say of a row whose episode ended."""
    parts = infos.get("reward_parts", {}) if infos["valid"][row] else {}
    names = ("stop_reason", "valid", "well_formed", *_SCORES)
    return {name: infos[name][row] for name in names} | {
        "reward_parts": {
            name: float(values[row]) for name, values in parts.items() if not name.startswith("_")
        }
    }


def _check(
    envs: SearchQAVectorEnv, engine: RolloutEngine, questions: Sequence[int], group_size: int
) -> None:
    check_count("group_size", group_size, 1)
    if not len(questions):
        raise ConfigurationError(
            "Expected at least one question, got none. Check the split, and what the curriculum "
            "leaves of it."
        )
    if envs.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
        raise ConfigurationError(
            "Expected a vector environment with autoreset_mode='Disabled', got "
            f"{envs.metadata['autoreset_mode'].value!r}. Pass it to gym.make_vec: rows begin again "
            "with the queue's next question."
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
