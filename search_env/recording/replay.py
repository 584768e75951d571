"""Recorded episodes again: executed and compared with their record, or scored by another reward.

:func:`replay_episode` sends a record's actions through an environment and compares everything that
comes back. Observations are compared whole at every step (a comparison of bytes, no dearer than the
copy that an observation is), so nothing that an earlier step wrote can change unnoticed.
:func:`rescore` executes nothing. Files are :mod:`search_env.recording.files`'s.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from search_env.envs.search_qa import Observation, SearchQAEnv, bare_env
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
from search_env.types import Searched, Source, StopReason, Transcript
from search_env.validation import check_choice

# What replay changes of the recorded arguments, none of which changes an observation: a mask costs
# time, and a failed search shall be reported with the step it failed at.
_OVERRIDES = {"action_mask": False, "on_retrieval_error": "truncate"}

_CORPUS = (
    "the corpus, the index or the retriever changed. Replay with what was searched when the "
    "episode was recorded"
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was compared of one episode and found to be as recorded."""

    observations: int
    searches: int


@dataclass(frozen=True, slots=True)
class Rescored:
    """Recorded episodes under one reward.

    Attributes:
        reward: Its name.
        parts: Names of its parts.
        scores: One for each episode in order; None where retrieval failed in it.
    """

    reward: str
    parts: tuple[str, ...]
    scores: tuple[Score | None, ...]

    @property
    def valid(self) -> tuple[Score, ...]:
        """The scores that there are."""
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
        path: Of an episode file.
        reward: A reward or the name of one.
        group_reward: Paid beside it to the episodes of each group; None for nothing.
        group_by: What is a group: ``"record"`` for the group that an episode was recorded with, or
            ``"question"`` for all episodes of a question in the file, whatever was recorded.
        torn_tail: As for :func:`~search_env.recording.files.read_episodes`.

    Raises:
        ConfigurationError: No reward of that name, two parts of one name, or a group of several
            questions.
        EpisodeFileError: The file is damaged; or a group reward asks for groups, and an episode was
            recorded without one or members of one are missing.
        RewardError: The reward failed on an episode.
    """
    check_choice("group_by", group_by, list(_GROUPS))
    reward = get_reward(reward)
    beside = None if group_reward is None else get_group_reward(group_reward, beside=reward)
    episodes = read_episodes(path, torn_tail=torn_tail)
    if beside is None:
        scores = tuple(reward(e.transcript) if e.valid else None for e in episodes)
        return Rescored(reward.name, reward.parts, scores)
    return Rescored(
        f"{reward.name} + {beside.name}",
        reward.parts + beside.parts,
        _in_groups(_GROUPS[group_by](episodes), reward, beside),
    )


_Members = list[tuple[int, RecordedEpisode]]  # with each episode's number in the file


def _in_groups(
    groups: Iterable[_Members], reward: Reward, beside: GroupReward
) -> tuple[Score | None, ...]:
    """Return each episode's score with its share of the group's."""
    scores: dict[int, Score | None] = {}
    for members in groups:
        own = [reward(e.transcript) if e.valid else Score(0.0, {}) for _, e in members]
        paid = group_scores(beside, [episode.transcript for _, episode in members], own)
        for (number, episode), score in zip(members, paid, strict=True):
            scores[number] = score if episode.valid else None
    return tuple(scores[number] for number in range(len(scores)))


def _by_record(episodes: Iterable[RecordedEpisode]) -> Iterator[_Members]:
    """Yield the groups that were recorded, each as soon as it is complete."""
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
            f"the file, got {len(members)}. Score the whole file that was recorded, or pass "
            "group_by='question' (--group-by question)."
        )


def _by_question(episodes: Iterable[RecordedEpisode]) -> Iterator[_Members]:
    """Yield the episodes of each question, whatever group they were recorded with."""
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
        ConfigurationError: The id, or a name among the arguments, is not known here.
        DataError: A file among the arguments is missing or damaged.
    """
    arguments = {**episode.arguments, **_OVERRIDES}
    if episode.env_id is not None and episode.env_id not in gym.registry:
        raise ConfigurationError(
            f"{episode.place}: expected a registered id, got {episode.env_id!r}. Import the module "
            "that registers it first (--import MODULE)."
        )
    try:
        if episode.env_id is None:
            return SearchQAEnv(**arguments)
        return bare_env(gym.make(episode.env_id, disable_env_checker=True, **arguments))
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigurationError(
            f"{episode.place}: expected arguments that this version knows, got one more: {error}. "
            "Replay with the version that recorded the file."
        ) from error


