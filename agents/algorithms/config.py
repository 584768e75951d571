"""What a policy-gradient algorithm is, as one flat frozen dataclass.

Every choice in which the published algorithms differ is a field; the estimators that read it are in
:mod:`search_env.agents.algorithms.advantages`, the losses in
:mod:`search_env.agents.algorithms.losses`, the published combinations in
:mod:`search_env.agents.algorithms.presets`. What a *run* is (model, environment, number of steps,
seed, dtype) and how the optimizer does its arithmetic are not here. Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from search_env.errors import ConfigurationError, nearest

Advantage = Literal[
    "gae",
    "grpo",
    "mean_only",
    "rloo",
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

GROUPED: frozenset[str] = frozenset(get_args(Advantage)) - {"gae", "reinforce_pp"}
"""Advantages that compare episodes of one question: they need groups of at least two."""


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
        aggregation: How token losses become one number, see
            :func:`search_env.agents.algorithms.losses.token_weights`.
        horizon: Constant length that ``"const_norm"`` divides by; None elsewhere.
        prompts: Questions in a rollout set.
        group_size: Episodes of each question.
        epochs: Passes over a rollout set.
        minibatch: Sequences of an optimizer step; None for the whole rollout set.
        gamma: Discount a policy token.
        lam: GAE's lambda.
        normalize_std: Divide by the standard deviation: of the group in grpo, gdpo and
            pass_at_k, of the batch's tokens in gae, reinforce_pp and reinforce_pp_baseline.
            The others never divide.
        eps_low: ppo and gspo clip the ratio at ``1 - eps_low``.
        eps_high: ppo and gspo clip the ratio at ``1 + eps_high``; for cispo it *is* the upper
            bound of the weight (TRL's meaning, not verl's).
        dual_clip: Bound of the loss where the advantage is negative, as a multiple of it; None
            for none.
        value_clip: How far a value may move from its old one in the value loss; None for any.
        value_coefficient: Weight of the value loss beside the policy's; only gae has one.
        kl: Where the distance to the reference model counts: nowhere (no reference model is
            loaded), as a price in the token rewards, or as a term of the loss.
        kl_estimator: See :func:`search_env.agents.algorithms.losses.kl`. As a reward only k1 is
            right, as a loss all others.
        kl_coefficient: Weight of that distance.
        entropy_coefficient: Weight of the entropy that is added to the objective.
        dynamic_sampling: Sample on until all groups of the set have signal (DAPO).
        max_batches: Rollout batches that dynamic sampling may take for one training step.
        mask_retrieved: Leave the tokens of documents out of the loss, as every system does; False
            is Search-R1's ablation (``state_masking=false`` in its scripts).
        overlong_filter: Leave episodes that a budget ended out of the loss (DAPO).
        importance_correction: Weights that correct for rollout log-probabilities unlike the
            learner's, see :func:`search_env.agents.algorithms.losses.importance_weights`.
        importance_cap: Upper bound of these weights.
        learning_rate: Of the policy.
        value_learning_rate: Of the value head; None for the policy's.
        warmup_steps: Training steps over which the rates rise linearly from 0; in optimizer steps
            it is :attr:`updates` times as many.
        temperature: Of the rollouts.
        top_p: Nucleus of the rollouts.

    Raises:
        ConfigurationError: A value out of its range, or two that contradict each other; the
            message names the field.

    Example:
        >>> Algorithm(advantage="rloo", group_size=4).epochs
        1
        >>> Algorithm(advantage="gro")
        Traceback (most recent call last):
        ...
        search_env.errors.ConfigurationError: Expected advantage to be one of gae, grpo, \
mean_only, rloo, reinforce_pp, reinforce_pp_baseline, opo, gdpo, pass_at_k, got 'gro'. Did you \
mean 'grpo'? Mend advantage.
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
    eps_low: float = 0.2
    eps_high: float = 0.2
    dual_clip: float | None = None
    value_clip: float | None = 0.5
    value_coefficient: float = 0.1
    kl: KL = "none"
    kl_estimator: KLEstimator = "k3"
    kl_coefficient: float = 0.0
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
        """Check every field, then those that depend on each other."""
        _check_choice("advantage", self.advantage, Advantage)
        _check_choice("surrogate", self.surrogate, Surrogate)
        _check_choice("aggregation", self.aggregation, Aggregation)
        _check_choice("kl", self.kl, KL)
        _check_choice("kl_estimator", self.kl_estimator, KLEstimator)
        _check_choice("importance_correction", self.importance_correction, ImportanceCorrection)
        for field, count in (
            ("prompts", self.prompts),
            ("group_size", self.group_size),
            ("epochs", self.epochs),
            ("max_batches", self.max_batches),
        ):
            _check(field, count, _whole(count, 1), "a number of them, at least 1")
        for field, most in (("horizon", self.horizon), ("minibatch", self.minibatch)):
            _check(field, most, most is None or _whole(most, 1), "None or at least 1")
        steps = self.warmup_steps
        _check("warmup_steps", steps, _whole(steps, 0), "a number of steps, 0 or more")
        for field, switch in (
            ("normalize_std", self.normalize_std),
            ("dynamic_sampling", self.dynamic_sampling),
            ("mask_retrieved", self.mask_retrieved),
            ("overlong_filter", self.overlong_filter),
        ):
            _check(field, switch, isinstance(switch, bool), "True or False")
        self._check_numbers()
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

    def _check_numbers(self) -> None:
        for field, amount in (
            ("value_coefficient", self.value_coefficient),
            ("kl_coefficient", self.kl_coefficient),
            ("entropy_coefficient", self.entropy_coefficient),
            ("learning_rate", self.learning_rate),
        ):
            _check(field, amount, _number(amount, 0.0), "a finite number, 0 or more")
        rate = self.value_learning_rate
        good = rate is None or _number(rate, 0.0)
        _check("value_learning_rate", rate, good, "a finite number, 0 or more")
        for field, share in (("gamma", self.gamma), ("lam", self.lam)):
            _check(field, share, _number(share, 0.0) and share <= 1.0, "from 0 to 1")
        for field, value in (
            ("eps_low", self.eps_low),
            ("eps_high", self.eps_high),
            ("temperature", self.temperature),
            ("top_p", self.top_p),
        ):
            _check(field, value, _number(value, 0.0) and value > 0.0, "a finite number above 0")
        _check("eps_low", self.eps_low, self.eps_low < 1.0, "below 1")
        _check("top_p", self.top_p, self.top_p <= 1.0, "at most 1")
        for field, clip, bound in (
            ("dual_clip", self.dual_clip, 1.0),
            ("value_clip", self.value_clip, 0.0),
        ):
            good = clip is None or (_number(clip, bound) and clip > bound)
            _check(field, clip, good, f"None or a finite number above {bound:g}")
        cap = self.importance_cap
        _check("importance_cap", cap, _number(cap, 1.0), "at least 1")

    def _check_combinations(self) -> None:
        grouped = self.advantage in GROUPED
        _check(
            "group_size",
            self.group_size,
            self.group_size >= 2 or not grouped,
            f"at least 2 with advantage={self.advantage!r}, which compares episodes of a question",
        )
        needs_horizon = self.aggregation == "const_norm"
        _check(
            "horizon",
            self.horizon,
            (self.horizon is not None) == needs_horizon,
            f"{'a length' if needs_horizon else 'None'} with aggregation={self.aggregation!r}",
        )
        _check(
            "eps_high",
            self.eps_high,
            self.surrogate != "cispo" or self.eps_high >= 1.0,
            "at least 1 with surrogate='cispo', whose bound of the ratio it is (5 is advised)",
        )
        wanted = {"reward": ("k1",), "loss": ("k2", "k3", "k3+")}.get(self.kl)
        _check(
            "kl_estimator",
            self.kl_estimator,
            wanted is None or self.kl_estimator in wanted,
            f"one of {wanted} with kl={self.kl!r}",
        )
        _check(
            "kl_coefficient",
            self.kl_coefficient,
            self.kl != "none" or self.kl_coefficient == 0.0,
            "0 with kl='none'",
        )
        _check(
            "dynamic_sampling",
            self.dynamic_sampling,
            grouped or not self.dynamic_sampling,
            f"False with advantage={self.advantage!r}, which has no groups",
        )
        _check(
            "minibatch",
            self.minibatch,
            self.minibatch is None or self.minibatch <= self.sequences,
            f"at most prompts * group_size = {self.sequences}",
        )


def _check_choice(field: str, value: object, kind: object) -> None:
    known: tuple[str, ...] = get_args(kind)
    if value not in known:
        raise ConfigurationError(
            f"Expected {field} to be one of {', '.join(known)}, got {value!r}. "
            f"{nearest(str(value), known)}Mend {field}."
        )


def _check(field: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise ConfigurationError(f"Expected {field} to be {wanted}, got {value!r}. Mend {field}.")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object, least: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= least
