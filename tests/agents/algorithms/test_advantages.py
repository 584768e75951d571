"""Advantages: published golden vectors, an independent implementation, and invariances.

Numbers without a comment are hand-computed, or from a separate script of the papers' formulas.
"""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.agents.algorithms import advantages as adv
from search_env.agents.algorithms.config import GROUPED, Algorithm
from search_env.errors import ConfigurationError

R = torch.tensor([1.0, 0.0, 0.0, 1.0])
ONE_GROUP = torch.zeros(4, dtype=torch.int64)
MASK = torch.arange(4)[None] < torch.tensor([2, 4, 4, 2])[:, None]
HOLES = torch.tensor([[True, True, False, False, True, True]])
HOLES_VALUES = torch.tensor([[0.2, 0.4, 9.0, 9.0, 0.5, 0.8]])


def close(actual, expected, tolerance=5e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=tolerance, rtol=0)


# ------------------------------------------------------------------------------ golden vectors


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (adv.grpo, [0.8660, -0.8660, -0.8660, 0.8660]),
        (adv.mean_only, [0.5, -0.5, -0.5, 0.5]),
        (adv.rloo, [0.6667, -0.6667, -0.6667, 0.6667]),
        (adv.opo, [0.6667, -0.3333, -0.3333, 0.6667]),
        (adv.reinforce_pp_baseline, [1.35401, -0.67700, -0.67700, 1.35401]),
    ],
)
def test_one_group_of_two_right_and_two_wrong(function, expected):
    actual = function(R, ONE_GROUP, MASK)
    close(actual, torch.where(MASK, torch.tensor(expected)[:, None], 0.0))


def test_pass_at_k_pays_the_best_for_its_lead():
    mask = torch.ones(4, 1, dtype=torch.bool)
    rewards = torch.tensor([1.0, 0.2, 0.0, 0.5])
    close(adv.pass_at_k(rewards, ONE_GROUP, mask)[:, 0], [1.14960, 0.0, 0.0, 0.0])
    close(adv.pass_at_k(rewards, ONE_GROUP, mask, divide=False)[:, 0], [0.5, 0.0, 0.0, 0.0])
    close(adv.pass_at_k(R, ONE_GROUP, mask), torch.zeros(4, 1))  # two are best


def test_gdpo_keeps_the_small_component_where_the_plain_sum_drowns_it():
    mask = torch.ones(4, 1, dtype=torch.bool)
    components = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.1], [0.0, 0.1]])
    plain = adv.grpo(components.sum(-1), ONE_GROUP, mask)[:, 0]
    close(plain, [1.49240, -0.63960, -0.42640, -0.42640])
    actual = adv.gdpo(components, ONE_GROUP, mask)[:, 0]
    close(actual, [0.68957, -1.48577, 0.39810, 0.39810])
    first = adv.gdpo(components, ONE_GROUP, mask, weights=torch.tensor([1.0, 0.0]))[:, 0]
    close(first, adv.whiten(adv.grpo(components[:, 0], ONE_GROUP, mask), mask)[:, 0])


def test_d_gdpo_whitens_over_tokens_or_over_episodes():
    """Episodes of 1, 1, 1 and 3 tokens; one part, so the sum is GRPO's 1.5, -.5, -.5, -.5."""
    mask = torch.tensor([[True, False, False]] * 3 + [[True] * 3])
    part = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    # Tokens: mean -1/6, squares 10/3, variance 2/3. Episodes: mean 0, squares 3, variance 1.
    tokens = [2.04124, -0.40825, -0.40825, -0.40825]
    close(adv.gdpo(part, ONE_GROUP, mask)[:, 0], tokens, 1e-4)
    over_episodes = adv.gdpo(part, ONE_GROUP, mask, whitening="episodes")
    close(over_episodes[:, 0], [1.5, -0.5, -0.5, -0.5], 1e-4)
    close(over_episodes[3], [-0.5, -0.5, -0.5], 1e-4)
    assert not over_episodes[:3, 1:].any()
    empty = mask & torch.tensor([[True], [True], [True], [False]])  # the last does not count
    # Mean 1/6, squares (4/3)^2 + 2 (2/3)^2 = 8/3, variance 4/3.
    actual = adv.gdpo(part, ONE_GROUP, empty, whitening="episodes")[:, 0]
    close(actual, [1.15470, -0.57735, -0.57735, 0.0], 1e-4)
    with pytest.raises(ConfigurationError, match="gdpo_whitening to be 'tokens' with advantage='g"):
        Algorithm(advantage="grpo", gdpo_whitening="episodes")


