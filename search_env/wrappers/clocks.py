"""Action granularity: a step of the same decision process is a segment, a text or an episode.

Each wrapper writes token by token with the inner environment's ``step``; it holds no rule of the
environment, and every wrapper below it sees every token. The same ids from the same seed give the
same episode at every granularity. They cannot wrap one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from search_env.envs.config import Info
from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError, EpisodeOverError, InvalidActionError
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Source
from search_env.validation import as_integer
from search_env.wrappers.unicode_space import Policies, Policy, Unicode

_PIECES = 512  # ids whose texts make up random text: all single bytes are among the first


class _CoarseAction(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Base of the wrappers: writes ids until the environment itself writes."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._bare = bare_env(env)
        if env.action_space != self._bare.action_space:
            raise ConfigurationError(
                f"Expected an environment whose actions are token ids, "
                f"{self._bare.action_space}, got {env.action_space}. Put {type(self).__name__} "
                "below the wrapper that changes them; one wrapper of this kind is enough."
            )

    def _write(self, ids: Sequence[int]) -> tuple[Any, float, bool, bool, Info, int]:
        """Write ids until the environment writes something, the episode ends or none is left.

        The result is that of a step, and the number of ids that were used.
        """
        total_reward, faults = 0.0, _Faults()
        for used, token in enumerate(ids, 1):
            observation, reward, terminated, truncated, info = self.env.step(token)
            total_reward += float(reward)
            faults.add(info)
            if terminated or truncated or used == len(ids) or self._has_written(info):
                break
        faults.put_into(info)
        return observation, total_reward, terminated, truncated, info, used

    def _has_written(self, info: Info) -> bool:
        """Return whether the environment wrote in the last step: documents or a notice."""
        if self._bare.components.stable_infos:  # all keys are there in every step
            searched, faulty = info["query"] != "", bool(info["format_faults"].any())
        else:
            searched, faulty = "document_ids" in info, "format_faults" in info
        if faulty and not searched:
            return bool(self._bare.transcript().sources[-1] != Source.POLICY)
        return bool(searched)


class _Faults:
    """The format faults of several steps: names, or counts where infos are stable."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._counts: NDArray[np.int64] | None = None

    def add(self, info: Info) -> None:
        faults = info.get("format_faults", ())
        if isinstance(faults, np.ndarray):
            self._counts = faults if self._counts is None else self._counts + faults
        else:
            self._names += faults

    def put_into(self, info: Info) -> None:
        if self._counts is not None:
            info["format_faults"] = self._counts
        elif self._names:
            info["format_faults"] = self._names


