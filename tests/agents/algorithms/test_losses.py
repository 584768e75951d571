"""Losses: published golden vectors, gradients by hand and by differences, invariances."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.agents.algorithms import losses
from search_env.agents.algorithms.config import Algorithm
from search_env.agents.algorithms.presets import get_preset
from search_env.errors import ConfigurationError

HERE = torch.ones(1, 1, dtype=torch.bool)
PPO = Algorithm(eps_low=0.2, eps_high=0.28)


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), atol=tolerance, rtol=0
    )


def one(number):
    return torch.tensor([[float(number)]])


def random(*shape, seed=0, dtype=torch.float32, scale=0.5):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=dtype)


# ------------------------------------------------------------------------------ golden vectors


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected", "clipped"),
    [
        (1, 1.5, -1.28, True),
        (1, 0.5, -0.5, False),
        (-1, 1.5, 1.5, False),
        (-1, 5, 3, True),  # the dual clip
        (-1, 0.5, 0.8, True),
    ],
)
def test_ppo_clip(advantage, ratio, expected, clipped):
    algorithm = dataclasses.replace(PPO, dual_clip=3.0)
    actual = losses.surrogate(one(math.log(ratio)), one(0), one(advantage), HERE, algorithm)
    close(actual.loss, [[expected]])
    assert actual.clipped.item() is clipped


def test_without_the_dual_clip_the_loss_has_no_bound():
    actual = losses.surrogate(one(math.log(5)), one(0), one(-1), HERE, PPO)
    close(actual.loss, [[5.0]])
    assert not actual.clipped.item()


def test_gspo_takes_the_geometric_mean_of_ratios():
    log_ratios = torch.tensor([[1.1, 0.9, 1.2, 7.0]]).log()
    mask = torch.tensor([[True, True, True, False]])
    algorithm = Algorithm(surrogate="gspo", eps_high=0.5)
    actual = losses.surrogate(log_ratios, torch.zeros(1, 4), torch.ones(1, 4), mask, algorithm)
    close(actual.loss, [[-1.05910] * 3 + [0.0]], 5e-6)


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected"), [(1, 1, 2.0), (1, 1.5, 2.48984), (-1, 1.5, 2.39359)]
)
def test_sapo_factor(advantage, ratio, expected):
    """The golden factors; for A <= 0 the steepness is 1.05."""
    algorithm = Algorithm(surrogate="sapo")
    actual = losses.surrogate(one(math.log(ratio)), one(0), one(advantage), HERE, algorithm)
    close(actual.loss, [[-advantage * expected]], 5e-6)


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", 0.1), ("k2", 0.005), ("k3", 0.0048374), ("k3+", 0.0048374)]
)
def test_kl_estimators(estimator, expected):
    close(losses.kl(one(-0.9), one(-1.0), HERE, estimator), [[expected]], 5e-7)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", -0.3333),
        ("seq_mean_token_mean", 0.0),
        ("seq_mean_token_sum", -1.0),
        ("const_norm", -0.125),
    ],
)
def test_aggregation_of_plus_one_on_two_tokens_and_minus_one_on_four(aggregation, expected):
    mask = torch.arange(4)[None] < torch.tensor([[2], [4]])
    token_losses = torch.tensor([[1.0], [-1.0]]).expand(2, 4)
    weights = losses.token_weights(mask, aggregation, horizon=8)
    assert (weights * token_losses).sum().item() == pytest.approx(expected, abs=5e-5)


# ------------------------------------------------------------------------------------ gradients


def gradient(algorithm, log_probs, old, advantages, mask, weights):
    log_probs = log_probs.clone().requires_grad_()
    actual = losses.surrogate(log_probs, old, advantages, mask, algorithm)
    (weights * actual.loss).sum().backward()
    return log_probs.grad


def test_gspo_gradient_equals_finite_differences_of_the_sequence_objective():
    mask = torch.tensor(
        [[True, True, True, True], [True, False, True, False], [True, False, False, False]]
    )
    algorithm = Algorithm(surrogate="gspo", eps_low=0.05, eps_high=0.05)
    log_probs, old = (random(3, 4, seed=seed, dtype=torch.float64) for seed in (1, 2))
    advantages = torch.tensor([[-1.0], [2.0], [1.0]], dtype=torch.float64).expand(3, 4)

    def objective(log_probs):
        """The paper's: the mean over sequences of min(s A, clip(s) A), lengths of the mask."""
        total = 0.0
        for row in range(3):
            here = mask[row]
            s = (log_probs[row, here] - old[row, here]).mean().exp().item()
            a = advantages[row, 0].item()
            total -= min(s * a, min(max(s, 0.95), 1.05) * a) / 3
        return total

    weights = losses.token_weights(mask, "seq_mean_token_mean").double()
    actual = gradient(algorithm, log_probs, old, advantages, mask, weights)
    step, expected = 1e-6, torch.zeros(3, 4, dtype=torch.float64)
    for row in range(3):
        for token in range(4):
            moved = torch.zeros_like(expected)
            moved[row, token] = step
            expected[row, token] = (objective(log_probs + moved) - objective(log_probs - moved)) / (
                2 * step
            )
    assert actual.abs().max() > 0.1
    close(actual, expected, 1e-7)


