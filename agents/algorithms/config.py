"""The choices of a policy-gradient algorithm, as one flat frozen dataclass.

Every choice in which the published algorithms differ is a field; the estimators that read it are in
:mod:`search_env.agents.algorithms.advantages`, the losses in
:mod:`search_env.agents.algorithms.losses`, the published combinations in
:mod:`search_env.agents.algorithms.presets`. Settings of a *run* (model, environment, number of
steps, seed, dtype) and of the optimizer's arithmetic are elsewhere. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar, get_args

from search_env.errors import ConfigurationError, nearest

__all__ = ["Algorithm"]

Advantage = Literal[
    "gae",
    "grpo",
    "mean_only",
    "rloo",
    "grpo_leave_one_out",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "opo",
    "gdpo",
    "pass_at_k",
]
Surrogate = Literal["ppo", "gspo", "cispo", "sapo", "reinforce"]
Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "const_norm"]
KL = Literal["none", "reward", "loss"]
KLEstimator = Literal["k1", "k2", "k3", "k3+"]
ImportanceCorrection = Literal["none", "tis", "icepop", "sequence_tis"]
Whitening = Literal["tokens", "episodes"]

GROUPED: frozenset[str] = frozenset(get_args(Advantage)) - {"gae", "reinforce_pp"}
"""Advantages that compare episodes of one question: they need groups of at least two."""

T = TypeVar("T")
_Check = Callable[[object], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """All choices of a policy-gradient algorithm.

    A *training step* samples one rollout set and learns from it. The defaults are GRPO's as
    published, without a reference model.

    Attributes:
        advantage: The estimator, a function of :mod:`search_env.agents.algorithms.advantages`.
        surrogate: The per-token loss: ``"ppo"`` clips the token's ratio, ``"gspo"`` the
            sequence's, ``"cispo"`` its weight only, ``"sapo"`` bends it softly, ``"reinforce"``
            uses none; see :func:`search_env.agents.algorithms.losses.surrogate`.
        aggregation: How token losses are summed, see
            :func:`search_env.agents.algorithms.losses.token_weights`.
        horizon: Constant length that ``"const_norm"`` divides by; None elsewhere.
        prompts: Questions in a rollout set.
        group_size: Episodes of each question.
        epochs: Passes over a rollout set.
        minibatch: Sequences of an optimizer step; None for the whole rollout set.
        gamma: Discount per policy token.
        lam: GAE's lambda.
        normalize_std: Divide by the standard deviation: of the group in grpo, gdpo and
            pass_at_k, of the group's other episodes in grpo_leave_one_out, of the batch's tokens
            in gae, reinforce_pp and reinforce_pp_baseline. The others never divide.
        gdpo_whitening: What gdpo's sum is whitened over: ``"tokens"`` (verl), which weights long
            episodes more, or ``"episodes"`` (paper, TRL).
        eps_low: ppo and gspo clip the ratio at ``1 - eps_low``.
        eps_high: ppo and gspo clip the ratio at ``1 + eps_high``; for cispo it *is* the upper
            bound of the weight (TRL's meaning, not verl's).
        dual_clip: Bound of the loss where the advantage is negative, as a multiple of it; None
            for none.
        value_clip: How far a value may move from its old one in the value loss; None for any.
        value_coefficient: Weight of the value loss relative to the policy's; only gae has one.
        kl: Where the KL divergence from the reference model enters: nowhere (no reference model
            is loaded), as a penalty in the token rewards, or as a term of the loss.
        kl_estimator: See :func:`search_env.agents.algorithms.losses.kl`. Use k1 with
            ``kl="reward"``, any other with ``kl="loss"``.
        kl_coefficient: Weight of that divergence.
        k3_limit: Upper limit of k3 and k3+ at a token; None for none (paper, TRL). Where k3 is
            beyond it the KL term has no gradient: 10 (verl) is reached where the policy gives a
            token a 14th of the reference's probability (``log_prob - ref_log_prob < -2.61``).
        entropy_coefficient: Weight of the entropy bonus in the objective.
        dynamic_sampling: Sample more batches until all groups of the set have signal (DAPO).
        max_batches: Rollout batches that dynamic sampling may take for one training step.
        mask_retrieved: Leave document tokens out of the loss, as every system does; False is
            Search-R1's ablation (``state_masking=false`` in its scripts).
        overlong_filter: Leave episodes that a budget ended out of the loss (DAPO).
        importance_correction: Weights that correct for the difference between rollout
            log-probabilities and the learner's, see
            :func:`search_env.agents.algorithms.losses.importance_weights`.
        importance_cap: Upper bound of these weights.
        learning_rate: Learning rate of the policy.
        value_learning_rate: Learning rate of the value head; None for the policy's.
        warmup_steps: Training steps over which the rates rise linearly from 0; in optimizer steps
            it is :attr:`updates` times as many.
        temperature: Sampling temperature of the rollouts.
        top_p: Nucleus of the rollouts.

    Raises:
        ConfigurationError: A value out of its range, or fields that contradict each other.

    Example:
        >>> Algorithm(advantage="rloo", group_size=4).epochs
        1
        >>> Algorithm(advantage="gro")
        Traceback (most recent call last):
        ...
        search_env.errors.ConfigurationError: Expected advantage to be one of gae, grpo, \