def test_d_leave_one_out_mean_and_deviation():
    """Worked out by hand: for 3 of (3, 1, 0, 0) the others are 1, 0, 0: 8/3 over sqrt(1/3)."""
    mask = torch.ones(4, 1, dtype=torch.bool)
    actual = adv.grpo_leave_one_out(torch.tensor([3.0, 1.0, 0.0, 0.0]), ONE_GROUP, mask)[:, 0]
    close(actual, [4.61880, 0.0, -0.87287, -0.87287], 1e-4)
    # Others without a deviation do not divide, although 0.1 has no exact binary form.
    rewards = torch.tensor([0.7, 0.1, 0.1, 0.1])
    close(adv.grpo_leave_one_out(rewards, ONE_GROUP, mask)[:1, 0], [0.6])
    close(adv.grpo_leave_one_out(R[:2], ONE_GROUP[:2], mask[:2])[:, 0], [1.0, -1.0])  # rloo
    close(adv.grpo_leave_one_out(R[:1], ONE_GROUP[:1], mask[:1])[:, 0], [0.0])
    plain = Algorithm(advantage="grpo_leave_one_out", normalize_std=False)
    close(adv.estimate(plain, R, ONE_GROUP, MASK).advantages, adv.rloo(R, ONE_GROUP, MASK))


@settings(max_examples=50, deadline=None)
@given(rewards=st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.0]), min_size=3, max_size=8))
def test_d_leave_one_out_is_that_of_the_statistics_module(rewards):
    size = len(rewards)
    actual = adv.grpo_leave_one_out(
        torch.tensor(rewards), torch.zeros(size, dtype=torch.int), torch.ones(size, 1).bool()
    )[:, 0]
    for i, advantage in enumerate(actual.tolist()):
        others = rewards[:i] + rewards[i + 1 :]
        deviation = statistics.stdev(others) if len(set(others)) > 1 else 1.0
        expected = (rewards[i] - statistics.fmean(others)) / deviation
        assert advantage == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("gamma", "lam", "position", "expected"),
    [
        (1.0, 1.0, 1, [1.1, 0.9, 0.5, 0.2]),
        (0.9, 0.95, 1, [0.7451, 0.6843, 0.3910, 0.2000]),
        (1.0, 1.0, 2, [0.8, 0.6, 0.5, 0.2]),  # a reward on a masked token is lost
    ],
)
def test_gae_skips_what_the_policy_did_not_write(gamma, lam, position, expected):
    rewards = torch.zeros(1, 6)
    rewards[0, position] = 0.3
    rewards[0, 5] = 1.0
    actual = adv.gae(rewards, HOLES_VALUES, HOLES, gamma=gamma, lam=lam)
    close(actual.advantages[HOLES], expected)
    close(actual.returns[HOLES], torch.tensor(expected) + HOLES_VALUES[HOLES])
    assert not actual.advantages[~HOLES].any()
    assert not actual.returns[~HOLES].any()


def test_the_reward_is_never_lost_where_it_is_placed_by_at_last_token():
    rewards = adv.at_last_token(torch.tensor([0.7]), HOLES & (torch.arange(6) < 5))
    assert rewards.tolist() == [[0.0, 0.0, 0.0, 0.0, pytest.approx(0.7), 0.0]]
    assert adv.returns_to_go(rewards, HOLES)[0, 0] == pytest.approx(0.7)