def test_cispo_weighs_every_token_by_its_bounded_ratio():
    mask = torch.tensor([[True, True, False]])
    algorithm = Algorithm(surrogate="cispo", eps_high=1.5)
    old = torch.tensor([[-1.0, -1.0, -1.0]])
    log_probs = old + torch.tensor([[1.2, 9.0, 1.0]]).log()
    advantages = torch.tensor([[2.0, 2.0, 2.0]])
    actual = losses.surrogate(log_probs, old, advantages, mask, algorithm)
    close(actual.loss[0, :2], [-1.2 * 2 * log_probs[0, 0], -1.5 * 2 * log_probs[0, 1]], 1e-5)
    assert actual.clipped.tolist() == [[False, True, False]]
    moved = gradient(algorithm, log_probs, old, advantages, mask, torch.ones(1, 3))
    close(moved, [[-2.4, -3.0, 0.0]], 1e-5)


@pytest.mark.parametrize("surrogate", ["ppo", "gspo", "cispo", "sapo", "reinforce"])
def test_on_policy_every_surrogate_is_reinforce(surrogate):
    """At ratio 1 the gradient is -A, however the loss is written."""
    mask = torch.arange(4)[None] < torch.tensor([[4], [2]])
    algorithm = Algorithm(surrogate=surrogate, eps_high=1.5)
    log_probs = random(2, 4)
    advantages = random(2, 1, seed=1).expand(2, 4)  # one number an episode, as gspo wants
    actual = gradient(algorithm, log_probs, log_probs, advantages, mask, torch.ones(2, 4))
    close(actual, torch.where(mask, -advantages, 0.0))


def test_kl_losses_pull_towards_the_reference():
    """The gradient of k2 is the difference; k3+ has k3's value and k2's gradient."""
    for estimator, expected in (("k1", 1.0), ("k2", 0.3), ("k3", 1 - math.exp(-0.3)), ("k3+", 0.3)):
        log_prob = one(-0.7).requires_grad_()
        losses.kl(log_prob, one(-1.0), HERE, estimator).sum().backward()
        assert log_prob.grad.item() == pytest.approx(expected, abs=1e-6), estimator


def test_expected_gradients_of_the_kl_estimators():
    """Over all tokens of a distribution: k2 has the KL divergence's gradient, k1 none, k3 the
    gradient of the other direction."""
    logits = random(5, seed=3, dtype=torch.float64).requires_grad_()
    reference = random(5, seed=4, dtype=torch.float64).log_softmax(-1)

    def derivative(loss):
        return torch.autograd.grad(loss, logits)[0]

    log_probs = logits.log_softmax(-1)
    forward = derivative((log_probs.exp() * (log_probs - reference)).sum())
    backward = derivative((reference.exp() * (reference - logits.log_softmax(-1))).sum())
    mask = torch.ones(5, dtype=torch.bool)
    for estimator, expected in (("k1", 0 * forward), ("k2", forward), ("k3", backward)):
        log_probs = logits.log_softmax(-1)
        drawn = log_probs.exp().detach()  # tokens come from the policy; their draw has no gradient
        close(
            derivative((drawn * losses.kl(log_probs, reference, mask, estimator)).sum()), expected
        )


