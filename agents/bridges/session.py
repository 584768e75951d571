"""Episodes for other programs: begun by seed and task, written in ids or texts, plain values out.

Every bridge plays through :class:`Session`, so the same seed and the same ids are the same episode
through each of them. Ids stay ids: nothing is decoded and encoded again. A text is encoded once, by
the environment's tokenizer, which need not give the ids that a model sampled; pass those instead.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

from search_env.envs.registration import arguments_of
from search_env.envs.search_qa import SearchQAEnv, bare_env
from search_env.envs.splits import is_dataset, splits_of
from search_env.errors import ConfigurationError, EpisodeOverError, InvalidActionError
from search_env.types import Source
from search_env.validation import check_choice, check_index, check_mapping
from search_env.wrappers.clocks import SegmentAction

ALL = "all"
"""The only split of a dataset whose questions name none, and of mixtures."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What an episode gained since the last call; all values are JSON's.

    Attributes:
        tokens: New ids: those of the action that were executed, then what the environment wrote.
            After the beginning they are the prompt. Joined over all turns they are the episode.
        sources: Who wrote each of them, numbers of :class:`~search_env.types.Source`.
        text: What the environment wrote: the prompt, documents or a notice.
        reward: Paid in this turn, at the end of an episode as a rule.
        terminated: Whether the policy ended the episode.
        truncated: Whether a budget or a failed search ended it.
        valid: False if retrieval failed: leave the episode out of the loss.
        stop_reason: Reason of the end, a value of ``StopReason``; "" while the episode runs.
        unused: Number of the action's last ids that were not executed, as the environment wrote
            something before them that the policy had not seen.
        info: The environment's info: question_id, num_searches, query, document_ids and so on, at
            the end the scores.
    """

    tokens: list[int]
    sources: list[int]
    text: str
    reward: float
    terminated: bool
    truncated: bool
    valid: bool
    stop_reason: str
    unused: int
    info: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated

    @property
    def mask(self) -> list[int]:
        """1 for ids that the policy wrote, 0 for others, in the order of ``tokens``."""
        return [int(source == Source.POLICY) for source in self.sources]

    def values(self) -> dict[str, Any]:
        """Return all attributes as a dictionary."""
        return asdict(self)


class EnvironmentPool:
    """The environments of an id, loaded once for each split; sessions share what never changes.

    Safe to use from several threads if the retriever is, as BM25 and those over HTTP are.

    Args:
        env_id: A registered id, or ``MODULE:ID``.
        arguments: Arguments of the environment. With ``split`` only that split is offered. Unless
            they say otherwise, an episode whose search fails is truncated and not valid.

    Raises:
        ConfigurationError: No such id or dataset.

    Example:
        >>> pool = EnvironmentPool("SearchQA-Toy-v0")
        >>> pool.splits, pool.count("test"), pool.task("test", 9)["question"]
        (('train', 'validation', 'test'), 64, 'find key1 key1')
    """

    def __init__(
        self, env_id: str = "SearchQA-v0", arguments: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        check_mapping("arguments", dict(arguments), "{'max_tokens': 2048}")
        self.env_id = env_id
        self._arguments = {"on_retrieval_error": "truncate", **arguments}
        merged = {**arguments_of(env_id), **self._arguments}
        dataset, named = merged.get("dataset", "world"), merged.get("split")
        known = splits_of(dataset) if is_dataset(dataset) else None
        names = known.names if known is not None else ()
        self.splits: tuple[str, ...] = (named,) if named is not None else names or (ALL,)
        """Names of the splits."""
        default = known.default if known is not None else None
        self.default_split: str = default if default in self.splits else self.splits[0]
        """The split of episodes that name none."""
        self._loaded: dict[str, SearchQAEnv] = {}
        self._lock = threading.Lock()

    def environment(self, split: str | None = None) -> SearchQAEnv:
        """Return a new environment of a split, None for the default one.

        Raises:
            ConfigurationError: No such split, or arguments that the environment refuses.
        """
        loaded = self._environment(split)
        new = loaded.clone()
        new.np_random = np.random.default_rng()  # a clone would draw what all others draw
        return new

    def count(self, split: str | None = None) -> int:
        """Return the number of a split's questions."""
        return len(self._environment(split).questions)

    def task(self, split: str | None, index: int) -> dict[str, Any]:
        """Return a question as plain values, without its answers, which a policy must not see."""
        questions = self._environment(split).questions
        question = questions[check_index("index", index, len(questions))]
        return {
            "id": question.id,
            "split": self.default_split if split is None else split,
            "index": index,
            "question": question.text,
            "dataset": question.dataset,
            "kind": question.kind,
        }

    def _environment(self, split: str | None) -> SearchQAEnv:
        name = self.default_split if split is None else split
        check_choice("split", name, self.splits)
        with self._lock:
            if name not in self._loaded:
                arguments = {**self._arguments, "split": None if name == ALL else name}
                made = gym.make(self.env_id, disable_env_checker=True, **arguments)
                self._loaded[name] = bare_env(made)
            return self._loaded[name]


