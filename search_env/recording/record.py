"""One recorded episode: as an object, and as a line of JSON.

The line holds the arguments that rebuild the environment, the question with its answers, every
token with its source, the events, the documents, the reward, and a checksum over all of these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from search_env.envs.config import EnvComponents
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError, EpisodeFileError, ProtocolError, TokenizerError
from search_env.protocols.registry import get_protocol
from search_env.provenance import package_version, versions
from search_env.redaction import redacted
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

VERSION = 2
"""Version of the format; raised by every change that earlier readers cannot read.

Version 1, which is still read, kept documents by id: of several texts under one id only the last.
"""

_DocumentsOf: TypeAlias = Callable[[Any], tuple[Document, ...]]

_MARK = "search_env_episode"
LINE_START = f'{{"{_MARK}":'.encode()
"""Beginning of every line."""


@dataclass(frozen=True, slots=True)
class RecordedTokenizer:
    """The tokenizer of an episode, by name; a callable that decodes. Loaded when first needed."""

    name: str  # or path
    size: int  # number of ids
    digest: str  # of the tokenizer at recording time

    def load(self) -> Tokenizer:
        """Return the tokenizer; raise TokenizerError if it is missing or its digest changed."""
        tokenizer = load_tokenizer(self.name, self.size)
        if tokenizer.digest != self.digest:
            raise TokenizerError(
                f"Expected tokenizer {self.name!r} to have digest {self.digest[:12]} as when the "
                f"episode was recorded, got {tokenizer.digest[:12]}. Restore the original file."
            )
        return tokenizer

    def __call__(self, ids: NDArray[np.int32]) -> str:
        """Return the text of ids."""
        return self.load().decode(ids)


class RecordedGroup(NamedTuple):
    """The group that an episode was played in."""

    id: str  # unique among all groups that will be scored together
    size: int  # number of members, including those whose retrieval failed


class RecordedRevision(NamedTuple):
    """What Retro-Search made of an episode; see :mod:`search_env.recording.revise`.

    Counts before and after are of searches, steps and the policy's tokens.
    """

    trajectory: int  # number of the episode among those that were revised
    n_search_before: int
    n_search_after: int
    steps_before: int
    steps_after: int
    tokens_before: int
    tokens_after: int
    ops_accepted: tuple[str, ...]  # operators of the branches that were taken, in order
    tried: Mapping[str, int]  # number of branches by operator and outcome, as "skip taken"
    grounded: bool  # whether the documents hold the answer or its support; else it is from memory
    reviser: str


@dataclass(frozen=True, slots=True, eq=False)
class RecordedEpisode:
    """One line of an episode file.

    Attributes:
        place: File and line, for messages.
        env_id: Id for ``gym.make``, or None if the environment was constructed directly.
        arguments: Arguments of the environment, defaults included.
        seed: Seed passed to the episode's ``reset``.
        transcript: The environment's final ``transcript()``, exactly.
        digests: Digest of the documents of each search, as the final transcript holds them.
        reward: Name of the reward in force.
        score: Score by that reward; 0 without parts where retrieval failed.
        tokenizer: Also the transcript's ``decode``.
        versions: Versions of Python and of the packages involved, by name.
        signals: By name, such as ``log_prob``: float32 ``(policy tokens,)``.
        group: None for an episode played alone.
        revision: None for an episode that Retro-Search did not write.
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
    revision: RecordedRevision | None = None

    @property
    def actions(self) -> NDArray[np.int32]:
        """The policy's token ids in order, int32 ``(number of steps,)``."""
        is_action: NDArray[np.bool_] = self.transcript.sources == Source.POLICY
        return self.transcript.tokens[is_action]

    @property
    def valid(self) -> bool:
        """Whether the episode counts for the policy: retrieval did not fail in it."""
        reason = self.transcript.stop_reason
        return reason is not None and reason.valid


