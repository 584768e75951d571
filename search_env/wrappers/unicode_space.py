"""Spaces that Gymnasium lacks: any text, and policies as actions.

Neither has a fixed shape, so neither can be flattened or put into shared memory.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import Space

from search_env.errors import ConfigurationError

Policy: TypeAlias = Callable[[Any], Any]
"""From an observation to a token id: anything that ``operator.index`` takes."""

_PRINTABLE = tuple(string.ascii_letters + string.digits + string.punctuation + " ")
_MEAN_PIECES = 8
_END_PROBABILITY = 0.25


class Unicode(Space[str]):
    """Any text whose length in characters lies between two bounds.

    Gymnasium's own ``Text`` has a fixed character set, alphanumeric by default, and its
    observations silently come out of ``AsyncVectorEnv``'s shared memory as stale zeros. With this
    space ``AsyncVectorEnv`` refuses shared memory: pass ``shared_memory=False``.

    Args:
        max_length: Maximum number of characters, None for no maximum.
        min_length: Minimum number of characters.
        pieces: Texts that samples are joined from; they do not restrict the space itself.
        seed: Seed of the samples.

    Raises:
        ConfigurationError: The bounds or pieces admit no text.

    Example:
        >>> space = Unicode(5, pieces=["ab"], seed=0)
        >>> "žlutý" in space, "" in space, "too long" in space
        (True, False, False)
        >>> space.sample() in space
        True
    """

    def __init__(
        self,
        max_length: int | None = None,
        *,
        min_length: int = 1,
        pieces: Sequence[str] = _PRINTABLE,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if min_length < 0 or (max_length is not None and max_length < min_length):
            raise ConfigurationError(
                f"Expected 0 <= min_length <= max_length, got {min_length} and {max_length}. Pass "
                "max_length=None for text of any length."
            )
        if not pieces or not all(pieces):
            raise ConfigurationError(
                f"Expected pieces to be texts, none empty, got {pieces!r}. Pass one or more."
            )
        self.min_length, self.max_length, self.pieces = min_length, max_length, tuple(pieces)
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text has no fixed shape."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> str:
        """Return random pieces, joined: eight on average, more where the bounds require it."""
        _refuse_masks(self, mask, probability)
        count = int(self.np_random.geometric(1 / _MEAN_PIECES))
        text = ""
        while count > 0 or len(text) < self.min_length:
            text += self.pieces[int(self.np_random.integers(len(self.pieces)))]
            count -= 1
        return text[: self.max_length]

    def contains(self, x: object) -> bool:
        """Return whether ``x`` is a text of a length within the bounds."""
        longest = math.inf if self.max_length is None else self.max_length
        return isinstance(x, str) and self.min_length <= len(x) <= longest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unicode) and self._key() == other._key()

    def _key(self) -> tuple[object, ...]:
        return self.min_length, self.max_length, self.pieces

    def __repr__(self) -> str:
        return f"Unicode({self.max_length}, min_length={self.min_length})"


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """A random token at each step, a function of seed and ``observation["length"]`` alone.

    Without state it replays an episode exactly.
    """

    seed: int
    size: int  # number of token ids to draw from
    end_ids: tuple[int, ...]  # drawn in one step of four, so that most episodes end by themselves

    def __call__(self, observation: Any) -> int:
        """Return a token id."""
        random = np.random.default_rng((self.seed, int(np.max(observation["length"]))))
        if self.end_ids and random.random() < _END_PROBABILITY:
            return self.end_ids[int(random.integers(len(self.end_ids)))]
        return int(random.integers(self.size))


class Policies(Space[Policy]):
    """Any callable from an observation to a token id; samples are random policies.

    ``size`` is the number of token ids; ``end_ids`` end a sequence.

    Example:
        >>> space = Policies(24, end_ids=[0], seed=0)
        >>> policy = space.sample()
        >>> policy({"length": 7}) == policy({"length": 7}), policy in space, 7 in space
        (True, True, False)
    """

    def __init__(
        self,
        size: int,
        *,
        end_ids: Sequence[int] = (),
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.size, self.end_ids = size, tuple(end_ids)
        super().__init__(None, None, seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a policy is no array."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> RandomPolicy:
        """Return a random policy; spaces with equal seeds return equal policies."""
        _refuse_masks(self, mask, probability)
        return RandomPolicy(int(self.np_random.integers(2**31)), self.size, self.end_ids)

    def contains(self, x: object) -> bool:
        """Return whether ``x`` is callable."""
        return callable(x)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Policies):
            return False
        return (self.size, self.end_ids) == (other.size, other.end_ids)

    def __repr__(self) -> str:
        return f"Policies({self.size}, end_ids={self.end_ids})"


def _refuse_masks(space: Space[Any], mask: object, probability: object) -> None:
    if mask is not None or probability is not None:
        raise ConfigurationError(
            f"Expected no mask for {space!r}, got mask={mask!r}, probability={probability!r}. "
            "Sample without one."
        )
