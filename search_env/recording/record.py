"""One recorded episode: as an object, and as a line of JSON.

The line holds the arguments that rebuild the environment, the question with its answers, every
token with its source, the events, the documents, what was paid, and a checksum over all of that.
Files of such lines are :mod:`search_env.recording.files`'s.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import tokenizers
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from search_env.envs.config import EnvComponents
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError, EpisodeFileError, ProtocolError, TokenizerError
from search_env.protocols.registry import get_protocol
from search_env.provenance import package_version
from search_env.retrieval.base import Retriever
from search_env.retrieval.digests import digest
from search_env.rewards import Reward, Score, get_reward, reward_names
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import (
    SEARCH,
    Answered,
    Document,
    Ended,
    Event,
    FaultKind,
    FormatFault,
    Hop,
    Markup,
    Question,
    Searched,
    Source,
    StopReason,
    Tag,
    TagWritten,
    Transcript,
)
from search_env.validation import check_count

VERSION = 1
"""Of the format. Changes with every change that this reader could not read."""

_MARK = "search_env_episode"
LINE_START = f'{{"{_MARK}":'.encode()
"""What every line begins with."""


@dataclass(frozen=True, slots=True)
class RecordedTokenizer:
    """The tokenizer of an episode, by name; called, it decodes. Loaded only when first needed.

    Attributes:
        name: As for :func:`~search_env.tokens.tokenizer.load_tokenizer`.
        size: Number of ids.
        digest: What :attr:`Tokenizer.digest` was.
    """

    name: str
    size: int
    digest: str

    def load(self) -> Tokenizer:
        """Return the tokenizer.

        Raises:
            TokenizerError: It is not there, or is another one by now.
        """
        tokenizer = load_tokenizer(self.name, self.size)
        if tokenizer.digest != self.digest:
            raise TokenizerError(
                f"Expected tokenizer {self.name!r} to have digest {self.digest[:12]} as when the "
                f"episode was recorded, got {tokenizer.digest[:12]}. Put the former file back."
            )
        return tokenizer

    def __call__(self, ids: NDArray[np.int32]) -> str:
        """Return the text of ids."""
        return self.load().decode(ids)


class RecordedGroup(NamedTuple):
    """The group that an episode was played in.

    Attributes:
        id: Shared by its members, and by no other group in what will be scored together.
        size: How many members it has, those whose retrieval failed included.
    """

    id: str
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class RecordedEpisode:
    """One line of an episode file.

    Attributes:
        place: File and line, for messages.
        env_id: Id that ``gym.make`` knows, or None where the environment was made without one.
        arguments: Of the environment, defaults filled in.
        seed: What the episode's ``reset`` was given.
        transcript: Exactly what the environment's ``transcript()`` was.
        digests: Of what each search retrieved, as the transcript holds it in the end.
        reward: Name of the reward in force.
        score: What that reward made of the episode; 0 and no parts where retrieval failed.
        tokenizer: That wrote the tokens; also the transcript's ``decode``.
        versions: Of Python and the packages that had a part, by name.
        signals: Numbers about each of the policy's tokens, float32 of as many, by name, such as
            ``log_prob``, ``value`` or ``advantage``.
        group: That it was played in, None where it was played alone.
    """

    place: str
    env_id: str | None
    arguments: dict[str, Any]
    seed: int | None
    transcript: Transcript
    digests: tuple[str, ...]
    reward: str
    score: Score
    tokenizer: RecordedTokenizer
    versions: dict[str, str]
    signals: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    group: RecordedGroup | None = None

    @property
    def actions(self) -> NDArray[np.int32]:
        """The policy's token ids in order, int32 ``(number of steps,)``."""
        is_action: NDArray[np.bool_] = self.transcript.sources == Source.POLICY
        return self.transcript.tokens[is_action]

    @property
    def valid(self) -> bool:
        """Whether the episode says something about the policy: retrieval did not fail in it."""
        reason = self.transcript.stop_reason
        return reason is not None and reason.valid


class Recordable(Protocol):
    """What a writer needs to know of an environment; single and vector environment have it."""

    spec: EnvSpec | None
    reward: Reward
    components: EnvComponents


# To JSON.