def test_bi_level_gae():
    values = torch.arange(1, 11)[None] / 10
    rewards = torch.zeros(1, 10)
    rewards[0, 4] = rewards[0, 9] = 1.0
    actual = adv.bi_level_gae(rewards, values, torch.ones(1, 10, dtype=torch.bool), rewards > 0)
    expected = [1.85, 1.75, 1.65, 1.55, 1.45, 0.4, 0.3, 0.2, 0.1, 0.0]
    close(actual.advantages, [expected])
    close(actual.returns[0, [4, 9]], [1.95, 1.0])


def test_bi_level_gae_keeps_a_turn_that_earned_nothing():
    """Ends found as rewards other than 0 would join the first turn to the second."""
    mask = torch.tensor([[True, True, False, True, True]])
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    ends = torch.tensor([[False, True, False, False, False]])  # the last is one of itself
    actual = adv.bi_level_gae(rewards, torch.zeros(1, 5), mask, ends, turn_gamma=0.5)
    close(actual.advantages, [[0.5, 0.5, 0.0, 1.0, 1.0]])


# --------------------------------------------------------------------- independent implementations


def plain_gae(rewards, values, gamma, lam, bootstrap):
    """The textbook's sum over a list without holes."""
    count = len(rewards)
    ahead = [*values[1:], bootstrap]
    deltas = [rewards[t] + gamma * ahead[t] - values[t] for t in range(count)]
    return [
        sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, count)) for t in range(count)
    ]


numbers = st.floats(-2, 2, width=32)


@st.composite
def batches(draw):
    """Masks with holes, rewards in groups, and tensors that are NaN where nothing counts."""
    rows, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    mask = draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))
    tokens = draw(st.lists(numbers, min_size=3 * rows * width, max_size=3 * rows * width))
    rewards = draw(st.lists(numbers, min_size=rows, max_size=rows))
    groups = draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    return (
        torch.tensor(rewards),
        torch.tensor(groups),
        torch.tensor(mask).view(rows, width),
        torch.tensor(tokens).view(3, rows, width),
    )


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_textbooks_on_the_tokens_that_count(batch, gamma, lam):
    ends, _, mask, (rewards, values, _) = batch
    actual = adv.gae(rewards, values, mask, gamma=gamma, lam=lam, bootstrap=ends).advantages
    for row in range(len(mask)):
        here = mask[row]
        bootstrap = ends[row].item()
        expected = plain_gae(
            rewards[row, here].tolist(), values[row, here].tolist(), gamma, lam, bootstrap
        )
        close(actual[row, here], torch.tensor(expected), 1e-4)


@settings(max_examples=40, deadline=None)
@given(batches())
def test_grouped_advantages_by_plain_lists(batch):
    rewards, groups, mask, _ = batch
    actual = {
        name: getattr(adv, name)(rewards, groups, mask)
        for name in ("grpo", "mean_only", "rloo", "opo")
    }
    lengths = mask.sum(-1).tolist()
    for row in range(len(mask)):
        same = [i for i in range(len(mask)) if groups[i] == groups[row]]
        scores = [rewards[i].item() for i in same]
        mine, alone = rewards[row].item(), len(same) == 1
        mean = 0.0 if alone else statistics.fmean(scores)
        std = 1.0 if alone else statistics.stdev(scores)
        others = [rewards[i].item() for i in same if i != row]
        weighed = sum(lengths[i] * rewards[i].item() for i in same)
        expected = {
            "grpo": (mine - mean) / (std + 1e-6),
            "mean_only": mine - mean,
            "rloo": 0.0 if alone else mine - statistics.fmean(others),
            "opo": mine - weighed / max(1, sum(lengths[i] for i in same)),
        }
        for name, number in expected.items():
            close(actual[name][row][mask[row]], torch.full((lengths[row],), number), 1e-3)