# --------------------------------------------------------------------------------- limits


def test_far_log_ratios_stay_finite():
    for surrogate in ("ppo", "gspo", "cispo", "sapo", "reinforce"):
        algorithm = Algorithm(surrogate=surrogate, eps_high=1.5)
        for log_prob in (-500.0, 500.0):
            leaf = one(log_prob).requires_grad_()
            loss = losses.surrogate(leaf, one(0), one(-1), HERE, algorithm).loss
            loss.sum().backward()
            assert loss.isfinite().all()
            assert leaf.grad.isfinite().all()
    gspo = Algorithm(surrogate="gspo")
    close(losses.surrogate(one(500), one(0), one(-1), HERE, gspo).loss, [[math.exp(10)]], 1e-2)
    assert losses.kl(one(-500), one(0), HERE, "k3").item() == 10.0
    assert math.isfinite(losses.kl(one(-500), one(0), HERE, "k3", k3_limit=None).item())
    assert losses.kl(one(500), one(0), HERE, "k1").item() == 20.0


# ----------------------------------------------------------------------- importance correction


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("none", [1.0, 1.0, 1.0, 0.0]),
        ("tis", [2.0, 0.25, 1.5, 0.0]),
        ("icepop", [0.0, 0.0, 1.5, 0.0]),
        ("sequence_tis", [1.5, 1.5, 1.5, 0.0]),
    ],
)
def test_importance_weights(correction, expected):
    ratios = torch.tensor([[4.0, 0.25, 1.5, 100.0]])
    old = (ratios.log() - 1.0).requires_grad_()
    mask = torch.tensor([[True, True, True, False]])
    actual = losses.importance_weights(old, torch.full((1, 4), -1.0), mask, correction, cap=2.0)
    close(actual, [expected])
    assert not actual.requires_grad