def encode(
    common: Mapping[str, Any],
    transcript: Transcript,
    *,
    seed: int | None,
    reward: Reward,
    signals: Mapping[str, NDArray[np.float32]] | None = None,
    group: RecordedGroup | None = None,
) -> bytes:
    """Return the line of a finished episode, newline included.

    Args:
        common: From :func:`common_fields`.
        transcript: Of the episode.
        seed: What the episode's ``reset`` was given.
        reward: That was in force at the end.
        signals: As :attr:`RecordedEpisode.signals`; four digits are kept.
        group: As :attr:`RecordedEpisode.group`.

    Raises:
        ConfigurationError: The episode has not ended, the reward is not registered, a signal does
            not have a finite number for each of the policy's tokens, or the group has no id or no
            size.
        RewardError: The reward function failed.
    """
    stop = transcript.stop_reason
    if stop is None:
        raise ConfigurationError(
            f"Expected a finished episode of question {transcript.question.id!r}, got one that "
            "still runs. Write it when it is terminated or truncated."
        )
    score = reward(transcript) if stop.valid else Score(0.0, {})
    row = {
        _MARK: VERSION,
        **common,
        "seed": seed,
        "protocol": transcript.protocol,
        "question": dataclasses.asdict(transcript.question),
        "tokens": _runs(transcript),
        "events": [_event_row(event, transcript.documents) for event in transcript.events],
        "documents": {
            key: [document.title, document.text, float(document.score)]
            for key, document in transcript.documents.items()
        },
        "reward": {"name": reward_name(reward), "total": score.total, "parts": score.parts},
    }
    if signals:
        row["signals"] = {name: _signal(name, of, transcript) for name, of in signals.items()}
    if group is not None:
        row["group"] = _group_row(*group)
    return _dump({**row, "sha256": _checksum(row)}) + b"\n"


def common_fields(env: Recordable) -> dict[str, Any]:
    """Return what all lines of one environment share.

    Raises:
        ConfigurationError: An argument of the environment is an object without a name.
    """
    components, spec = env.components, env.spec
    arguments = dict(vars(components.config))
    if spec is not None and isinstance(env, SearchQAEnv):
        arguments |= spec.kwargs  # a class of one's own may take more
        arguments.pop("render_mode", None)
        # The specification holds the caller's dictionary, which may have changed since.
        arguments["dataset_options"] = components.config.dataset_options
    tokenizer = components.tokenizer
    return {
        "spec": {
            "id": None if spec is None else spec.id,
            "kwargs": {name: _named(name, value) for name, value in arguments.items()},
        },
        "tokenizer": {
            "name": tokenizer.name,
            "size": tokenizer.size,
            "digest": tokenizer.digest,
        },
        "versions": current_versions(),
    }


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that have a part in an episode."""
    return {
        "search-env": package_version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gymnasium": gym.__version__,
        "tokenizers": tokenizers.__version__,
    }


def _named(name: str, value: Any) -> Any:
    """Return an argument as JSON can hold it."""
    if isinstance(value, Reward):
        return reward_name(value)
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        pass
    hint = (
        "Make it known with register_retriever(name, factory) and pass the name, or record what it "
        "finds and pass 'cassette:PATH'"
        if isinstance(value, Retriever)
        else "Pass a name, a path as text, or another JSON value"
    )
    raise ConfigurationError(
        f"Expected {name} to be a JSON value, so that recorded episodes can be executed again, got "
        f"{type(value).__name__}. {hint}."
    )


def reward_name(reward: Reward) -> str:
    """Return a reward's name, if the name leads back to it.

    Raises:
        ConfigurationError: It does not.
    """
    if reward.name in reward_names() and get_reward(reward.name) == reward:
        return reward.name
    raise ConfigurationError(
        f"Expected a registered reward, so that recorded episodes can be scored again, got "
        f"{reward.name!r}, which is not. Call search_env.rewards.register_reward() with it first."
    )


def _runs(transcript: Transcript) -> list[list[Any]]:
    """Return the tokens as ``[source, ids]``, a new pair wherever the source changes."""
    tokens, sources = transcript.tokens.tolist(), transcript.sources.tolist()
    cuts = (np.flatnonzero(np.diff(transcript.sources)) + 1).tolist()
    return [[sources[a], tokens[a:b]] for a, b in pairwise([0, *cuts, len(tokens)])]


def _signal(name: str, values: NDArray[np.float32], transcript: Transcript) -> list[float]:
    wanted = transcript.num_policy_tokens
    if len(values) != wanted or not np.isfinite(values).all():
        raise ConfigurationError(
            f"Expected {wanted} finite numbers as signal {name!r}, one for each token of the "
            f"policy, got {len(values)} of which {int(np.isfinite(values).sum())} are finite. "
            "Leave out the tokens that the environment wrote."
        )
    return [float(f"{value:.4g}") for value in values.tolist()]


def _group_row(id: str, size: int) -> list[Any]:
    if not isinstance(id, str) or not id:
        raise ConfigurationError(
            f"Expected the id of a group to be a text, got {id!r}. Pass one that no other group of "
            "the file has."
        )
    return [id, check_count("the size of a group", size, 1)]


def _event_row(event: Event, documents: Mapping[str, Document]) -> list[Any]:
    match event:
        case TagWritten(position, tag):
            return ["tag", position, str(tag)]
        case Searched(position, query, ids, start, end, tool):
            found = digest(documents[key] for key in ids)
            named = [] if tool == SEARCH else [tool]
            return ["search", position, query, list(ids), start, end, found, *named]
        case Answered(position, text):
            return ["answer", position, text]
        case FormatFault(position, kind):
            return ["fault", position, kind.value]
        case Ended(position, reason):
            return ["end", position, reason.value]


def _dump(row: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """Return JSON in ASCII, so that any text, lone surrogates included, comes back exactly."""
    return json.dumps(row, separators=(",", ":"), sort_keys=sort_keys).encode("ascii")


def _checksum(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row's content. Key order and white space may change without harm."""
    return hashlib.sha256(_dump(row, sort_keys=True)).hexdigest()