class Recordable(Protocol):
    """What a writer reads of an environment; both single and vector environments provide it."""

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
    revision: RecordedRevision | None = None,
) -> bytes:
    """Return the line of a finished episode, newline included.

    ``common`` is the result of :func:`common_fields`; the other arguments and the errors are those
    of :meth:`search_env.recording.files.EpisodeWriter.write`.
    """
    stop = transcript.stop_reason
    if stop is None:
        raise ConfigurationError(
            f"Expected a finished episode of question {transcript.question.id!r}, got one that "
            "still runs. Write it once it is terminated or truncated."
        )
    score = reward(transcript) if stop.valid else Score(0.0, {})
    places: dict[tuple[str, str, str], int] = {}  # of each text among the documents
    row = {
        _MARK: VERSION,
        **common,
        "seed": seed,
        "protocol": transcript.protocol,
        "question": dataclasses.asdict(transcript.question),
        "tokens": _token_runs(transcript),
        "events": [_event_row(event, places) for event in transcript.events],
        "documents": list(places),
        "reward": {"name": reward_name(reward), "total": score.total, "parts": score.parts},
    }
    if signals:
        row["signals"] = {k: _signal_row(k, values, transcript) for k, values in signals.items()}
    if group is not None:
        row["group"] = _group_row(*group)
    if revision is not None:
        row["revision"] = {**revision._asdict(), "tried": dict(revision.tried)}
    return _dump({**row, "sha256": _checksum(row)}) + b"\n"


def common_fields(env: Recordable) -> dict[str, Any]:
    """Return the fields that all lines of one environment share."""
    components, spec = env.components, env.spec
    arguments = dict(vars(components.config))
    if spec is not None and isinstance(env, SearchQAEnv):
        arguments |= spec.kwargs  # a subclass may take more
        arguments.pop("render_mode", None)
        # The spec holds the caller's dictionary, which may have changed since.
        arguments["dataset_options"] = components.config.dataset_options
    tokenizer = components.tokenizer
    recorded = RecordedTokenizer(tokenizer.name, tokenizer.size, tokenizer.digest)
    kwargs = {name: _json_value(name, value) for name, value in arguments.items()}
    return {
        "spec": {"id": None if spec is None else spec.id, "kwargs": kwargs},
        "tokenizer": dataclasses.asdict(recorded),
        "versions": current_versions(),
    }


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that an episode depends on."""
    return {"search-env": package_version(), **versions(("numpy", "gymnasium", "tokenizers"))}


def _json_value(name: str, value: Any) -> Any:
    """Return an argument of the environment as a JSON value."""
    if isinstance(value, Reward):
        return reward_name(value)
    try:
        return json.loads(redacted(json.dumps(value)))
    except (TypeError, ValueError):
        hint = "Pass a name, a path as text, or another JSON value"
    if isinstance(value, Retriever):
        hint = (
            "Register it with register_retriever(name, factory) and pass the name, or record its "
            "results and pass 'cassette:PATH'"
        )
    raise ConfigurationError(
        f"Expected {name} to be a JSON value, so that recorded episodes can be executed again, got "
        f"{type(value).__name__}. {hint}."
    )


def reward_name(reward: Reward) -> str:
    """Return the name that a reward is registered under; it must belong to this reward."""
    if reward.name in reward_names() and get_reward(reward.name) == reward:
        return reward.name
    raise ConfigurationError(
        f"Expected a registered reward, so that recorded episodes can be scored again, got "
        f"{reward.name!r}, which is not. Pass it to search_env.rewards.register_reward() first."
    )


def _token_runs(transcript: Transcript) -> list[list[Any]]:
    """Return the tokens as ``[source, ids]``, a new pair wherever the source changes."""
    tokens, sources = transcript.tokens.tolist(), transcript.sources.tolist()
    cuts = (np.flatnonzero(np.diff(transcript.sources)) + 1).tolist()
    return [[sources[a], tokens[a:b]] for a, b in pairwise([0, *cuts, len(tokens)])]


def _signal_row(name: str, values: NDArray[np.float32], transcript: Transcript) -> list[float]:
    count = transcript.num_policy_tokens
    if len(values) != count or not np.isfinite(values).all():
        raise ConfigurationError(
            f"Expected {count} finite numbers as signal {name!r}, one for each token of the "
            f"policy, got {len(values)} of which {int(np.isfinite(values).sum())} are finite. "
            "Leave out the tokens that the environment wrote."
        )
    return [float(f"{value:.4g}") for value in values.tolist()]


def _group_row(id: str, size: int) -> list[Any]:
    if not isinstance(id, str) or not id:
        raise ConfigurationError(
            f"Expected the id of a group to be a text, got {id!r}. Pass one that is "
            "unique in the file."
        )
    return [id, check_count("the size of a group", size, 1)]


def _event_row(event: Event, places: dict[tuple[str, str, str], int]) -> list[Any]:
    """Return an event; add the texts of its documents to ``places``."""
    match event:
        case TagWritten(position, tag):
            return ["tag", position, str(tag)]
        case Searched(position, query, documents, start, end, tool):
            ranked = [
                [places.setdefault((d.id, d.title, d.text), len(places)), float(d.score)]
                for d in documents
            ]
            tools = [] if tool == SEARCH else [tool]
            return ["search", position, query, ranked, start, end, digest(documents), *tools]
        case Answered(position, text):
            return ["answer", position, text]
        case FormatFault(position, kind):
            return ["fault", position, kind.value]
        case Ended(position, reason):
            return ["end", position, reason.value]


def _dump(row: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """Return JSON in ASCII, which preserves any text exactly, lone surrogates included."""
    return json.dumps(row, separators=(",", ":"), sort_keys=sort_keys).encode("ascii")


def _checksum(row: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a row's content, independent of key order and white space."""
    return hashlib.sha256(_dump(row, sort_keys=True)).hexdigest()


