"""Replay of recorded episodes against an environment, and rescoring by another reward.

Replay compares observations whole at each step (no slower than copying one), so a change in what an
earlier step wrote is noticed too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from search_env.envs.search_qa import Observation, SearchQAEnv, bare_env
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import (
    ConfigurationError,
    EpisodeFileError,
    ReplayMismatchError,
    RetrievalError,
)
from search_env.recording.files import read_episodes
from search_env.recording.record import RecordedEpisode, RecordedGroup, current_versions
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.digests import digest
from search_env.rewards import (
    GroupReward,
    Reward,
    Score,
    get_group_reward,
    get_reward,
    group_scores,
)
from search_env.types import Event, Searched, Source, Transcript
from search_env.validation import check_choice

# Recorded arguments that replay overrides without changing an observation: a mask costs time, and a
# failed search is to be reported with the step at which it failed.
_OVERRIDES = {"action_mask": False, "on_retrieval_error": "truncate"}

_CORPUS = (
    "the corpus, the index or the retriever changed. Replay with those that the episode was "
    "recorded with"
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """Counts of what was compared in one episode and equalled the record."""

    observations: int
    searches: int


@dataclass(frozen=True, slots=True)
class Rescored:
    """Recorded episodes under one reward.

    ``reward`` and ``parts`` are names; ``scores`` has one score per episode, in order, None where
    retrieval failed.
    """

    reward: str
    parts: tuple[str, ...]
    scores: tuple[Score | None, ...]

    @property
    def valid(self) -> tuple[Score, ...]:
        """Scores of the valid episodes, in order."""
        return tuple(score for score in self.scores if score is not None)

    @property
    def invalid(self) -> int:
        """Number of episodes that were not scored because retrieval failed in them."""
        return self.scores.count(None)

    def mean(self) -> Score:
        """Return the mean total and parts over valid episodes; NaN where there is none."""
        valid = self.valid
        if not valid:
            return Score(float("nan"), dict.fromkeys(self.parts, float("nan")))
        parts = {name: sum(s.parts[name] for s in valid) / len(valid) for name in self.parts}
        return Score(sum(score.total for score in valid) / len(valid), parts)


def rescore(
    path: str | Path,
    reward: str | Reward,
    *,
    group_reward: str | GroupReward | None = None,
    group_by: str = "record",
    torn_tail: str = "raise",
) -> Rescored:
    """Score recorded episodes by another reward; nothing is executed and no dataset is needed.

    Args:
        path: An episode file.
        reward: A reward, or the name of one.
        group_reward: Group reward to add to the episodes of each group; None for none.
        group_by: Definition of a group: ``"record"`` for the group that an episode was recorded
            with, or ``"question"`` for all episodes of a question in the file.
        torn_tail: As for :func:`~search_env.recording.files.read_episodes`.

    Raises:
        ConfigurationError: An unknown reward, two parts of one name, or a group with episodes of
            several questions.
        EpisodeFileError: The file is damaged; or there is a group reward, and an episode was
            recorded without a group or members of a group are missing.
        RewardError: The reward failed on an episode.
    """
    check_choice("group_by", group_by, list(_GROUPS))
    reward = get_reward(reward)
    episodes = read_episodes(path, torn_tail=torn_tail)
    if group_reward is None:
        scores = tuple(reward(e.transcript) if e.valid else None for e in episodes)
        return Rescored(reward.name, reward.parts, scores)
    group_reward = get_group_reward(group_reward, beside=reward)
    return Rescored(
        f"{reward.name} + {group_reward.name}",
        reward.parts + group_reward.parts,
        _score_groups(_GROUPS[group_by](episodes), reward, group_reward),
    )


_Members = list[tuple[int, RecordedEpisode]]  # with each episode's number in the file


def _score_groups(
    groups: Iterable[_Members], reward: Reward, group_reward: GroupReward
) -> tuple[Score | None, ...]:
    """Return the score of each episode, including its part of the group reward."""
    scores: dict[int, Score | None] = {}
    for members in groups:
        single = [reward(e.transcript) if e.valid else Score(0.0, {}) for _, e in members]
        totals = group_scores(group_reward, [e.transcript for _, e in members], single)
        for (number, episode), score in zip(members, totals, strict=True):
            scores[number] = score if episode.valid else None
    return tuple(scores[number] for number in range(len(scores)))


def _by_record(episodes: Iterable[RecordedEpisode]) -> Iterator[_Members]:
    """Yield the recorded groups, each as soon as it is complete."""
    groups: dict[RecordedGroup, _Members] = {}
    for number, episode in enumerate(episodes):
        if episode.group is None:
            raise EpisodeFileError(
                f"{episode.place}: expected an episode that was recorded with its group, got one "
                "without. To take all episodes of a question in the file as its group, pass "
                "group_by='question' (--group-by question)."
            )
        members = groups.setdefault(episode.group, [])
        members.append((number, episode))
        if len(members) == episode.group.size:
            yield groups.pop(episode.group)
    for group, members in groups.items():
        raise EpisodeFileError(
            f"{members[0][1].place}: expected all {group.size} episodes of group {group.id!r} in "
            f"the file, got {len(members)}. Score the complete file, or pass "
            "group_by='question' (--group-by question)."
        )


def _by_question(episodes: Iterable[RecordedEpisode]) -> Iterator[_Members]:
    """Yield the episodes of each question, ignoring the recorded groups."""
    groups: dict[tuple[str, str, str], _Members] = {}
    for number, episode in enumerate(episodes):
        question = episode.transcript.question
        key = question.dataset, question.split, question.id
        groups.setdefault(key, []).append((number, episode))
    yield from groups.values()


_GROUPS = {"record": _by_record, "question": _by_question}


def recorded_env(episode: RecordedEpisode) -> SearchQAEnv:
    """Return a new environment with the recorded arguments.

    Raises:
        ConfigurationError: The id, or a name among the arguments, is not registered.
        DataError: A file among the arguments is missing or damaged.
    """
    arguments = {**episode.arguments, **_OVERRIDES}
    with _recorded_arguments(episode):
        if episode.env_id is None:
            return SearchQAEnv(**arguments)
        return bare_env(gym.make(episode.env_id, disable_env_checker=True, **arguments))


def recorded_envs(episode: RecordedEpisode, num_envs: int, **changes: Any) -> SearchQAVectorEnv:
    """Return a new vector environment with the recorded arguments, for rollouts.

    It has ``autoreset_mode="Disabled"`` and no copies; ``changes`` are to the arguments. Errors are
    those of :func:`recorded_env`.
    """
    arguments = {**episode.arguments, **_OVERRIDES, **changes}
    arguments |= {"autoreset_mode": "Disabled", "copy": False}
    with _recorded_arguments(episode):
        if episode.env_id is None:
            return SearchQAVectorEnv(num_envs, **arguments)
        envs = gym.make_vec(episode.env_id, num_envs=num_envs, **arguments).unwrapped
    if isinstance(envs, SearchQAVectorEnv):
        return envs
    raise ConfigurationError(
        f"{episode.place}: expected {episode.env_id!r} to be a SearchQAVectorEnv, got "
        f"{type(envs).__name__}. Register the id with one as its vector_entry_point."
    )


@contextmanager
def _recorded_arguments(episode: RecordedEpisode) -> Iterator[None]:
    """Raise errors of an id or of arguments that are not known here as such of the episode."""
    if episode.env_id is not None and episode.env_id not in gym.registry:
        raise ConfigurationError(
            f"{episode.place}: expected a registered id, got {episode.env_id!r}. Import the module "
            "that registers it first (--import MODULE)."
        )
    try:
        yield
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigurationError(
            f"{episode.place}: expected arguments of this version, got an unknown one: {error}. "
            "Replay with the version that recorded the file."
        ) from error


def replay_episodes(episodes: Iterable[RecordedEpisode]) -> Iterator[Replayed]:
    """:func:`replay_episode` in order; episodes with equal arguments share an environment."""
    envs: dict[str, SearchQAEnv] = {}
    for episode in episodes:
        key = json.dumps([episode.env_id, episode.arguments], sort_keys=True)
        if key not in envs:
            envs[key] = recorded_env(episode)
        yield replay_episode(episode, envs[key])


def replay_episode(episode: RecordedEpisode, env: gym.Env[Any, Any] | None = None) -> Replayed:
    """Execute an episode again and compare all results with the record.

    Compared are every observation (tokens, sources, length), every search (query, documents and
    their digest), the ending, the events and the reward. A retrieval that failed at recording time
    is made to fail again. Scores of documents are not compared: they may differ in the last bit
    between machines.

    Args:
        episode: The recorded episode.
        env: Environment to execute it in; its reward is restored afterwards. None for a new
            environment with the recorded arguments.

    Returns:
        Counts of what was compared.

    Raises:
        ReplayMismatchError: At the first difference; names episode, step and the likely cause.
        ConfigurationError: As raised by :func:`recorded_env`, or the reward is not registered.
    """
    bare = recorded_env(episode) if env is None else bare_env(env)
    before = bare.reward, bare.retriever
    try:
        bare.set_reward(episode.reward)
        return _Replay(episode, bare).run()
    finally:
        bare.reward, bare.retriever = before


class _Replay:
    """State of one episode's replay in an environment."""

    def __init__(self, episode: RecordedEpisode, env: SearchQAEnv) -> None:
        self.episode, self.env = episode, env
        self.recorded = episode.transcript
        self.recorded_searches = {search.position: search for search in self.recorded.searches}
        self.num_searches = self.step = self.length = 0  # compared so far
        # Expected observation (max_tokens,) at this step; it grows with the episode.
        limit = max(env.protocol.max_tokens, len(self.recorded.tokens))
        self.tokens, self.sources = np.zeros(limit, np.int32), np.zeros(limit, np.int8)

    def run(self) -> Replayed:
        self._check_tokenizer()
        recorded, env = self.recorded, self.env
        positions = np.flatnonzero(recorded.sources == Source.POLICY).tolist()
        lengths = [*positions[1:], len(recorded.tokens)]  # of the observation after each action
        self._check_observation(self._reset(), positions[0])
        episode_return = 0.0
        for position, length in zip(positions, lengths, strict=True):
            self.step += 1
            last = self.step == len(positions)
            if last and not self.episode.valid:
                env.retriever = FakeRetriever(error=RetrievalError("as recorded"))
            result = env.step(int(recorded.tokens[position]))
            observation, reward, terminated, truncated, info = result
            episode_return += reward
            self._check_search(position, info)
            self._check_observation(observation, length)
            if (terminated or truncated) != last:
                self._check_ending(last, info)
        self._check_end(env.transcript(), Score(episode_return, info.get("reward_parts", {})))
        return Replayed(1 + len(positions), self.num_searches)

    def _reset(self) -> Observation:
        question = self.recorded.question
        cause = "the dataset changed. Replay with the recorded questions"
        options = {"question_id": question.id}
        try:
            observation, _ = self.env.reset(seed=self.episode.seed, options=options)
        except ConfigurationError as error:
            if any(question.id == other.id for other in self.env.questions):
                cause = self._rules()
            raise self._mismatch(f"question {question.id!r}", str(error), cause) from error
        replayed = dataclasses.asdict(self.env.transcript().question)
        for name, value in dataclasses.asdict(question).items():
            if value != replayed[name]:
                expected = f"the question's {name} to be {value!r}"
                raise self._mismatch(expected, repr(replayed[name]), cause)
        return observation

    def _check_tokenizer(self) -> None:
        recorded, replayed = self.episode.tokenizer, self.env.tokenizer
        if (replayed.size, replayed.digest) != (recorded.size, recorded.digest):
            raise self._mismatch(
                f"tokenizer {recorded.name!r} with {recorded.size} ids and digest "
                f"{recorded.digest[:12]}",
                f"{replayed.name!r} with {replayed.size} and {replayed.digest[:12]}",
                "the tokenizer's file changed. Restore the original file",
            )

    def _check_search(self, position: int, info: dict[str, Any]) -> None:
        """Compare the query and the documents of the step's search, if there was one."""
        expected = self.recorded_searches.get(position)
        searches = self.env.transcript().searches[self.num_searches :] if "query" in info else ()
        search = searches[0] if searches else None
        if expected is None and search is None:
            return
        failure = info.get("retrieval_error")
        if expected is None or search is None or search.query != expected.query:
            raise self._mismatch(
                _search_text(expected),
                f"a failed one ({failure})" if failure else _search_text(search),
                _CORPUS if failure else self._rules(),
            )
        if search.document_ids != expected.document_ids:
            text = f"query {expected.query!r} to find documents {list(expected.document_ids)}"
            raise self._mismatch(text, str(list(search.document_ids)), _CORPUS)
        self._check_digest(self.num_searches)
        self.num_searches += 1

    def _check_digest(self, number: int) -> None:
        """Compare the content of the documents that a search retrieved."""
        search = self.recorded.searches[number]
        documents = self.env.transcript().searches[number].documents
        recorded, replayed = self.episode.digests[number], digest(documents)
        if replayed == recorded:
            return
        pairs = zip(documents, search.documents, strict=True)
        changed = [new.id for new, old in pairs if digest([new]) != digest([old])]
        expected = f"what query {search.query!r} retrieved to have digest {recorded[:12]}"
        raise self._mismatch(expected, f"{replayed[:12]}: documents {changed} differ", _CORPUS)

    def _check_observation(self, observation: Observation, length: int) -> None:
        """Compare a whole observation, padding included."""
        new = slice(self.length, length)
        self.tokens[new], self.sources[new] = self.recorded.tokens[new], self.recorded.sources[new]
        tokens, sources = observation["tokens"], observation["sources"]
        if tokens.shape != self.tokens.shape:
            raise self._mismatch(
                f"a context of at least {len(self.recorded.tokens)} tokens",
                f"one of {len(tokens)}",
                "max_tokens changed. Replay with the recorded arguments",
            )
        differs = (tokens != self.tokens) | (sources != self.sources)
        if not differs.any() and observation["length"] == length:
            self.length = length
            return
        at = int(differs.argmax()) if differs.any() else length
        if self.length <= at < length and self.sources[at] == Source.RETRIEVED:
            self._check_digest(self.num_searches - 1)  # names the documents if they differ
        raise self._mismatch(
            f"an observation of {length} tokens with {_token_text(self.tokens, self.sources, at)}",
            f"{observation['length']} tokens with {_token_text(tokens, sources, at)}",
            self._rules(),
        )

    def _check_ending(self, last: bool, info: dict[str, Any]) -> None:
        """Report an episode that ended too early or not at all."""
        reason = self.recorded.stop_reason
        end = f"end ({reason.value if reason else ''})"
        got = f"an end ({info['stop_reason']})" if info["stop_reason"] else "none"
        raise self._mismatch(f"the episode to {end if last else 'continue'}", got, self._rules())

    def _check_end(self, replayed: Transcript, score: Score) -> None:
        """Compare what is complete only at the end: all events and the reward."""
        events, originals = _without_documents(replayed), _without_documents(self.recorded)
        if events != originals:
            pairs = zip((*events, None), (*originals, None), strict=False)
            got, event = next(pair for pair in pairs if pair[0] != pair[1])
            raise self._mismatch(f"event {event}", str(got), self._rules())
        expected = self.episode.score
        if score != expected:
            raise self._mismatch(
                f"reward {self.episode.reward!r} to pay {expected.total!r} {expected.parts}",
                f"{score.total!r} {score.parts}",
                "the reward's definition changed. Score the record again with search-env rescore",
            )

    def _rules(self) -> str:
        """Return the likely cause of a difference where no data differs."""
        installed = current_versions()
        differing = [
            f"{name} {version} (here {installed.get(name, 'none')})"
            for name, version in self.episode.versions.items()
            if installed.get(name) != version
        ]
        if differing:
            return f"another version: it was recorded with {', '.join(differing)}. Replay with that"
        return (
            "the environment's arguments, the protocol's text or the tokenizer's rules changed. "
            "Replay with the original ones"
        )

    def _mismatch(self, expected: str, got: str, cause: str) -> ReplayMismatchError:
        where = f"step {self.step}" if self.step else "reset"
        return ReplayMismatchError(
            f"{self.episode.place}, question {self.recorded.question.id!r}, {where}: expected "
            f"{expected}, got {got}. Likely cause: {cause}."
        )


def _without_documents(transcript: Transcript) -> list[Event]:
    """Return the events; documents have been compared by their digest, which skips scores."""
    events = transcript.events
    return [dataclasses.replace(e, documents=()) if isinstance(e, Searched) else e for e in events]


def _search_text(search: Searched | None) -> str:
    return "no search" if search is None else f"a search for {search.query!r}"


def _token_text(tokens: NDArray[np.int32], sources: NDArray[np.int8], at: int) -> str:
    if at >= len(tokens):
        return "the end of the context"
    names = {source.value: source.name.lower() for source in Source}
    source = int(sources[at])
    return f"token {at} = {int(tokens[at])} ({names.get(source, source)})"
