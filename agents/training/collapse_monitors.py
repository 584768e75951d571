"""Warnings of a training run's collapse.

Each monitor warns once, and again after the sign was gone for some steps; nothing is stopped or
changed. Signs and their order follow published post-mortems: RAGEN (arXiv 2504.20073: spread of
rewards in groups, then entropy, then the gradient), the collapse of GRPO in search (arXiv
2512.04220: likelihood of right responses), Search-R1 and its re-runs (the policy stops searching,
answers are padded). Thresholds are this project's; the papers show curves alone.

Trends are means over a few steps, compared with the beginning or the best of the same run, because
absolute numbers differ from model to model. A metric that is NaN or missing was not measured. Call
:meth:`Monitors.restart` when the reward changes (the next phase). Imports no torch.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from search_env.agents.errors import CheckpointError
from search_env.errors import ConfigurationError

DRIFT_LIMITS: Mapping[str, float] = {"fp32": 1e-4, "bf16": 0.75}
"""Greatest difference of a token's log-probability between rollout and learner, by dtype.

In float32 the tiny base differs by up to 2.4e-5 on processors with AVX2 alone; in bfloat16, by 0.1
to 0.4 in a set of 64 episodes, on unlikely tokens.
"""

_MEASURED = ("reward/mean", "policy/entropy", "policy/grad_norm")
_HISTORY = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Where warnings begin; each limit is above 0, the window has at most 10 steps."""

    # Steps that a trend is averaged over, and that a sign must be gone for before the next warning.
    window: int = 5
    group_std: float = 0.1  # lowest spread of rewards in groups, as a fraction of its best
    entropy: float = 0.25  # lowest, as a fraction of its first mean
    gradient: float = 5.0  # highest norm, as a multiple of its median over 20 steps
    # Greatest drop of the log-probability of right episodes from its best, in nats a token; where
    # the best is below -1, as a fraction of it.
    right_log_prob: float = 0.2
    search_rate: float = 0.5  # lowest share of episodes with a search, as a fraction of its best
    well_formed: float = 0.6  # lowest share of episodes in the right format, likewise
    searches: float = 1.0  # most that may be added an episode while the reward does not grow
    zero_variance: float = 0.8  # highest share of groups without signal
    truncated: float = 0.25  # highest share of episodes that a budget ends
    words: float = 2.0  # greatest length of answers, as a multiple of its first mean
    cover_gap: float = 0.2  # greatest cover exact match minus exact match
    kl: float = 0.5  # greatest distance to the reference, in nats a token
    clip_fraction: float = 0.4  # highest share of tokens that a clip decides
    drift: float = DRIFT_LIMITS["fp32"]

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in asdict(self).items():
            most = _HISTORY // 2 if name == "window" else math.inf
            if not 0 < value <= most:
                raise ConfigurationError(
                    f"Expected {name} to be above 0 and at most {most}, got {value!r}. "
                    f"Change {name}; infinity silences its monitor."
                )