# From JSON.


def decode(place: str, line: bytes) -> RecordedEpisode:
    """Return the episode of a line; ``place``, the file and line, is for messages.

    White space and key order do not matter.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or _MARK not in row:
        raise EpisodeFileError(
            f"{place}: expected a recorded episode, got {line[:60]!r}. Restore the line from a "
            "copy of the file, or remove it."
        )
    if row[_MARK] not in (1, VERSION):
        raise EpisodeFileError(
            f"{place}: expected format version 1 or {VERSION}, got {row[_MARK]!r}. Read it with "
            "the version of search-env that wrote it."
        )
    try:
        stated, computed = row.pop("sha256", None), _checksum(row)
    except RecursionError:
        raise EpisodeFileError(
            f"{place}: expected a recorded episode, got values inside values inside values. "
            "Restore the line from a copy of the file, or remove it."
        ) from None
    if stated != computed:
        raise EpisodeFileError(
            f"{place}: expected checksum {computed[:12]}, got {str(stated)[:12]}: the line was "
            "changed after it was written. Restore it from a copy of the file, or remove it."
        )
    try:
        return _episode(place, row)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise EpisodeFileError(
            f"{place}: expected the fields of a recorded episode, got {type(error).__name__}: "
            f"{error}. Write episode files with EpisodeWriter."
        ) from error


def _episode(place: str, row: Mapping[str, Any]) -> RecordedEpisode:
    tokenizer = _tokenizer(**row["tokenizer"])
    runs, reward = row["tokens"], row["reward"]
    sources = np.array([Source(source) for source, _ in runs], np.int8)
    tokens = np.array([_natural(i) for _, ids in runs for i in ids], np.int32)
    documents_of = _documents_of(row)
    transcript = Transcript(
        question=_question(row["question"]),
        protocol=_text(row["protocol"]),
        tokens=tokens,
        sources=np.repeat(sources, [len(ids) for _, ids in runs]),
        events=tuple(_event(len(tokens), documents_of, *fields) for fields in row["events"]),
        decode=tokenizer,
        markup=_markup(row["protocol"]),
    )
    if transcript.stop_reason is None or not transcript.num_policy_tokens:
        raise ValueError("an episode that has not ended")
    signals = {k: np.array(values, np.float32) for k, values in row.get("signals", {}).items()}
    shape = (transcript.num_policy_tokens,)
    if any(v.shape != shape or not np.isfinite(v).all() for v in signals.values()):
        raise ValueError("signals for another number of tokens, or no numbers")
    spec, seed = row["spec"], row["seed"]
    return RecordedEpisode(
        place=place,
        env_id=None if spec["id"] is None else _text(spec["id"]),
        arguments=dict(**spec["kwargs"]),
        seed=None if seed is None else _natural(seed),
        transcript=transcript,
        digests=tuple(fields[6] for fields in row["events"] if fields[0] == "search"),
        reward=_text(reward["name"]),
        score=Score(_number(reward["total"]), {k: _number(v) for k, v in reward["parts"].items()}),
        tokenizer=tokenizer,
        versions={name: _text(version) for name, version in row["versions"].items()},
        signals=signals,
        group=_group(*row["group"]) if "group" in row else None,
        revision=_revision(**row["revision"]) if "revision" in row else None,
    )


def _tokenizer(name: str, size: int, digest: str) -> RecordedTokenizer:
    return RecordedTokenizer(_text(name), _natural(size), _text(digest))


def _group(id: str, size: int) -> RecordedGroup:
    return RecordedGroup(_text(id), _natural(size))


def _revision(**fields: Any) -> RecordedRevision:
    revision = RecordedRevision(**fields)
    for name in fields.keys() - {"ops_accepted", "tried", "grounded", "reviser"}:
        _natural(fields[name])
    operators = tuple(map(_text, revision.ops_accepted))
    tried = {_text(name): _natural(count) for name, count in revision.tried.items()}
    if not isinstance(revision.grounded, bool):
        raise TypeError(f"{revision.grounded!r} where true or false belongs")
    _text(revision.reviser)
    return revision._replace(ops_accepted=operators, tried=tried)


def _markup(protocol: str) -> Markup | None:
    """Return the markup of a recorded protocol, None where the protocol is not registered."""
    try:
        return get_protocol(protocol).markup
    except ProtocolError:  # a user's own; scores that read only events need none
        return None


def _question(fields: Mapping[str, Any]) -> Question:
    texts = {name: _text(value) for name, value in fields.items() if name not in _LISTS}
    answers, supporting = (tuple(map(_text, fields[name])) for name in _LISTS[:2])
    hops = tuple(Hop(**hop) for hop in fields["hops"])
    if not answers or isinstance(fields["answers"], str):
        raise ValueError("a question without a list of answers")
    return Question(**texts, answers=answers, supporting=supporting, hops=hops)


_LISTS = ("answers", "supporting", "hops")


def _documents_of(row: Mapping[str, Any]) -> _DocumentsOf:
    """Return the function that reads the documents of a search."""
    rows = row["documents"]
    if row[_MARK] == 1:
        return lambda ids: tuple(_document([key, *rows[key]]) for key in ids)
    return lambda ranked: tuple(
        _document([*rows[_natural(place)], score]) for place, score in ranked
    )


def _document(fields: list[Any]) -> Document:
    id, title, text, score = fields
    return Document(_text(id), _text(title), _text(text), _number(score))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text belongs")
    return value


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} where a count or a position belongs")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} where a number belongs")
    return value


def _event(tokens: int, documents_of: _DocumentsOf, kind: str, position: int, *rest: Any) -> Event:
    """Return an event of an episode of so many tokens."""
    match kind, rest:
        case _ if _natural(position) >= tokens:
            raise ValueError(f"an event at token {position} of {tokens}")
        case "tag", [name]:
            return TagWritten(position, Tag.parse(name))
        case "search", [query, documents, start, end, _, *tool]:
            if not 0 <= _natural(start) <= _natural(end) <= tokens:
                raise ValueError(f"documents at tokens {start}:{end} of {tokens}")
            retrieved = documents_of(documents)
            return Searched(position, _text(query), retrieved, start, end, *map(_text, tool))
        case "answer", [text]:
            return Answered(position, _text(text))
        case "fault", [name]:
            return FormatFault(position, FaultKind(name))
        case "end", [name]:
            return Ended(position, StopReason(name))
    raise ValueError(f"event {kind!r}")