mean_only, rloo, grpo_leave_one_out, reinforce_pp, reinforce_pp_baseline, opo, gdpo, pass_at_k, \
got 'gro'. Did you mean 'grpo'? Change advantage.
    """

    advantage: Advantage = "grpo"
    surrogate: Surrogate = "ppo"
    aggregation: Aggregation = "seq_mean_token_mean"
    horizon: int | None = None
    prompts: int = 64
    group_size: int = 8
    epochs: int = 1
    minibatch: int | None = None
    gamma: float = 1.0
    lam: float = 1.0
    normalize_std: bool = True
    gdpo_whitening: Whitening = "tokens"
    eps_low: float = 0.2
    eps_high: float = 0.2
    dual_clip: float | None = None
    value_clip: float | None = 0.5
    value_coefficient: float = 0.1
    kl: KL = "none"
    kl_estimator: KLEstimator = "k3"
    kl_coefficient: float = 0.0
    k3_limit: float | None = 10.0
    entropy_coefficient: float = 0.0
    dynamic_sampling: bool = False
    max_batches: int = 10
    mask_retrieved: bool = True
    overlong_filter: bool = False
    importance_correction: ImportanceCorrection = "none"
    importance_cap: float = 2.0
    learning_rate: float = 1e-6
    value_learning_rate: float | None = None
    warmup_steps: int = 0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Check every field, then the combinations."""
        check_choice("advantage", self.advantage, Advantage)
        check_choice("surrogate", self.surrogate, Surrogate)
        check_choice("aggregation", self.aggregation, Aggregation)
        check_choice("kl", self.kl, KL)
        check_choice("kl_estimator", self.kl_estimator, KLEstimator)
        check_choice("importance_correction", self.importance_correction, ImportanceCorrection)
        check_choice("gdpo_whitening", self.gdpo_whitening, Whitening)
        values = asdict(self)
        for names, is_valid, expected in _RANGES:
            for name in names:
                check_field(name, values[name], is_valid(values[name]), expected)
        self._check_combinations()

    @property
    def uses_values(self) -> bool:
        """Whether a value head is needed."""
        return self.advantage == "gae"

    @property
    def uses_reference(self) -> bool:
        """Whether a reference model is needed."""
        return self.kl != "none" and self.kl_coefficient > 0.0

    @property
    def sequences(self) -> int:
        """Episodes in a rollout set."""
        return self.prompts * self.group_size

    @property
    def updates(self) -> int:
        """Optimizer steps from one full rollout set."""
        return self.epochs * math.ceil(self.sequences / (self.minibatch or self.sequences))

    def _check_combinations(self) -> None:
        advantage, aggregation, kl = self.advantage, self.aggregation, self.kl
        grouped = advantage in GROUPED
        expected = f"at least 2 with {advantage=}, which compares episodes of a question"
        check_field("group_size", self.group_size, self.group_size >= 2 or not grouped, expected)
        needs_horizon = aggregation == "const_norm"
        expected = f"{'a length' if needs_horizon else 'None'} with {aggregation=}"
        check_field("horizon", self.horizon, (self.horizon is not None) == needs_horizon, expected)
        valid = self.gdpo_whitening == "tokens" or advantage == "gdpo"
        check_field("gdpo_whitening", self.gdpo_whitening, valid, f"'tokens' with {advantage=}")
        valid = self.surrogate != "cispo" or self.eps_high >= 1.0
        expected = "at least 1 with surrogate='cispo', where it bounds the ratio itself"
        check_field("eps_high", self.eps_high, valid, f"{expected} (5 is common)")
        estimators = {"reward": ("k1",), "loss": ("k2", "k3", "k3+")}.get(kl)
        valid = estimators is None or self.kl_estimator in estimators
        check_field("kl_estimator", self.kl_estimator, valid, f"one of {estimators} with {kl=}")
        check_field(
            "kl_coefficient",
            self.kl_coefficient,
            kl != "none" or self.kl_coefficient == 0.0,
            "0 with kl='none'",
        )
        expected = f"False with {advantage=}, which has no groups"
        check_field(
            "dynamic_sampling",
            self.dynamic_sampling,
            grouped or not self.dynamic_sampling,
            expected,
        )
        valid = self.minibatch is None or self.minibatch <= self.sequences
        check_field(
            "minibatch", self.minibatch, valid, f"at most prompts * group_size = {self.sequences}"
        )


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise ConfigurationError, with the nearest choice, for a value not of a ``Literal``."""
    names: tuple[str, ...] = get_args(choices)
    if value not in names:
        raise ConfigurationError(
            f"Expected {name} to be one of {', '.join(names)}, got {value!r}. "
            f"{nearest(str(value), names)}Change {name}."
        )


def check_field(name: str, value: object, valid: bool, expected: str) -> None:
    """Raise ConfigurationError for a field with an invalid value."""
    if not valid:
        raise ConfigurationError(f"Expected {name} to be {expected}, got {value!r}. Change {name}.")


def required(name: str, value: T | None, reason: str) -> T:
    """Return an optional argument that a setting needs, or raise ConfigurationError for None."""
    if value is None:
        raise ConfigurationError(
            f"Expected {name} for {reason}, got None. Pass {name}, or change that setting."
        )
    return value


def _switch(value: object) -> bool:
    return isinstance(value, bool)


def _integer(least: int) -> _Check:
    return lambda value: isinstance(value, int) and not _switch(value) and value >= least


def _number(least: float, most: float = math.inf) -> _Check:
    return lambda value: (
        isinstance(value, int | float)
        and not _switch(value)
        and math.isfinite(value)
        and least <= value <= most
    )


def _above(bound: float, most: float = math.inf) -> _Check:
    return lambda value: _number(bound, most)(value) and value != bound


def _optional(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


_RANGES: tuple[tuple[tuple[str, ...], _Check, str], ...] = (
    (
        ("normalize_std", "dynamic_sampling", "mask_retrieved", "overlong_filter"),
        _switch,
        "True or False",
    ),
    (("prompts", "group_size", "epochs", "max_batches"), _integer(1), "an integer, at least 1"),
    (("horizon", "minibatch"), _optional(_integer(1)), "None or an integer, at least 1"),
    (("warmup_steps",), _integer(0), "an integer, 0 or more"),
    (
        ("value_coefficient", "kl_coefficient", "entropy_coefficient", "learning_rate"),
        _number(0.0),
        "a finite number, 0 or more",
    ),
    (("value_learning_rate",), _optional(_number(0.0)), "None or a finite number, 0 or more"),
    (("gamma", "lam"), _number(0.0, 1.0), "from 0 to 1"),
    (("eps_low",), _above(0.0, math.nextafter(1.0, 0.0)), "above 0 and below 1"),
    (("eps_high", "temperature"), _above(0.0), "a finite number above 0"),
    (("top_p",), _above(0.0, 1.0), "above 0, at most 1"),
    (("dual_clip",), _optional(_above(1.0)), "None or a finite number above 1"),
    (("value_clip", "k3_limit"), _optional(_above(0.0)), "None or a finite number above 0"),
    (("importance_cap",), _number(1.0), "a finite number, at least 1"),
)
"""Fields, the check of each, and its range as an error states it."""
