"""Other clocks for the same decision process: a step is a segment, a text or a whole episode.

Each wrapper writes token after token with the inner environment's ``step``; there is no rule of the
environment in here, and every wrapper below a clock sees every token. The same ids from the same
seed give the same episode on every clock. A clock stands over an environment whose actions are
token ids, so over no other clock.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from search_env.envs.config import Info
from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError, EpisodeOverError, InvalidActionError
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Source
from search_env.wrappers.unicode_space import Policies, Policy, Unicode

_PIECES = 512  # ids whose texts random text is made of: all single bytes stand among the first


class _Stretch(NamedTuple):
    """What came of some ids written in a row, and how many of them were."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: Info
    used: int


class _Clock(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """What the clocks share: the environment below, and writing ids until it writes itself."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._bare = bare_env(env)
        if env.action_space != self._bare.action_space:
            raise ConfigurationError(
                f"Expected an environment whose actions are token ids, "
                f"{self._bare.action_space}, got {env.action_space}. Put {type(self).__name__} "
                "below the wrapper that changes them; clocks do not stand on one another."
            )

    def _write(self, ids: Sequence[int]) -> _Stretch:
        """Write ids until the environment writes something, the episode ends or none is left."""
        total, faults = 0.0, []
        for used, token in enumerate(ids, 1):
            observation, reward, terminated, truncated, info = self.env.step(token)
            total += float(reward)
            faults += info.get("format_faults", ())
            if terminated or truncated or used == len(ids) or self._has_written(info):
                break
        if faults:
            info["format_faults"] = faults
        return _Stretch(observation, total, terminated, truncated, info, used)

    def _has_written(self, info: Info) -> bool:
        """Whether the environment wrote in the last step: documents, or a notice after a fault."""
        if "document_ids" in info:
            return True
        return (
            "format_faults" in info and self._bare.transcript().sources[-1].item() != Source.POLICY
        )


class SegmentAction(_Clock):
    """Takes a sequence of token ids as one action, such as all up to a tag or the end.

    The ids are written one by one until the environment writes something (documents or a notice),
    the episode ends, or they are used up. Ids after that point were sampled without sight of what
    the environment wrote: they are not executed, and ``info["unused_actions"]`` counts them.

    The reward is the sum over the tokens. The info is the last token's, with the
    ``format_faults`` of all of them; a search always is the last token's.

    The action space is ``Sequence(Discrete(n))``; lists and integer arrays of one dimension are
    taken as well. The observation space is the environment's.

    Args:
        env: A :class:`~search_env.envs.search_qa.SearchQAEnv`, in any wrappers that keep token ids
            as actions.

    Raises:
        ConfigurationError: ``env`` is another environment, or its actions are no token ids.

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
            InvalidActionError: Not a sequence of token ids, or an empty one; nothing was written.
            EpisodeOverError: Before ``reset`` or after the end.
            RetrievalError: The search failed; see the environment.
        """
        ids = self._ids(action)
        stretch = self._write(ids)
        stretch.info["unused_actions"] = len(ids) - stretch.used
        return stretch[:5]

    def _ids(self, action: Any) -> list[int]:
        try:
            ids = np.asarray(action)
        except (ValueError, TypeError):  # ragged, or no array at all
            ids = np.empty(0)
        is_sequence = ids.ndim == 1 and ids.size > 0 and ids.dtype.kind in "iu"
        if is_sequence and ids.min() >= 0 and ids.max() < self._size:
            return list(ids.tolist())
        raise InvalidActionError(
            f"Expected one or more token ids from 0 to {self._size - 1}, got {action!r}. Pass them "
            "as a tuple, a list or an array of one dimension."
        )


class TextAction(_Clock):
    """Takes text as an action and shows the episode as text, for API models and people.

    The text is encoded once, by the environment's tokenizer; the name of a special token becomes
    that token, so that ``<|endoftext|>`` ends a sequence. The ids are written as in
    :class:`SegmentAction`; what was left of the text when the environment wrote something is
    ``info["unused_text"]``, "" as a rule.

    The observation is the text of the whole episode so far: what to prompt a model with.
    ``info["new_text"]`` is what the environment wrote since the last step, after ``reset`` the
    prompt. Tokens stay the truth: pieces of text are never joined and encoded again, and bytes
    that are no UTF-8 show as U+FFFD.

    Both spaces are :class:`~search_env.wrappers.unicode_space.Unicode`; in ``AsyncVectorEnv`` pass
    ``shared_memory=False``.

    Args:
        env: A :class:`~search_env.envs.search_qa.SearchQAEnv`, in any wrappers that keep token ids
            as actions.

    Raises:
        ConfigurationError: ``env`` is another environment, or its actions are no token ids.

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
        longest = self._bare.protocol.max_tokens * max(map(len, tokenizer.token_bytes))
        self.action_space = Unicode(pieces=pieces)
        self.observation_space = Unicode(longest, pieces=pieces)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        """Begin an episode; see the environment."""
        _, info = self.env.reset(seed=seed, options=options)
        text = self._bare.transcript().text()
        return text, {**info, "new_text": text}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Write a text.

        Raises:
            InvalidActionError: Not a text, or one without any token; nothing was written.
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
                f"{self._tokenizer.name!r} finds none. Write what its vocabulary holds."
            )
        before = len(self._bare.transcript().tokens)
        _, reward, terminated, truncated, info, used = self._write(ids)
        transcript = self._bare.transcript()
        theirs = transcript.sources[before:] != Source.POLICY
        info["new_text"] = transcript.decode(transcript.tokens[before:][theirs])
        info["unused_text"] = self._tokenizer.decode(ids[used:])
        return transcript.text(), reward, terminated, truncated, info