# From JSON.


def decode(place: str, line: bytes) -> RecordedEpisode:
    """Return the episode of a line.

    Args:
        place: File and line, for messages.
        line: As :func:`encode` made it; white space and the order of keys do not matter.

    Raises:
        EpisodeFileError: The line holds none, a damaged one, or one of another version.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or _MARK not in row:
        shown = repr(line[:60])
        raise EpisodeFileError(
            f"{place}: expected a recorded episode, got {shown}. Restore the line from a copy of "
            "the file, or remove it."
        )
    if row[_MARK] != VERSION:
        raise EpisodeFileError(
            f"{place}: expected format version {VERSION}, got {row[_MARK]!r}. Read it with the "
            "version of search-env that wrote it."
        )
    stated = row.pop("sha256", None)
    found = _checksum(row)
    if stated != found:
        raise EpisodeFileError(
            f"{place}: expected checksum {found[:12]}, got {str(stated)[:12]}: the line was "
            "changed after it was written. Restore it from a copy of the file, or remove it."
        )
    try:
        return _episode(place, row)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise EpisodeFileError(
            f"{place}: expected the fields of a recorded episode, got {type(error).__name__}: "
            f"{error}. Write episode files with EpisodeWriter."
        ) from error


def _episode(place: str, row: Mapping[str, Any]) -> RecordedEpisode:
    tokenizer = RecordedTokenizer(**row["tokenizer"])
    runs = row["tokens"]
    transcript = Transcript(
        question=_question(row["question"]),
        protocol=row["protocol"],
        tokens=np.array([i for _, ids in runs for i in ids], np.int32),
        sources=np.repeat(
            np.array([Source(source) for source, _ in runs], np.int8), [len(ids) for _, ids in runs]
        ),
        events=tuple(_event(*fields) for fields in row["events"]),
        documents={key: Document(key, *fields) for key, fields in row["documents"].items()},
        decode=tokenizer,
        markup=_markup(row["protocol"]),
    )
    if transcript.stop_reason is None or not transcript.num_policy_tokens:
        raise ValueError("an episode that has not ended")
    signals = {
        name: np.array(values, np.float32) for name, values in row.get("signals", {}).items()
    }
    if any(len(values) != transcript.num_policy_tokens for values in signals.values()):
        raise ValueError("signals of another number of tokens")
    return RecordedEpisode(
        place=place,
        env_id=row["spec"]["id"],
        arguments=row["spec"]["kwargs"],
        seed=row["seed"],
        transcript=transcript,
        digests=tuple(fields[6] for fields in row["events"] if fields[0] == "search"),
        reward=row["reward"]["name"],
        score=Score(row["reward"]["total"], row["reward"]["parts"]),
        tokenizer=tokenizer,
        versions=row["versions"],
        signals=signals,
        group=RecordedGroup(*row["group"]) if "group" in row else None,
    )


def _markup(protocol: str) -> Markup | None:
    """Return the markup of the protocol that an episode was recorded under, if it is known here."""
    try:
        return get_protocol(protocol).markup
    except ProtocolError:  # of somebody's own: readers of events alone do without
        return None


def _question(fields: Mapping[str, Any]) -> Question:
    return Question(
        **{
            **fields,
            "answers": tuple(fields["answers"]),
            "supporting": tuple(fields["supporting"]),
            "hops": tuple(Hop(**hop) for hop in fields["hops"]),
        }
    )


def _event(kind: str, position: int, *rest: Any) -> Event:
    match kind, rest:
        case "tag", [name]:
            return TagWritten(position, Tag.parse(name))
        case "search", [query, ids, start, end, _, *tool]:
            return Searched(position, query, tuple(ids), start, end, *tool)
        case "answer", [text]:
            return Answered(position, text)
        case "fault", [name]:
            return FormatFault(position, FaultKind(name))
        case "end", [name]:
            return Ended(position, StopReason(name))
    raise ValueError(f"event {kind!r}")