@dataclass(slots=True)
class _Trend:
    """One metric over time."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    start: float | None = None
    best: float | None = None
    missing: int = 0

    def add(self, value: float, window: int) -> None:
        if not math.isfinite(value):
            self.missing += 1
            return
        self.missing = 0
        self.recent.append(value)
        if len(self.recent) >= window:
            mean = self.mean(window)
            self.start = mean if self.start is None else self.start
            self.best = mean if self.best is None else max(self.best, mean)

    def mean(self, window: int) -> float:
        return statistics.fmean(list(self.recent)[-window:])


class _Means(NamedTuple):
    """The means of a trend that has filled its window: the first, the best and the present one."""

    start: float
    best: float
    now: float


class Monitors:
    """All monitors of a run.

    Example:
        >>> monitors = Monitors()
        >>> for rate in [0.9] * 5 + [0.1] * 5:
        ...     for warning in monitors.update({"search/rate": rate}):
        ...         print(warning[:69])
        The policy stops searching: 42% of episodes search over the last 5 st
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._trends: dict[str, _Trend] = {}
        self._active: dict[str, int] = {}  # steps since the sign was last seen

    @property
    def active(self) -> frozenset[str]:
        """Names of the monitors that have warned and whose sign has not gone since."""
        return frozenset(self._active)

    def update(self, metrics: Mapping[str, float]) -> list[str]:
        """Take in the logged metrics of one training step; return new warnings of some sentences.

        Metrics that no monitor reads are ignored.
        """
        for name, value in metrics.items():
            if name in _TRACKED:
                self._trends.setdefault(name, _Trend()).add(float(value), self.limits.window)
        # What is active changes only after all have looked: they see the same state in any order.
        warnings = {name: look(self, metrics) for name, look in _MONITORS.items()}
        new = [text for name, text in warnings.items() if text and name not in self._active]
        quiet = {name: 0 if warnings[name] else n + 1 for name, n in self._active.items()}
        self._active = {name: steps for name, steps in quiet.items() if steps < self.limits.window}
        self._active.update({name: 0 for name, text in warnings.items() if text})
        return new

    def restart(self) -> None:
        """Forget all trends, because what is measured means something else from now on."""
        self._trends.clear()
        self._active.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "version": 1,
            "active": dict(self._active),
            "trends": {
                name: [list(t.recent), t.start, t.best, t.missing]
                for name, t in self._trends.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state of this version."""
        if state.get("version") != 1 or not {"active", "trends"} <= state.keys():
            raise CheckpointError(
                f"Expected monitors of version 1, got {state.get('version')!r} with "
                f"{sorted(state)}. Begin with new monitors, or load with the version that saved."
            )
        self._active = dict(state["active"])
        self._trends = {
            name: _Trend(deque(recent, maxlen=_HISTORY), start, best, missing)
            for name, (recent, start, best, missing) in state["trends"].items()
        }

    def _means(self, name: str) -> _Means | None:
        trend = self._trends.get(name)
        if trend is None or trend.start is None or trend.best is None or trend.missing:
            return None
        return _Means(trend.start, trend.best, trend.mean(self.limits.window))

    @property
    def _lately(self) -> str:
        return f"over the last {self.limits.window} steps"


@dataclass(frozen=True, slots=True)
class _TrendMonitor:
    """A monitor that reads the trend of one metric."""

    metric: str  # its name in the log
    warns: Callable[[_Means, Limits], bool]  # whether the trend is a sign of collapse
    text: str  # the warning, a format string of start, best, now and lately

    def __call__(self, run: Monitors, metrics: Mapping[str, float]) -> str | None:
        means = run._means(self.metric)
        if means is None or not self.warns(means, run.limits):
            return None
        return self.text.format(**means._asdict(), lately=run._lately)


def _no_measure(run: Monitors, metrics: Mapping[str, float]) -> str | None:
    infinite = [name for name, value in metrics.items() if math.isinf(value)]
    if infinite:
        return (
            f"Infinite: {', '.join(sorted(infinite))}. One such number in a loss destroys the "
            "weights. Lower learning_rate, and go back to the last checkpoint if rewards fell."
        )
    trends, window = run._trends, run.limits.window
    silent = [name for name in _MEASURED if name in trends and trends[name].missing >= window]
    if silent:
        return (
            f"Nothing was measured for {', '.join(silent)} {run._lately}. Either no episode was "
            "valid (look at the retriever) or none had an advantage (harder questions, "
            "dynamic_sampling=True)."
        )
    return None


def _gradient_spikes(run: Monitors, metrics: Mapping[str, float]) -> str | None:
    norm = metrics.get("policy/grad_norm", math.nan)
    trend = run._trends.get("policy/grad_norm")
    if math.isnan(norm) or trend is None or len(trend.recent) < 2 * run.limits.window:
        return None
    median = statistics.median(trend.recent)
    if median <= 0.0 or norm <= run.limits.gradient * median:
        return None
    jump = f"The gradient norm jumped to {norm:.3g}, its median is {median:.3g}"
    if {"equal_rewards", "entropy_falls"} <= run.active:
        return (
            f"{jump}, after entropy and the spread of rewards had fallen. This is the order in "
            "which agents collapse (the echo trap). Stop, go back to the checkpoint before entropy "
            "fell, and go on with a lower learning_rate, kl='loss' and dynamic_sampling=True."
        )
    return (
        f"{jump}. One such step can undo many. Lower learning_rate or max_grad_norm, use larger "
        "minibatches, and watch the reward of the next steps."
    )


def _searches_without_gain(run: Monitors, _: Mapping[str, float]) -> str | None:
    searches, reward = run._means("search/mean"), run._means("reward/mean")
    if searches is None or reward is None:
        return None
    added = searches.now - searches.start
    if added <= run.limits.searches or reward.now > reward.start + 0.02:
        return None
    return (
        f"Searches pay nothing: {searches.now:.2f} an episode {run._lately}, {searches.start:.2f} "
        f"at the beginning, while the reward went from {reward.start:.3g} to {reward.now:.3g}. A "
        "bonus for searching is earned by dummy queries. Pay it once an episode, end that phase, "
        "or add the reward search-cost."
    )


def _padded_answers(run: Monitors, _: Mapping[str, float]) -> str | None:
    words = run._means("answer/words")
    cover, exact = run._means("answer/cover_exact_match"), run._means("answer/exact_match")
    signs = []
    if words is not None and words.now > max(run.limits.words * words.start, words.start + 2.0):
        signs.append(f"answers have {words.now:.1f} words, {words.start:.1f} at the beginning")
    if cover is not None and exact is not None:
        gap, before = cover.now - exact.now, cover.start - exact.start
        if gap > max(run.limits.cover_gap, before + 0.05):
            signs.append(f"cover exact match is {gap:.2f} above exact match, {before:.2f} before")
    if not signs:
        return None
    return (
        f"Answers are padded {run._lately}: {' and '.join(signs)}. Listing guesses is paid by "
        "rewards that only look whether the answer is contained. Reward F1 or exact match, or "
        "punish long answers."
    )


def _drift(run: Monitors, metrics: Mapping[str, float]) -> str | None:
    drift = metrics.get("policy/drift_max", math.nan)
    if math.isnan(drift) or drift <= run.limits.drift:
        return None
    return (
        f"Rollout and learner disagree: a token's log-probability differs by {drift:.3g}, the "
        f"limit is {run.limits.drift:.3g}. Ratios are then wrong before the first update. Give "
        "both the same weights, dtype, temperature and top_p; if precision is the cause, set "
        "importance_correction='tis'."
    )


_MONITORS: Mapping[str, Callable[[Monitors, Mapping[str, float]], str | None]] = {
    "no_measure": _no_measure,
    "equal_rewards": _TrendMonitor(
        "reward/group_std",
        lambda trend, limits: trend.best > 0.0 and trend.now <= limits.group_std * trend.best,
        "Rewards in groups hardly differ: standard deviation {now:.3g} {lately}, "
        "{best:.3g} at best. Without a difference there is no gradient; unless the task is "
        "solved this is the first sign of collapse. Mix in questions of another difficulty "
        "(curriculum), pay graded rewards (F1), set dynamic_sampling=True, or raise temperature.",
    ),
    "entropy_falls": _TrendMonitor(
        "policy/entropy",
        lambda trend, limits: trend.start > 0.0 and trend.now <= limits.entropy * trend.start,
        "Entropy falls: {now:.3g} nats a token {lately}, {start:.3g} at the "
        "beginning. The policy tries nothing new any more and groups become equal. Raise eps_high "
        "(0.28) or entropy_coefficient, use kl='loss', or lower learning_rate.",
    ),
    "gradient_spikes": _gradient_spikes,
    "right_answers_sink": _TrendMonitor(
        "policy/right_log_prob",
        lambda trend, limits: (
            trend.best - trend.now > limits.right_log_prob * max(1.0, abs(trend.best))
        ),
        "Right episodes become less likely: {now:.3g} nats a token {lately}, "
        "{best:.3g} at best. Their first actions also occur in wrong episodes and are pushed "
        "down with these; in search this comes before a collapse. Raise kl_coefficient, lower "
        "learning_rate, or take fewer updates of a rollout set (larger minibatch, epochs=1).",
    ),
    "search_dies": _TrendMonitor(
        "search/rate",
        lambda trend, limits: trend.best >= 0.1 and trend.now <= limits.search_rate * trend.best,
        "The policy stops searching: {now:.0%} of episodes search {lately}, "
        "{best:.0%} at best. The reward shows it late, and without searches nothing can be "
        "learnt about them. See that documents hold the answers (retriever, top_k), lower any "
        "price on searches, or train the first phase (its reward pays for searching) longer.",
    ),
    "searches_without_gain": _searches_without_gain,
    "format_decays": _TrendMonitor(
        "format/well_formed",
        lambda trend, limits: trend.best >= 0.1 and trend.now <= limits.well_formed * trend.best,
        "The format decays: {now:.0%} of episodes keep it {lately}, {best:.0%} at "
        "best. Answers that cannot be read earn nothing. Use a reward with a format part, raise "
        "kl_coefficient, or lower learning_rate.",
    ),
    "no_signal": _TrendMonitor(
        "groups/zero_variance",
        lambda trend, limits: trend.now >= limits.zero_variance,
        "{now:.0%} of groups have no signal {lately}: all their episodes were paid the "
        "same. Their share of the computation is lost. Choose questions by difficulty "
        "(curriculum), set dynamic_sampling=True, raise group_size, or pay graded rewards (F1).",
    ),
    "truncations": _TrendMonitor(
        "stop/truncated",
        lambda trend, limits: trend.now >= limits.truncated,
        "{now:.0%} of episodes are ended by a budget {lately}. They are paid as "
        "failures whatever they were about to do. Raise max_tokens or max_policy_tokens of the "
        "environment, add the reward soft-overlong, or set overlong_filter=True.",
    ),
    "padded_answers": _padded_answers,
    "drift": _drift,
    "far_from_reference": _TrendMonitor(
        "policy/kl",
        lambda trend, limits: trend.now >= limits.kl,
        "The policy is far from the reference model: {now:.3g} nats a token {lately}. "
        "What the base model could do (read, copy, keep to the language) is being lost. Raise "
        "kl_coefficient, lower learning_rate, or end this phase.",
    ),
    "much_clipped": _TrendMonitor(
        "policy/clip_fraction",
        lambda trend, limits: trend.now >= limits.clip_fraction,
        "Clips decide {now:.0%} of tokens {lately}: the policy moves too far within a "
        "rollout set. Lower learning_rate, or take fewer updates (larger minibatch, epochs=1).",
    ),
}

_TRACKED = {
    *(look.metric for look in _MONITORS.values() if isinstance(look, _TrendMonitor)),
    *("search/mean", "answer/words", "answer/exact_match", "answer/cover_exact_match", *_MEASURED),
}
