"""Phases of a training run: which phase comes next, and after which episode. Pure functions.

A training run has numbered phases, each with its own reward. :class:`PhaseRule` reads finished
episodes, one at a time or several that ended together, and decides when the next phase begins.
State is a small immutable value, saved, restored and shared by assignment.

A phase ends when its running rates reach their thresholds, or after a number of episodes, whichever
comes first. Rates are shares of the last ``window`` episodes of the phase and count only once the
window is full. Invalid episodes (retrieval failed) are ignored. The rewards of the phases are in
:mod:`search_env.wrappers.staged_reward`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from search_env.errors import ConfigurationError
from search_env.validation import as_integer, check_count


class EpisodeOutcome(NamedTuple):
    """The part of a finished episode that the rule reads."""

    num_searches: int
    well_formed: bool
    valid: bool


class Progress(NamedTuple):
    """Progress of a phase, right after an episode. Rates are those in the window, 0 before any."""

    episodes: int  # valid ones that ended in the phase
    search_rate: float  # share of episodes with at least one search
    format_rate: float  # share of well-formed episodes
    switched: bool  # whether this episode ended the phase


class PhaseSwitch(NamedTuple):
    """A change of phase."""

    phase: int  # the one that began
    episode: int  # number of valid episodes of all phases that had ended by then
    reason: str  # "metric", "episodes" or "manual"


@dataclass(frozen=True, slots=True)
class PhaseState:
    """State of a run. Plain data, picklable; :class:`PhaseRule` computes the next one.

    ``searched`` and ``well_formed`` hold the last ``window`` episodes of this phase as the bits of
    a number, the newest lowest: 1 for an episode with a search, and for a well-formed one.
    """

    phase: int = 0
    total: int = 0  # valid episodes that ended, in all phases
    episodes: int = 0  # valid episodes that ended in this phase
    searched: int = 0
    well_formed: int = 0
    history: tuple[PhaseSwitch, ...] = ()


@dataclass(frozen=True, slots=True)
class PhaseRule:
    """When each phase ends. Without a condition, only :meth:`switch` changes the phase.

    Attributes:
        num_phases: The last phase has no end.
        after_episodes: Ends a phase after this many valid episodes at the latest; None: no limit.
        search_rate: Ends a phase once this share of episodes searched; None: no condition.
        format_rate: Likewise for well-formed episodes; both must hold after the same episode.
        window: Number of episodes over which the shares are computed.

    Raises:
        ConfigurationError: A value is out of range, or a threshold could never take effect.

    Example:
        >>> rule = PhaseRule(2, search_rate=0.5, window=2)
        >>> state, _ = rule.observe(PhaseState(), [EpisodeOutcome(0, True, True)])
        >>> state, seen = rule.observe(state, [EpisodeOutcome(3, True, True)])
        >>> seen[0]
        Progress(episodes=2, search_rate=0.5, format_rate=1.0, switched=True)
        >>> state.history
        (PhaseSwitch(phase=1, episode=2, reason='metric'),)
    """

    num_phases: int
    after_episodes: int | None = None
    search_rate: float | None = None
    format_rate: float | None = None
    window: int = 256

    def __post_init__(self) -> None:
        check_count("the number of phases", self.num_phases, 1)
        check_count("window", self.window, 1)
        if self.after_episodes is not None:
            check_count("after_episodes", self.after_episodes, 1)
        _check_rate("search_rate", self.search_rate)
        _check_rate("format_rate", self.format_rate)
        if self._has_rates and (self.after_episodes or self.window) < self.window:
            raise ConfigurationError(
                f"Expected a window of at most after_episodes={self.after_episodes} episodes, got "
                f"{self.window}: the phase would end before its rates count. Pass a smaller "
                "window, or after_episodes=None."
            )

    @property
    def _has_rates(self) -> bool:
        return self.search_rate is not None or self.format_rate is not None

    def is_last(self, state: PhaseState) -> bool:
        """Return whether the phase has no end."""
        return state.phase == self.num_phases - 1

    def checked(self, phase: int) -> int:
        """Return the number of an existing phase as a plain integer."""
        try:
            number = as_integer(phase)
        except TypeError:
            number = -1
        if not 0 <= number < self.num_phases:
            raise ConfigurationError(
                f"Expected a phase from 0 to {self.num_phases - 1}, got {phase!r}. Phases are "
                "numbered in the order of phases=."
            )
        return number

    def start(self, phase: int = 0) -> PhaseState:
        """Return the state of a run that begins in a phase."""
        return PhaseState(self.checked(phase))

    def switch(self, state: PhaseState, phase: int, reason: str = "manual") -> PhaseState:
        """Return the state at the beginning of a phase; unchanged if it is the current phase."""
        phase = self.checked(phase)
        if phase == state.phase:
            return state
        history = (*state.history, PhaseSwitch(phase, state.total, reason))
        return PhaseState(phase, state.total, history=history)

    def observe(
        self, state: PhaseState, episodes: Sequence[EpisodeOutcome]
    ) -> tuple[PhaseState, list[Progress]]:
        """Count episodes that ended in the same step, all rewarded under the phase of ``state``.

        They count in order. The switch is recorded at the episode that fulfilled the condition;
        those after it ended under the old phase and do not count for the new one. The result is the
        next state, and for each episode the progress of the phase that rewarded it.
        """
        phase = state.phase
        progress = self.progress(state)
        progresses = []
        for episode in episodes:
            reason = None
            if episode.valid and state.phase != phase:
                state = dataclasses.replace(state, total=state.total + 1)
            elif episode.valid:
                state = self._counted(state, episode)
                progress = self.progress(state)
                reason = self._due(state, progress)
            if reason is not None:
                state = self.switch(state, phase + 1, reason)
            progresses.append(progress._replace(switched=reason is not None))
        return state, progresses

    def progress(self, state: PhaseState) -> Progress:
        """Return the progress of the phase."""
        count = max(1, min(state.episodes, self.window))
        rates = state.searched.bit_count() / count, state.well_formed.bit_count() / count
        return Progress(state.episodes, *rates, switched=False)

    def _counted(self, state: PhaseState, episode: EpisodeOutcome) -> PhaseState:
        window = (1 << self.window) - 1  # mask of the bits to keep
        return dataclasses.replace(
            state,
            total=state.total + 1,
            episodes=state.episodes + 1,
            searched=(state.searched << 1 | (episode.num_searches > 0)) & window,
            well_formed=(state.well_formed << 1 | bool(episode.well_formed)) & window,
        )

    def _due(self, state: PhaseState, progress: Progress) -> str | None:
        """Return why the phase ends now, or None."""
        if self.is_last(state):
            return None
        if self._has_rates and state.episodes >= self.window:
            # Rates are quotients, rounded as a threshold's literal is: 7 of 10 reaches 0.7.
            enough_searches = progress.search_rate >= (self.search_rate or 0)
            if enough_searches and progress.format_rate >= (self.format_rate or 0):
                return "metric"
        if self.after_episodes is not None and state.episodes >= self.after_episodes:
            return "episodes"
        return None


def _check_rate(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value <= 1):  # type: ignore[operator]
        raise ConfigurationError(
            f"Expected {name} to be a share above 0 and at most 1, got {value!r}. Pass for "
            "example 0.9, or None for no condition."
        )