class Session:
    """One episode after another, of any split of a pool.

    Not for several threads at once. After an error of :meth:`begin` or a failed search there is no
    episode until the next :meth:`begin`; after a refused action the episode goes on.

    Example:
        >>> session = Session(EnvironmentPool("SearchQA-Toy-v0"))
        >>> session.begin(seed=0, split="train", index=9).text
        'find key1 key1 '
        >>> turn = session.write_text("<q>key1 key1 </q>")
        >>> turn.text, turn.mask
        ('<d>value0 </d>', [1, 1, 1, 1, 0, 0, 0])
        >>> turn = session.write_text("<a>value0 </a>")
        >>> turn.reward, turn.stop_reason, turn.truncated
        (1.0, 'answered', False)
    """

    def __init__(self, pool: EnvironmentPool) -> None:
        self.pool = pool
        self._environments: dict[str, SegmentAction] = {}
        self._current: SegmentAction | None = None
        self._written = 0  # tokens of the episode that were returned
        self.turns = 0
        """Turns of the current episode, or of the last one."""

    @property
    def env(self) -> SearchQAEnv:
        """The environment of the current episode, or of the last one.

        Raises:
            EpisodeOverError: No episode has begun yet.
        """
        return bare_env(self._begun())

    def begin(
        self,
        *,
        seed: int | None = None,
        split: str | None = None,
        index: int | None = None,
        question_id: str | None = None,
    ) -> Turn:
        """Begin an episode; return its prompt.

        Args:
            seed: Decides the question where none is named; None goes on with the session's own
                random numbers.
            split: None for the pool's default.
            index: Position of the question in its split.
            question_id: Id of the question, in place of its position.

        Raises:
            ConfigurationError: No such split or question, or a seed that is none.
        """
        name = self.pool.default_split if split is None else split
        if name not in self._environments:
            self._environments[name] = SegmentAction(self.pool.environment(name))
        chosen = {"index": index, "question_id": question_id}
        options = {key: value for key, value in chosen.items() if value is not None}
        if len(options) > 1:
            raise ConfigurationError(
                f"Expected index or question_id, got both, {index!r} and {question_id!r}. Omit one."
            )
        self._current, env = None, self._environments[name]
        _, info = env.reset(seed=seed, options=options)
        self._current, self._written, self.turns = env, 0, 0
        return self._turn(0.0, False, False, info)

    def write(self, tokens: Sequence[int]) -> Turn:
        """Write ids as :class:`~search_env.wrappers.clocks.SegmentAction` does.

        Raises:
            InvalidActionError: Not one or more token ids; nothing was written.
            EpisodeOverError: Before the first episode or after an end.
            RetrievalError: The search failed, and the environment was told to raise.
        """
        _, reward, terminated, truncated, info = self._begun().step(tokens)
        self.turns += 1
        return self._turn(reward, terminated, truncated, info)

    def write_text(self, text: str) -> Turn:
        """Encode a text once and write its ids; see :meth:`write`.

        The name of a special token in it becomes that token.
        """
        if not isinstance(text, str):
            raise InvalidActionError(f"Expected a text, got {text!r}. Pass a str.")
        ids = self.env.tokenizer.encode(text, special=True).tolist()
        if not ids:
            raise InvalidActionError(
                f"Expected a text of one token or more, got {text!r}, in which tokenizer "
                f"{self.env.tokenizer.name!r} finds none. Use words of its vocabulary."
            )
        return self.write(ids)

    def close(self) -> None:
        """Forget the episode and release the session's environments."""
        self._current = None
        self._environments.clear()

    def _begun(self) -> SegmentAction:
        if self._current is None:
            raise EpisodeOverError(
                "Expected reset() before step(), got a step without an episode. Call reset() on "
                "the same session."
            )
        return self._current

    def _turn(self, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]) -> Turn:
        transcript = self.env.transcript()
        tokens = transcript.tokens[self._written :]
        sources = transcript.sources[self._written :]
        self._written = len(transcript.tokens)
        plain = {key: _plain(value) for key, value in info.items() if key != "action_mask"}
        return Turn(
            tokens=tokens.tolist(),
            sources=sources.tolist(),
            text=transcript.decode(tokens[sources != Source.POLICY]),
            reward=float(reward),
            terminated=terminated,
            truncated=truncated,
            valid=bool(info.get("valid", True)) or not (terminated or truncated),
            stop_reason=str(info["stop_reason"]),
            unused=int(plain.pop("unused_actions", 0)),
            info=plain,
        )


def _plain(value: Any) -> Any:
    """Return a value of an info as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value