def replay_episodes(episodes: Iterable[RecordedEpisode]) -> Iterator[Replayed]:
    """Execute episodes one after the other; those of the same arguments share an environment.

    Raises:
        ReplayMismatchError: At the first difference.
    """
    envs: dict[str, SearchQAEnv] = {}
    for episode in episodes:
        key = json.dumps([episode.env_id, episode.arguments], sort_keys=True)
        if key not in envs:
            envs[key] = recorded_env(episode)
        yield replay_episode(episode, envs[key])


def replay_episode(episode: RecordedEpisode, env: gym.Env[Any, Any] | None = None) -> Replayed:
    """Execute an episode again and compare all that comes of it with the record.

    That is every observation (tokens, sources, length), every search (query, documents and their
    digest), the ending, the events and the reward. A retrieval that failed when the episode was
    recorded is made to fail again. Documents' scores are not compared: they may differ in the last
    bit between machines.

    Args:
        episode: As recorded.
        env: Where to execute it; its reward is put back afterwards. None for a new environment
            with the recorded arguments.

    Returns:
        What was compared.

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
    """One episode on its way through an environment."""

    def __init__(self, episode: RecordedEpisode, env: SearchQAEnv) -> None:
        self.episode, self.env = episode, env
        self.record = episode.transcript
        self.searches = {search.position: search for search in self.record.searches}
        self.searched = 0
        self.step = 0
        self.length = 0
        # What an observation must be at this step; it grows with the episode.
        limit = max(env.protocol.max_tokens, len(self.record.tokens))
        self.tokens, self.sources = np.zeros(limit, np.int32), np.zeros(limit, np.int8)

    def run(self) -> Replayed:
        self._check_tokenizer()
        record, env = self.record, self.env
        positions = np.flatnonzero(record.sources == Source.POLICY).tolist()
        lengths = [*positions[1:], len(record.tokens)]  # of the observation after each action
        self._check_observation(self._reset(), positions[0])
        paid = 0.0
        for position, length in zip(positions, lengths, strict=True):
            self.step += 1
            last = self.step == len(positions)
            if last and not self.episode.valid:
                env.retriever = FakeRetriever(error=RetrievalError("as recorded"))
            result = env.step(int(record.tokens[position]))
            observation, reward, terminated, truncated, info = result
            paid += reward
            self._check_search(position, info)
            self._check_observation(observation, length)
            if (terminated or truncated) != last:
                self._check_ending(last, info)
        self._check_end(env.transcript(), Score(paid, info.get("reward_parts", {})))
        return Replayed(1 + len(positions), self.searched)

    def _reset(self) -> Observation:
        question = self.record.question
        cause = "the dataset changed. Replay with the questions that were asked"
        try:
            observation, _ = self.env.reset(
                seed=self.episode.seed, options={"question_id": question.id}
            )
        except ConfigurationError as error:
            known = any(question.id == other.id for other in self.env.questions)
            raise self._mismatch(
                f"question {question.id!r}", str(error), self._rules() if known else cause
            ) from error
        found = self.env.transcript().question
        now = dataclasses.asdict(found)
        for name, then in dataclasses.asdict(question).items():
            if then != now[name]:
                expected = f"the question's {name} to be {then!r}"
                raise self._mismatch(expected, repr(now[name]), cause)
        return observation

    def _check_tokenizer(self) -> None:
        recorded, found = self.episode.tokenizer, self.env.tokenizer
        if (found.size, found.digest) != (recorded.size, recorded.digest):
            raise self._mismatch(
                f"tokenizer {recorded.name!r} with {recorded.size} ids and digest "
                f"{recorded.digest[:12]}",
                f"{found.name!r} with {found.size} and {found.digest[:12]}",
                "the tokenizer's file changed. Put the former one back",
            )

    def _check_search(self, position: int, info: dict[str, Any]) -> None:
        """Compare what the step searched for and found."""
        expected = self.searches.get(position)
        found = self.env.transcript().searches[self.searched :] if "query" in info else ()
        if expected is None and not found:
            return
        if expected is None or not found:
            failure = info.get("retrieval_error")
            raise self._mismatch(
                _search(expected),
                f"a failed one ({failure})" if failure else _search(*found),
                _CORPUS if failure else self._rules(),
            )
        if found[0].query != expected.query:
            raise self._mismatch(_search(expected), _search(*found), self._rules())
        if found[0].document_ids != expected.document_ids:
            raise self._mismatch(
                f"query {expected.query!r} to find documents {list(expected.document_ids)}",
                str(list(found[0].document_ids)),
                _CORPUS,
            )
        # A document that a later search found with another text stands in the record with that one.
        later = (other for at, other in self.searches.items() if at > position)
        if not any(set(expected.document_ids) & set(other.document_ids) for other in later):
            self._check_digest(self.searched)
        self.searched += 1

    def _check_digest(self, number: int) -> None:
        """Compare the content of what a search retrieved."""
        search, transcript = self.record.searches[number], self.env.transcript()
        documents = [transcript.documents[key] for key in search.document_ids]
        recorded, found = self.episode.digests[number], digest(documents)
        if found == recorded:
            return
        changed = [d.id for d in documents if digest([d]) != digest([self.record.documents[d.id]])]
        raise self._mismatch(
            f"what query {search.query!r} retrieved to have digest {recorded[:12]}",
            f"{found[:12]}: documents {changed} read otherwise",
            _CORPUS,
        )

    def _check_observation(self, observation: Observation, length: int) -> None:
        """Compare a whole observation, padding included."""
        new = slice(self.length, length)
        self.tokens[new], self.sources[new] = self.record.tokens[new], self.record.sources[new]
        tokens, sources = observation["tokens"], observation["sources"]
        if (
            observation["length"] == length
            and np.array_equal(tokens, self.tokens)
            and np.array_equal(sources, self.sources)
        ):
            self.length = length
            return
        raise self._different_observation(observation, length)

    def _different_observation(self, observation: Observation, length: int) -> ReplayMismatchError:
        tokens, sources = observation["tokens"], observation["sources"]
        if tokens.shape != self.tokens.shape:
            return self._mismatch(
                f"a context of at least {len(self.record.tokens)} tokens",
                f"one of {len(tokens)}",
                "max_tokens is another. Replay with the recorded arguments",
            )
        differs = (tokens != self.tokens) | (sources != self.sources)
        at = int(np.flatnonzero(differs)[0]) if differs.any() else length
        if self.length <= at < length and self.sources[at] == Source.RETRIEVED:
            self._check_digest(self.searched - 1)  # names the documents, if it is they
        return self._mismatch(
            f"an observation of {length} tokens with {_token(self.tokens, self.sources, at)}",
            f"{observation['length']} tokens with {_token(tokens, sources, at)}",
            self._rules(),
        )

    def _check_ending(self, last: bool, info: dict[str, Any]) -> None:
        """Report an episode that ended too early or not at all."""
        recorded = self.record.stop_reason
        raise self._mismatch(
            f"the episode to end ({_value(recorded)})" if last else "the episode to go on",
            f"an end ({info['stop_reason']})" if info["stop_reason"] else "none",
            self._rules(),
        )

    def _check_end(self, found: Transcript, score: Score) -> None:
        """Compare what only the end shows: all events, all documents, the reward."""
        for number in range(len(self.record.searches)):
            self._check_digest(number)
        if found.events != self.record.events:
            pairs = zip((*found.events, None), (*self.record.events, None), strict=False)
            got, expected = next(pair for pair in pairs if pair[0] != pair[1])
            raise self._mismatch(f"event {expected}", str(got), self._rules())
        if score != self.episode.score:
            raise self._mismatch(
                f"reward {self.episode.reward!r} to pay {_paid(self.episode.score)}",
                _paid(score),
                "the reward's definition changed. Score the record again with search-env rescore",
            )

    def _rules(self) -> str:
        """Return the likely cause where no data differs."""
        now = current_versions()
        other = [
            f"{name} {then} (here {now.get(name, 'none')})"
            for name, then in self.episode.versions.items()
            if now.get(name) != then
        ]
        if other:
            return f"another version: it was recorded with {', '.join(other)}. Replay with that"
        return (
            "the environment's arguments, the protocol's text or the tokenizer's rules changed. "
            "Replay with the former"
        )

    def _mismatch(self, expected: str, got: str, cause: str) -> ReplayMismatchError:
        where = f"step {self.step}" if self.step else "reset"
        return ReplayMismatchError(
            f"{self.episode.place}, question {self.record.question.id!r}, {where}: expected "
            f"{expected}, got {got}. Likely cause: {cause}."
        )


def _search(*searches: Searched | None) -> str:
    queries = [repr(search.query) for search in searches if search is not None]
    return f"a search for {queries[0]}" if queries else "no search"


def _token(tokens: NDArray[np.int32], sources: NDArray[np.int8], at: int) -> str:
    if at >= len(tokens):
        return "the end of the context"
    names = {source.value: source.name.lower() for source in Source}
    source = int(sources[at])
    return f"token {at} = {int(tokens[at])} ({names.get(source, source)})"


def _value(reason: StopReason | None) -> str:
    return "" if reason is None else reason.value


def _paid(score: Score) -> str:
    return f"{score.total!r} {score.parts}"