def test_the_sequence_weight_is_capped():
    ratios = torch.tensor([[3.0, 3.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    actual = losses.importance_weights(ratios.log(), torch.zeros(1, 2), mask, "sequence_tis", 5.0)
    close(actual, [[5.0, 5.0]])


# ------------------------------------------------------------------------------- critic, choices


@pytest.mark.parametrize(
    ("value", "clip", "expected", "clipped"),
    [
        (2.0, None, 0.5, False),
        (2.0, 0.5, 1.125, True),  # moved to 1.5 and no further: half of 1.5 squared
        (0.2, 0.5, 3.92, False),  # away from the return: the clip hides nothing
    ],
)
def test_value_loss(value, clip, expected, clipped):
    actual = losses.value_loss(one(value), one(1), one(3), HERE, clip)
    close(actual.loss, [[expected]])
    assert actual.clipped.item() is clipped


@pytest.mark.parametrize(
    ("scores", "bounds", "kept"),
    [
        ([0, 0, 1], (0, 1), True),
        ([0, 0, 0], (0, 1), False),
        ([1, 1], (0, 1), False),
        ([0.5, 0.5], (0, 1), False),
        ([-2, 0.4], (0, 1), False),
        ([-2, 0.4], (-math.inf, math.inf), True),
        ([], (0, 1), False),
    ],
)
def test_keep_group(scores, bounds, kept):
    assert losses.keep_group(scores, *bounds) is kept


def test_overlong_filter_leaves_whole_episodes_out():
    mask = torch.tensor([[True, True], [True, False]])
    actual = losses.overlong_filter(mask, torch.tensor([True, False]))
    assert actual.tolist() == [[False, False], [True, False]]
    weights = losses.token_weights(actual, "seq_mean_token_mean")
    assert weights.tolist() == [[0.0, 0.0], [1.0, 0.0]]  # nor do they count as episodes


def test_a_batch_without_tokens_weighs_nothing():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    for aggregation in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "const_norm"):
        assert not losses.token_weights(mask, aggregation, horizon=4).any()


def test_const_norm_wants_a_horizon():
    with pytest.raises(ConfigurationError, match="Expected horizon for aggregation"):
        losses.token_weights(HERE, "const_norm")


def test_misspelt_choices_are_named():
    with pytest.raises(ConfigurationError, match=r"got 'token-mean'\. Did you mean 'token_mean'"):
        losses.token_weights(HERE, "token-mean")
    with pytest.raises(ConfigurationError, match="Expected estimator to be one of k1, k2, k3, k3"):
        losses.kl(one(0), one(0), HERE, "K3")
    with pytest.raises(ConfigurationError, match="Expected correction to be one of none, tis"):
        losses.importance_weights(one(0), one(0), HERE, "tiss")


@pytest.mark.parametrize(
    ("limit", "loss", "gradient"),
    [
        (10.0, 10.0, 0.0),
        (25.0, math.exp(3) - 4, 1 - math.exp(3)),
        (None, math.exp(3) - 4, 1 - math.exp(3)),
    ],
)
def test_d_k3_pulls_back_beyond_its_limit_only_without_one(limit, loss, gradient):
    """At a log-ratio of -3 k3 is e^3 - 4 = 16.1, and its gradient 1 - e^3."""
    algorithm = Algorithm(kl="loss", kl_coefficient=1.0, k3_limit=limit)
    log_probs = one(-3.0).requires_grad_()
    actual, sums = losses.policy_loss(
        algorithm,
        log_probs=log_probs,
        old_log_probs=one(-3.0),
        advantages=one(0.0),
        ref_log_probs=one(0.0),
        mask=HERE,
        weights=one(1.0),
    )
    actual.backward()
    close(actual.detach(), torch.tensor(loss), 1e-4)
    close(sums["kl"], torch.tensor(loss), 1e-4)
    close(log_probs.grad, one(gradient), 1e-4)


def test_d_the_published_limits_of_k3_are_in_the_presets():
    assert get_preset("grpo").k3_limit is None  # paper, TRL
    assert get_preset("search-r1-grpo").k3_limit == Algorithm().k3_limit == 10.0  # verl
    for value in (0.0, -1.0, math.nan, math.inf, True, "10"):
        with pytest.raises(ConfigurationError, match="k3_limit to be None or a finite number"):
            Algorithm(k3_limit=value)


# ------------------------------------------------------------------------------------ all of it

FULL = [
    Algorithm(kl="loss", kl_estimator="k3", kl_coefficient=0.1, entropy_coefficient=0.01),
    Algorithm(advantage="gae", aggregation="token_mean", kl="loss", kl_estimator="k3+",
              kl_coefficient=0.1, value_coefficient=0.5),
    Algorithm(surrogate="gspo", kl="loss", kl_estimator="k2", kl_coefficient=0.1),
    Algorithm(surrogate="cispo", aggregation="const_norm", horizon=9, eps_high=1.1),
    Algorithm(surrogate="sapo", aggregation="seq_mean_token_sum", entropy_coefficient=0.01),
    Algorithm(surrogate="reinforce"),
]  # fmt: skip
NAMES = ("log_probs", "old_log_probs", "advantages", "entropies", "ref_log_probs", "importance",
         "values", "old_values", "returns")  # fmt: skip


def whole(algorithm, mask, tensors, weights):
    """The loss, its sums, and the gradients of all that has one."""
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    leaves = [tensors[name].requires_grad_() for name in ("log_probs", "entropies", "values")]
    loss, sums = losses.policy_loss(algorithm, mask=mask, weights=weights, **tensors)
    loss.backward()
    actual = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return loss.detach(), sums, torch.stack(actual)


def weights_of(algorithm, mask, **totals):
    return losses.token_weights(mask, algorithm.aggregation, horizon=algorithm.horizon, **totals)


masks = st.lists(st.booleans(), min_size=12, max_size=12).map(lambda m: torch.tensor(m).view(3, 4))


@pytest.mark.parametrize("algorithm", FULL, ids=lambda a: f"{a.surrogate}-{a.aggregation}")
@settings(max_examples=15, deadline=None)
@given(mask=masks, seed=st.integers(0, 1000))
def test_nan_where_nothing_counts_changes_neither_loss_nor_gradient(algorithm, mask, seed):
    tensors = {name: random(3, 4, seed=seed + i) for i, name in enumerate(NAMES)}
    dirty = {name: tensor.where(mask, torch.nan) for name, tensor in tensors.items()}
    weights = weights_of(algorithm, mask)
    loss, sums, gradients = whole(algorithm, mask, tensors, weights)
    same = whole(algorithm, mask, dirty, weights.where(mask, torch.nan))
    assert torch.equal(loss, same[0])
    assert loss.isfinite()
    assert torch.equal(gradients, same[2])
    assert not gradients[:, ~mask].any()
    assert sums.keys() == same[1].keys()
    assert all(torch.equal(sums[name], same[1][name]) for name in sums)


@pytest.mark.parametrize("algorithm", FULL, ids=lambda a: f"{a.surrogate}-{a.aggregation}")
@settings(max_examples=10, deadline=None)
@given(mask=masks, seed=st.integers(0, 1000))
def test_any_split_into_micro_batches_adds_up(algorithm, mask, seed):
    tensors = {name: random(3, 4, seed=seed + i) for i, name in enumerate(NAMES)}
    loss, sums, gradients = whole(algorithm, mask, tensors, weights_of(algorithm, mask))
    totals = {"tokens": int(mask.sum()), "sequences": int(mask.any(-1).sum())}
    for split in ([[0], [1, 2]], [[2], [0], [1]]):
        parts = []
        for rows in split:
            part = {name: tensor[rows] for name, tensor in tensors.items()}
            parts.append(
                whole(algorithm, mask[rows], part, weights_of(algorithm, mask[rows], **totals))
            )
        close(sum(part[0] for part in parts), loss, 1e-5)
        order = [row for rows in split for row in rows]
        close(torch.cat([part[2] for part in parts], 1), gradients[:, order], 1e-5)
        for name in sums:
            close(sum(part[1][name] for part in parts), sums[name], 1e-4)


def test_the_whole_loss_by_hand():
    algorithm = Algorithm(
        advantage="gae", kl="loss", kl_estimator="k2", kl_coefficient=0.1,
        entropy_coefficient=0.01, value_coefficient=0.5, value_clip=None,
    )  # fmt: skip
    loss, sums = losses.policy_loss(
        algorithm,
        log_probs=one(math.log(1.1)),
        old_log_probs=one(0.0),
        advantages=one(2.0),
        mask=HERE,
        weights=one(0.25),
        entropies=one(0.7),
        ref_log_probs=one(math.log(1.1) - 0.4),
        importance=one(1.5),
        values=one(1.0),
        old_values=one(1.0),
        returns=one(3.0),
    )
    expected = 0.25 * (1.5 * -1.1 * 2 + 0.1 * 0.08 - 0.01 * 0.7 + 0.5 * 2.0)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert {name: round(number.item(), 5) for name, number in sums.items()} == {
        "tokens": 1.0, "clipped": 0.0, "log_ratio_k3": round(0.1 - math.log(1.1), 5), "kl": 0.08,
        "entropy": 0.7, "value_loss": 2.0, "value_clipped": 0.0,
    }  # fmt: skip


def test_entropies_are_logged_without_being_paid():
    given_ = {"log_probs": one(0), "old_log_probs": one(0), "advantages": one(0)}
    loss, sums = losses.policy_loss(
        Algorithm(), mask=HERE, weights=one(1), entropies=one(0.5), **given_
    )
    assert loss.item() == 0.0
    assert sums["entropy"].item() == 0.5


@pytest.mark.parametrize(
    ("algorithm", "missing"),
    [
        (Algorithm(kl="loss", kl_coefficient=0.1), "ref_log_probs"),
        (Algorithm(entropy_coefficient=0.1), "entropies"),
        (Algorithm(advantage="gae"), "values"),
    ],
)
def test_what_is_missing_is_named(algorithm, missing):
    with pytest.raises(ConfigurationError, match=f"Expected {missing} for"):
        losses.policy_loss(
            algorithm,
            log_probs=one(0),
            old_log_probs=one(0),
            advantages=one(1),
            mask=HERE,
            weights=one(1),
        )