@settings(max_examples=40, deadline=None)
@given(batches(), st.floats(0.1, 1))
def test_reinforce_pp_is_whitened_returns(batch, gamma):
    rewards, _, mask, (penalties, _, _) = batch
    returns = []
    for row in range(len(mask)):
        paid = penalties[row, mask[row]].tolist()
        if paid:
            paid[-1] += rewards[row].item()
        ahead, actual = 0.0, []
        for payment in reversed(paid):
            ahead = payment + gamma * ahead
            actual.insert(0, ahead)
        returns += actual
    if len(returns) < 2:
        return
    mean, variance = statistics.fmean(returns), statistics.variance(returns)
    if variance < 1e-4:
        return
    expected = torch.tensor([(number - mean) / math.sqrt(variance + 1e-8) for number in returns])
    actual = adv.reinforce_pp(rewards, mask, penalties=penalties, gamma=gamma)
    close(actual[mask], expected, 1e-2)


# ----------------------------------------------------------------------------------- invariances

ESTIMATORS = [
    Algorithm(advantage="gae", lam=0.9, gamma=0.95),
    Algorithm(advantage="gdpo", gdpo_whitening="episodes"),
    *(
        Algorithm(advantage=name)
        for name in (
            "grpo",
            "mean_only",
            "rloo",
            "grpo_leave_one_out",
            "reinforce_pp",
            "reinforce_pp_baseline",
            "opo",
            "gdpo",
            "pass_at_k",
        )
    ),
]
ids = [f"{algorithm.advantage}-{algorithm.gdpo_whitening}" for algorithm in ESTIMATORS]


def estimate(algorithm, rewards, groups, mask, tokens, **options):
    values, penalties, _ = tokens
    return adv.estimate(
        algorithm,
        rewards,
        groups,
        mask,
        values=values,
        penalties=penalties,
        components=torch.stack([rewards, rewards.square()], -1),
        **options,
    )


@pytest.mark.parametrize("algorithm", ESTIMATORS, ids=ids)
@settings(max_examples=15, deadline=None)
@given(batch=batches())
def test_nan_where_nothing_counts_changes_nothing(algorithm, batch):
    rewards, groups, mask, tokens = batch
    clean = estimate(algorithm, rewards, groups, mask, tokens)
    dirty = estimate(algorithm, rewards, groups, mask, tokens.where(mask, torch.nan))
    assert torch.equal(clean.advantages, dirty.advantages)
    assert clean.advantages.isfinite().all()
    assert not clean.advantages[~mask].any()
    assert (clean.returns is None) == (algorithm.advantage != "gae")


@settings(max_examples=15, deadline=None)
@given(batch=batches())
def test_nan_changes_nothing_in_bi_level_gae(batch):
    _, _, mask, (rewards, values, ends) = batch
    dirty = [tokens.where(mask, torch.nan) for tokens in (rewards, values)]
    clean = adv.bi_level_gae(rewards, values, mask, ends > 0)
    assert torch.equal(clean.advantages, adv.bi_level_gae(*dirty, mask, ends > 0).advantages)
    assert clean.advantages.isfinite().all()


@pytest.mark.parametrize("algorithm", ESTIMATORS, ids=ids)
@settings(max_examples=15, deadline=None)
@given(batch=batches(), seed=st.integers(0, 9))
def test_the_order_of_episodes_and_the_names_of_groups_do_not_matter(algorithm, batch, seed):
    rewards, groups, mask, tokens = batch
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
    clean = estimate(algorithm, rewards, groups, mask, tokens).advantages
    moved = estimate(
        algorithm, rewards[order], 7 - 3 * groups[order], mask[order], tokens[:, order]
    ).advantages
    close(moved, clean[order], 1e-3)


@pytest.mark.parametrize("algorithm", ESTIMATORS, ids=ids)
def test_padding_on_the_right_changes_nothing(algorithm):
    tokens = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    short = estimate(algorithm, R, ONE_GROUP, MASK, tokens).advantages
    wide = torch.nn.functional.pad(tokens, (0, 3), value=torch.nan)
    long = estimate(algorithm, R, ONE_GROUP, torch.nn.functional.pad(MASK, (0, 3)), wide).advantages
    assert torch.equal(long[:, :4], short)