class EpisodeAction(_Clock):
    """Takes a policy as an action and plays the whole episode with it, in one step.

    A policy is any callable from the environment's observation to a token id; the observation that
    ``step`` returns is the final one, the reward is the episode's sum, the info is the final one
    with the ``format_faults`` of all tokens. ``info["trajectory"]`` holds plain lists, ready for
    JSON:

    | Key           | Meaning                                                               |
    |---------------|-----------------------------------------------------------------------|
    | `actions`     | the ids that the policy chose, in order                               |
    | `rewards`     | the reward of each of them                                            |
    | `tokens`      | all ids of the episode: prompt, policy's and inserted ones            |
    | `sources`     | who wrote each of the tokens (:class:`~search_env.types.Source`)      |
    | `stop_reason` | how the episode ended; "" where a wrapper below cut it                |

    The action space is :class:`~search_env.wrappers.unicode_space.Policies`.

    Args:
        env: A :class:`~search_env.envs.search_qa.SearchQAEnv`, in any wrappers that keep token ids
            as actions.

    Raises:
        ConfigurationError: ``env`` is another environment, or its actions are no token ids.

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
        self._first: tuple[Any] | None = None  # the observation to begin with

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        """Begin an episode; see the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._first = (observation,)
        return observation, info

    def step(self, action: Policy) -> tuple[Any, float, bool, bool, Info]:
        """Play the episode to its end.

        Whatever the policy or the environment raises comes through, and the episode is over.

        Raises:
            InvalidActionError: Not a callable; or the policy returned no token id.
            EpisodeOverError: The episode has been played: call ``reset`` first.
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
        actions, rewards, faults, over = [], [], [], False
        while not over:
            token = action(observation)
            observation, reward, terminated, truncated, info = self.env.step(token)
            over = terminated or truncated
            actions.append(operator.index(token))
            rewards.append(float(reward))
            faults += info.get("format_faults", ())
        if faults:
            info["format_faults"] = faults
        info["trajectory"] = self._trajectory(actions, rewards)
        return observation, sum(rewards), terminated, truncated, info

    def _trajectory(self, actions: list[int], rewards: list[float]) -> Info:
        transcript = self._bare.transcript()
        stop = transcript.stop_reason
        return {
            "actions": actions,
            "rewards": rewards,
            "tokens": transcript.tokens.tolist(),
            "sources": transcript.sources.tolist(),
            "stop_reason": "" if stop is None else stop.value,
        }


def _encodable(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return texts of single ids that the tokenizer encodes, end-of-sequence ids left out."""
    texts = {
        raw.decode("utf-8", "ignore"): raw
        for number, raw in enumerate(tokenizer.token_bytes[:_PIECES])
        if number not in tokenizer.eos_ids
    }
    return tuple(t for t, raw in texts.items() if t.encode() == raw and len(tokenizer.encode(t)))