class SegmentAction(_CoarseAction):
    """Takes a sequence of token ids as one action, such as all ids up to a tag or the end.

    The ids are written one by one until the environment writes something (documents or a notice),
    the episode ends, or all are used. Later ids were sampled without seeing what the environment
    wrote: they are not executed, and ``info["unused_actions"]`` counts them.

    The reward is the sum over the tokens. The info is that of the last token, with the
    ``format_faults`` of all tokens; a search is always that of the last token.

    The action space is ``Sequence(Discrete(n))``; lists and integer arrays of one dimension are
    accepted as well. The observation space is the environment's.

    Args:
        env: A :class:`~search_env.envs.search_qa.SearchQAEnv`, in any wrappers that keep token ids
            as actions.

    Raises:
        ConfigurationError: Another environment, or one whose actions are not token ids.

    Example:
        >>> import search_env
        >>> env = SegmentAction(gym.make("SearchQA-Toy-v0"))
        >>> observation, info = env.reset(seed=0, options={"index": 9})
        >>> ids = env.unwrapped.tokenizer.encode("<q>key1 key1 </q>key7 ")
        >>> observation, reward, terminated, truncated, info = env.step(ids)
        >>> info["query"], info["unused_actions"]
        ('key1 key1', 1)
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._size = self._bare.tokenizer.size
        self.action_space = spaces.Sequence(spaces.Discrete(self._size))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        """Write the ids of a segment.

        Raises:
            InvalidActionError: Not a non-empty sequence of token ids; nothing was written.
            EpisodeOverError: Before ``reset`` or after the end.
            RetrievalError: The search failed; see the environment.
        """
        try:
            ids = np.asarray(action)
        except (ValueError, TypeError):  # ragged, or no array at all
            ids = np.empty(0)
        is_sequence = ids.ndim == 1 and ids.size > 0 and ids.dtype.kind in "iu"
        if not is_sequence or ids.min() < 0 or ids.max() >= self._size:
            raise InvalidActionError(
                f"Expected one or more token ids from 0 to {self._size - 1}, got {action!r}. Pass "
                "them as a tuple, a list or an array of one dimension."
            )
        observation, reward, terminated, truncated, info, used = self._write(ids.tolist())
        info["unused_actions"] = len(ids) - used
        return observation, reward, terminated, truncated, info


class TextAction(_CoarseAction):
    """Takes text as an action and shows the episode as text, for API models and people.

    The text is encoded once, by the environment's tokenizer; the name of a special token becomes
    that token, so ``<|endoftext|>`` ends a sequence. The ids are written as in
    :class:`SegmentAction`; ``info["unused_text"]`` is the rest of the text where the environment
    wrote something before its end, usually "".

    The observation is the text of the episode so far, with which to prompt a model.
    ``info["new_text"]`` is the text that the environment wrote since the last step; after ``reset``
    it is the prompt. Tokens remain authoritative: texts are never joined and encoded again, and
    bytes that are not UTF-8 show as U+FFFD.

    Both spaces are :class:`~search_env.wrappers.unicode_space.Unicode`; pass
    ``shared_memory=False`` to ``AsyncVectorEnv``.

    Args:
        env: A :class:`~search_env.envs.search_qa.SearchQAEnv`, in any wrappers that keep token ids
            as actions.

    Raises:
        ConfigurationError: Another environment, or one whose actions are not token ids.

    Example:
        >>> import search_env
        >>> env = TextAction(gym.make("SearchQA-Toy-v0"))
        >>> text, info = env.reset(seed=0, options={"index": 9})
        >>> text
        'find key1 key1 '
        >>> text, reward, terminated, truncated, info = env.step("<q>key1 key1 </q>")
        >>> info["new_text"]
        '<d>value0 </d>'
        >>> text
        'find key1 key1 <q>key1 key1 </q><d>value0 </d>'
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        tokenizer = self._tokenizer = self._bare.tokenizer
        pieces = _encodable(tokenizer)
        # A byte makes at most one character.
        max_length = self._bare.protocol.max_tokens * max(map(len, tokenizer.token_bytes))
        self.action_space = Unicode(pieces=pieces)
        self.observation_space = Unicode(max_length, pieces=pieces)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        """Begin an episode; see the environment."""
        _, info = self.env.reset(seed=seed, options=options)
        text = self._bare.transcript().text()
        return text, {**info, "new_text": text}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Write a text.

        Raises:
            InvalidActionError: Not a text, or one without tokens; nothing was written.
            EpisodeOverError: Before ``reset`` or after the end.
            RetrievalError: The search failed; see the environment.
        """
        if not isinstance(action, str):
            raise InvalidActionError(
                f"Expected a text, got {action!r}. Pass a str, or use SegmentAction for token ids."
            )
        ids = self._tokenizer.encode(action, special=True).tolist()
        if not ids:
            raise InvalidActionError(
                f"Expected a text of one token or more, got {action!r}, in which tokenizer "
                f"{self._tokenizer.name!r} finds none. Use words of its vocabulary."
            )
        before = len(self._bare.transcript().tokens)
        _, reward, terminated, truncated, info, used = self._write(ids)
        transcript = self._bare.transcript()
        inserted = transcript.sources[before:] != Source.POLICY
        info["new_text"] = transcript.decode(transcript.tokens[before:][inserted])
        info["unused_text"] = self._tokenizer.decode(ids[used:])
        return transcript.text(), reward, terminated, truncated, info


class EpisodeAction(_CoarseAction):
    """Takes a policy as an action and plays the whole episode with it in one step.

    A policy is any callable from the environment's observation to a token id. ``step`` returns the
    final observation, the sum of the rewards, and the final info with the ``format_faults`` of all
    tokens. ``info["trajectory"]`` holds plain lists, ready for JSON:

    * ``actions``: ids that the policy chose, in order;
    * ``rewards``: reward of each action;
    * ``tokens``: all ids of the episode: prompt, the policy's and inserted ones;
    * ``sources``: writer of each token (:class:`~search_env.types.Source`);
    * ``stop_reason``: reason of the end; "" where a wrapper below truncated the episode.

    The action space is :class:`~search_env.wrappers.unicode_space.Policies`.

    Args:
        env: A :class:`~search_env.envs.search_qa.SearchQAEnv`, in any wrappers that keep token ids
            as actions.

    Raises:
        ConfigurationError: Another environment, or one whose actions are not token ids.

    Example:
        >>> import search_env
        >>> env = EpisodeAction(gym.make("SearchQA-Toy-v0"))
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(lambda observation: 0)
        >>> terminated, info["trajectory"]["actions"], info["trajectory"]["stop_reason"]
        (True, [0], 'end_of_sequence')
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        tokenizer = self._bare.tokenizer
        self.action_space = Policies(tokenizer.size, end_ids=sorted(tokenizer.eos_ids))
        self._first: tuple[Any] | None = None  # the first observation of an episode not yet played

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        """Begin an episode; see the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._first = (observation,)
        return observation, info

    def step(self, action: Policy) -> tuple[Any, float, bool, bool, Info]:
        """Play the episode to its end.

        Errors of the policy or the environment propagate, and end the episode.

        Raises:
            InvalidActionError: Not a callable, or the policy returned no token id.
            EpisodeOverError: There is no episode to play: call ``reset`` first.
            RetrievalError: A search failed; see the environment.
        """
        if not callable(action):
            raise InvalidActionError(
                f"Expected a policy, got {action!r}. Pass a callable that takes an observation "
                "and returns a token id."
            )
        if self._first is None:
            raise EpisodeOverError(
                "Expected reset() before step(), got a step without an episode to play. Call "
                "reset()."
            )
        (observation,), self._first = self._first, None
        actions, rewards, faults = [], [], _Faults()
        terminated = truncated = False
        while not (terminated or truncated):
            token = action(observation)
            observation, reward, terminated, truncated, info = self.env.step(token)
            actions.append(as_integer(token))
            rewards.append(float(reward))
            faults.add(info)
        faults.put_into(info)
        transcript = self._bare.transcript()
        stop = transcript.stop_reason
        info["trajectory"] = {
            "actions": actions,
            "rewards": rewards,
            "tokens": transcript.tokens.tolist(),
            "sources": transcript.sources.tolist(),
            "stop_reason": "" if stop is None else stop.value,
        }
        return observation, sum(rewards), terminated, truncated, info


def _encodable(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return texts of single ids that the tokenizer encodes, except end-of-sequence ids."""
    texts = {
        raw.decode("utf-8", "ignore"): raw
        for number, raw in enumerate(tokenizer.token_bytes[:_PIECES])
        if number not in tokenizer.eos_ids
    }
    return tuple(t for t, raw in texts.items() if t.encode() == raw and len(tokenizer.encode(t)))