@pytest.mark.parametrize("algorithm", ESTIMATORS, ids=ids)
@pytest.mark.parametrize(("rows", "width"), [(0, 0), (2, 0), (0, 3)])
def test_a_process_without_tokens_or_episodes_gets_nothing(algorithm, rows, width):
    mask = torch.zeros(rows, width, dtype=torch.bool)
    tokens = torch.zeros(3, rows, width)
    groups = torch.zeros(rows, dtype=torch.int64)
    actual = estimate(algorithm, torch.zeros(rows), groups, mask, tokens).advantages
    assert actual.shape == (rows, width)


@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_equal_rewards_have_exactly_no_advantage(size):
    """In float32 the mean of five times 0.1 is not 0.1, and a tiny std blows the difference up."""
    rewards, mask = torch.full((size,), 0.1), torch.ones(size, 2, dtype=torch.bool)
    groups = torch.zeros(size, dtype=torch.int64)
    for function in (adv.grpo, adv.mean_only, adv.rloo, adv.opo, adv.pass_at_k):
        assert not function(rewards, groups, mask).any(), function.__name__
    assert not adv.reinforce_pp_baseline(rewards, groups, mask).any()


def test_a_group_of_one_keeps_its_reward_or_gets_nothing():
    mask = torch.ones(1, 1, dtype=torch.bool)
    reward, group = torch.tensor([0.5]), torch.tensor([3])
    for function, expected in (
        (adv.grpo, 0.5),
        (adv.mean_only, 0.5),
        (adv.rloo, 0.0),
        (adv.opo, 0.0),
        (adv.pass_at_k, 0.0),
    ):
        assert function(reward, group, mask).item() == pytest.approx(expected, abs=1e-5)


# --------------------------------------------------------------------------------------- choices


def test_truncated_episodes_bootstrap_only_if_asked():
    rewards, values = torch.zeros(1, 1), torch.tensor([[0.5]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert adv.gae(rewards, values, mask).advantages.item() == -0.5
    cut = adv.gae(rewards, values, mask, gamma=0.5, bootstrap=torch.tensor([2.0]))
    assert cut.advantages.item() == 0.5


def test_where_the_kl_price_goes():
    mask = torch.ones(2, 2, dtype=torch.bool)
    groups, rewards = torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 0.0])
    penalties = torch.tensor([[-0.1, -0.2], [0.0, 0.0]])

    def actual(name, **options):
        algorithm = Algorithm(advantage=name, **options)
        return adv.estimate(algorithm, rewards, groups, mask, penalties=penalties).advantages

    close(actual("rloo"), [[0.7, 0.7], [-0.7, -0.7]])  # in the return
    close(actual("mean_only"), [[0.5 - 0.3, 0.5 - 0.2], [-0.5, -0.5]])  # as its return to go
    ahead = torch.tensor([[1 - 0.3, 1 - 0.2], [0.0, 0.0]])  # in the token rewards
    close(actual("reinforce_pp", normalize_std=False), ahead - ahead.mean())


def test_whitening_is_the_same_split_over_processes():
    """Two processes that exchange sums whiten as one does."""
    values = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    whole = adv.whiten(values, MASK)
    halves = [(values[:2], MASK[:2]), (values[2:], MASK[2:])]
    clean = [part[mask].double() for part, mask in halves]
    mean = torch.cat(clean).mean()

    def exchange(sums):
        if sums.numel() == 2:
            return torch.stack([sum(part.sum() for part in clean), MASK.sum().double()])
        return sum((part - mean).square().sum() for part in clean)

    parts = [adv.whiten(part, mask, reduce=exchange) for part, mask in halves]
    close(torch.cat(parts), whole, 1e-6)
    actual = whole[MASK]
    assert actual.mean().item() == pytest.approx(0, abs=1e-6)
    assert actual.var().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("name", "missing"), [("gae", "values"), ("gdpo", "components")])
def test_what_is_missing_is_named(name, missing):
    with pytest.raises(ConfigurationError, match=f"Expected {missing} for advantage='{name}'"):
        adv.estimate(Algorithm(advantage=name), R, ONE_GROUP, MASK)


def test_what_needs_groups():
    assert {"gae", "reinforce_pp"}.isdisjoint(GROUPED)
    assert {"grpo", "rloo", "reinforce_pp_baseline", "opo", "pass_at_k"} <= GROUPED
