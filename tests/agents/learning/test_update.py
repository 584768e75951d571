from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from search_env.agents.algorithms.advantages import estimate
from search_env.agents.algorithms.config import Algorithm
from search_env.agents.algorithms.presets import PRESETS
from search_env.agents.errors import NonFiniteError
from search_env.agents.learning.distributed import Ranks
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.learning.update import update
from search_env.agents.types import Example
from search_env.types import Source
from tests.agents.toy_runs import tiny_model, toy_trajectories

PLAIN = Algorithm(advantage="grpo", surrogate="reinforce", aggregation="token_mean", group_size=4)


@pytest.fixture(scope="module")
def episodes():
    return toy_trajectories(tiny_model())


class _Recorder(Learner):
    """Keeps each step's gradient and takes no step."""

    def step(self) -> float:
        gradients = {
            n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None
        }
        self.gradients = [*getattr(self, "gradients", []), gradients]
        self.clear()
        return math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))


def _gradient(trajectories, algorithm, **options):
    learner = _Recorder(
        tiny_model(),
        reference=algorithm.uses_reference,
        value_head=algorithm.uses_values,
        **options,
    )
    metrics = update(learner, trajectories, algorithm)
    return learner.gradients, metrics


def _assert_same(one, other, tolerance=1e-6):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=tolerance)


def _independent_gradient(trajectories, weights_of):
    """REINFORCE one episode at a time, by transformers' own forward pass."""
    model = tiny_model()
    for trajectory, weight in zip(trajectories, weights_of, strict=True):
        tokens = torch.from_numpy(trajectory.tokens).long()[None]
        log_probs = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        chosen = log_probs.gather(-1, tokens[0, 1:, None])[:, 0]
        policy = torch.from_numpy(trajectory.policy[1:])
        (-weight * chosen[policy].sum()).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_the_gradient_is_that_of_plain_reinforce(episodes):
    rewards = np.array([t.reward for t in episodes]).reshape(-1, 4)
    centred = (rewards - rewards.mean(1, keepdims=True)) / (
        rewards.std(1, ddof=1, keepdims=True) + 1e-6
    )
    tokens = sum(t.num_policy_tokens for t in episodes)
    expected = _independent_gradient(episodes, centred.ravel() / tokens)
    for surrogate in ("reinforce", "ppo", "cispo"):  # all the same where the ratio is 1
        algorithm = replace(PLAIN, surrogate=surrogate, eps_high=5.0)
        gradients, metrics = _gradient(episodes, algorithm, max_tokens_per_micro_batch=48)
        _assert_same(gradients[0], expected)
        assert metrics["policy/updates"] == 1
        assert metrics["policy/drift_max"] < 1e-5
        assert metrics["policy/clip_fraction"] == 0


def test_leaving_out_what_has_no_advantage_is_exact(episodes):
    equal = [replace(t, reward=1.0) if t.group < 3 else t for t in episodes]
    some, metrics = _gradient(equal, PLAIN)
    # A price that is next to nothing makes every row take part.
    everything, all_metrics = _gradient(equal, replace(PLAIN, entropy_coefficient=1e-30))
    _assert_same(some[0], everything[0], 1e-7)
    assert metrics["policy/loss"] == pytest.approx(all_metrics["policy/loss"], abs=1e-6)


def test_only_the_policys_tokens_count(episodes):
    spoilt = []
    for trajectory in episodes:
        log_probs = np.where(trajectory.policy, trajectory.log_probs, 1e9).astype(np.float32)
        spoilt.append(replace(trajectory, log_probs=log_probs))
    algorithm = replace(PLAIN, importance_correction="tis", minibatch=8)
    for one, other in zip(
        _gradient(episodes, algorithm)[0], _gradient(spoilt, algorithm)[0], strict=True
    ):
        _assert_same(one, other, 0.0)


def test_minibatches_add_up_to_the_whole(episodes):
    """Without a step in between, equal minibatches of sequence means average to one batch."""
    algorithm = replace(PLAIN, aggregation="seq_mean_token_sum")
    whole = _gradient(episodes, algorithm)[0][0]
    parts, metrics = _gradient(episodes, replace(algorithm, minibatch=5))
    assert len(parts) == 4
    assert metrics["policy/updates"] == 4
    summed = {name: sum(part[name] for part in parts) / 4 for name in whole}
    _assert_same(whole, summed)


def test_later_epochs_clip(episodes):
    learner = Learner(tiny_model(), OptimizerConfig(learning_rate=0.03))
    metrics = update(learner, episodes, replace(PLAIN, surrogate="ppo", epochs=4))
    assert learner.updates == 4
    assert metrics["policy/clip_fraction"] > 0
    assert metrics["policy/update_kl"] > 0
    assert metrics["policy/drift_max"] < 1e-5  # measured before the first update


def test_nothing_to_learn_changes_nothing(episodes):
    learner = Learner(tiny_model(), OptimizerConfig(learning_rate=0.1, weight_decay=0.1))
    equal = [replace(t, reward=0.5) for t in episodes]
    metrics = update(learner, equal, PLAIN)
    assert learner.updates == 0
    assert math.isnan(metrics["policy/grad_norm"])
    assert metrics["policy/drift_max"] < 1e-5  # measured all the same
    assert update(learner, [], PLAIN)["policy/updates"] == 0


@pytest.mark.parametrize(("size", "scored"), [(1, 8), (3, 3)])
def test_the_drift_of_nothing_to_learn_is_of_a_few_episodes(episodes, monkeypatch, size, scored):
    learner, counts = Learner(tiny_model()), []
    score = learner.score

    def counted(trajectories, **options):
        counts.append(len(trajectories))
        return score(trajectories, **options)

    monkeypatch.setattr(learner, "score", counted)
    for name, alone in (("sum", list), ("gather", lambda value: [value])):
        monkeypatch.setattr(Ranks, name, lambda _, value, alone=alone: alone(value))
    learner.ranks = Ranks(0, size)
    update(learner, [replace(t, reward=0.5) for t in episodes], PLAIN)
    assert counts == [scored]


def test_overlong_episodes_are_left_out(episodes):
    algorithm = replace(PLAIN, overlong_filter=True)
    kept = [t.truncated for t in episodes]
    assert 0 < sum(kept) < len(kept)
    spoilt = [
        replace(t, log_probs=np.full_like(t.log_probs, np.nan)) if t.truncated else t
        for t in episodes
    ]
    _assert_same(_gradient(episodes, algorithm)[0][0], _gradient(spoilt, algorithm)[0][0], 0.0)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_learns(episodes, name):
    algorithm = replace(PRESETS[name], prompts=5, group_size=4, minibatch=10, learning_rate=1e-3)
    learner = Learner(
        tiny_model(),
        OptimizerConfig(learning_rate=1e-3),
        reference=algorithm.uses_reference,
        value_head=algorithm.uses_values,
    )
    before = {n: w.clone() for n, w in learner.weights().items()}
    metrics = update(learner, episodes, algorithm)
    assert learner.updates == 2
    assert any(not torch.equal(w, before[n]) for n, w in learner.weights().items())
    assert all(torch.isfinite(w).all() for w in learner.weights().values())
    assert metrics["policy/drift_max"] < 1e-5
    assert ("policy/kl" in metrics) == algorithm.uses_reference
    if algorithm.uses_reference:
        assert metrics["policy/kl"] == pytest.approx(0.0, abs=1e-6)  # of the rollouts' policy
    assert ("policy/value_loss" in metrics) == algorithm.uses_values


def test_gdpo_sees_the_parts(episodes):
    gradients, _ = _gradient(episodes, replace(PLAIN, advantage="gdpo"))
    mask = torch.ones(len(episodes), max(t.num_policy_tokens for t in episodes), dtype=torch.bool)
    for i, t in enumerate(episodes):
        mask[i, t.num_policy_tokens :] = False
    estimates = estimate(
        replace(PLAIN, advantage="gdpo"),
        torch.tensor([t.reward for t in episodes]),
        torch.tensor([t.group for t in episodes]),
        mask,
        components=torch.tensor([[t.reward_parts["a"], t.reward_parts["b"]] for t in episodes]),
    )
    tokens = float(mask.sum())
    weights = (estimates.advantages[:, 0] / tokens).tolist()
    _assert_same(gradients[0], _independent_gradient(episodes, weights))


def test_the_critic_learns_the_return(episodes):
    model = tiny_model()
    learner = Learner(model, OptimizerConfig(learning_rate=0.03), value_head=True)
    algorithm = replace(
        PRESETS["ppo"],
        prompts=20,
        group_size=1,
        minibatch=None,
        kl="none",
        kl_coefficient=0.0,
        value_clip=None,
        epochs=12,
        value_coefficient=1.0,
    )
    paid = [replace(t, reward=0.7) for t in episodes]
    first = update(learner, paid, algorithm)["policy/value_loss"]
    last = update(learner, paid, algorithm)["policy/value_loss"]
    assert last < 0.5 * first


def test_nan_is_named_and_nothing_is_changed(episodes):
    learner = Learner(tiny_model())
    before = learner.state_dict()
    bad = [replace(t, reward=math.nan) if i == 3 else t for i, t in enumerate(episodes)]
    with pytest.raises(NonFiniteError, match="finite loss, got nan"):
        update(learner, bad, PLAIN)
    after = learner.state_dict()
    assert after["updates"] == 0
    for name, weight in before["weights"].items():
        torch.testing.assert_close(after["weights"][name], weight, rtol=0, atol=0)
    update(learner, episodes, PLAIN)  # and goes on


class _Half:
    """Two ranks played one after the other: sums over ranks are added up beforehand."""

    def __init__(self, rank, totals):
        self.rank, self.size, self.totals, self.calls = rank, 2, totals, 0

    def sum(self, numbers):
        self.calls += 1
        seen = self.totals.setdefault(self.calls, {})
        seen[self.rank] = list(numbers)
        return [sum(column) for column in zip(*seen.values(), strict=True)]

    def gather(self, value):
        return [value]

    def sum_gradients(self, parameters):
        pass


def test_two_shares_add_up_to_one_set(episodes):
    algorithm = replace(PLAIN, advantage="reinforce_pp_baseline")
    whole = _gradient(episodes, algorithm)[0][0]
    shares = [[t for t in episodes if t.group % 2 == rank] for rank in range(2)]
    totals: dict[int, dict[int, list[float]]] = {}
    parts = []
    for _ in range(3):  # sums that later sums depend on settle one after the other
        parts = [
            _gradient(shares[rank], algorithm, ranks=_Half(rank, totals))[0][0] for rank in (0, 1)
        ]
    _assert_same(whole, {name: parts[0][name] + parts[1][name] for name in whole})


def test_without_the_mask_documents_are_pushed_like_the_policy_s_own_tokens(episodes):
    assert any((t.sources == Source.RETRIEVED).any() for t in episodes)
    posing = [
        replace(t, sources=np.where(t.sources == Source.RETRIEVED, Source.POLICY, t.sources))
        for t in episodes
    ]
    expected, _ = _gradient(posing, PLAIN)
    gradients, metrics = _gradient(episodes, replace(PLAIN, mask_retrieved=False))
    _assert_same(gradients[0], expected[0])
    assert metrics["policy/drift_max"] < 1e-5  # over tokens that were drawn
    masked, _ = _gradient(episodes, PLAIN)
    assert any(not torch.allclose(masked[0][n], gradients[0][n], atol=1e-6) for n in masked[0])


@pytest.mark.parametrize("correction", ["tis", "sequence_tis", "icepop"])
def test_without_the_mask_only_what_was_drawn_is_corrected(episodes, correction):
    """Documents have no log-probability of a rollout; their weight is 1 and not NaN."""
    bare = replace(PLAIN, mask_retrieved=False)
    plain, _ = _gradient(episodes, bare)
    corrected, metrics = _gradient(episodes, replace(bare, importance_correction=correction))
    assert np.isfinite(metrics["policy/loss"])
    _assert_same(corrected[0], plain[0])  # in float32 both say the same of every token drawn


# Examples to imitate beside the policy loss.

MU = 0.1


@pytest.fixture(scope="module")
def paths(episodes):
    """Examples with weights of their own: the policy's tokens of some episodes, one token each."""
    return [t.example() for t in episodes[:5]] + [
        Example(t.tokens, (np.arange(len(t.tokens)) == 3).astype(np.float32)) for t in episodes[5:7]
    ]


def _imitated(paths):
    """Return the mean of -log p over the weighted tokens, and its gradient, by transformers."""
    model, total = tiny_model(), sum(float(p.weights[1:].sum()) for p in paths)
    loss = torch.zeros(())
    for path in paths:
        tokens = torch.from_numpy(path.tokens).long()[None]
        log_probs = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        chosen = log_probs.gather(-1, tokens[0, 1:, None])[:, 0]
        loss = loss - (chosen * torch.from_numpy(path.weights[1:])).sum() / total
    loss.backward()
    return float(loss.detach()), {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }


def _added(one, other, weight):
    names = one.keys() | other.keys()
    return {n: one.get(n, 0.0) + weight * other.get(n, torch.zeros(())) for n in names}


def _with_paths(trajectories, algorithm, paths, weight=MU, **options):
    learner = _Recorder(tiny_model(), **options)
    metrics = update(learner, trajectories, algorithm, examples=paths, example_weight=weight)
    return getattr(learner, "gradients", []), metrics


def test_the_loss_of_examples_joins_the_policys(episodes, paths):
    rewards = np.array([t.reward for t in episodes]).reshape(-1, 4)
    centred = (rewards - rewards.mean(1, keepdims=True)) / (
        rewards.std(1, ddof=1, keepdims=True) + 1e-6
    )
    tokens = sum(t.num_policy_tokens for t in episodes)
    policy = _independent_gradient(episodes, centred.ravel() / tokens)
    loss, imitation = _imitated(paths)
    (got,), metrics = _with_paths(episodes, PLAIN, paths, max_tokens_per_micro_batch=48)
    _assert_same(got, _added(policy, imitation, MU))
    plain, plain_metrics = _gradient(episodes, PLAIN)
    assert metrics["memory/loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["memory/examples"] == len(paths)
    assert metrics["policy/loss"] == pytest.approx(plain_metrics["policy/loss"], abs=1e-7)
    assert not any(name.startswith("memory/") for name in plain_metrics)
    (unweighted,), none = _with_paths(episodes, PLAIN, paths, weight=0.0)
    _assert_same(unweighted, plain[0], 0.0)
    assert math.isnan(none["memory/loss"])


def test_every_step_has_a_part_of_the_examples(episodes, paths):
    algorithm = replace(PLAIN, minibatch=5, epochs=2)
    plain, _ = _gradient(episodes, algorithm)
    got, metrics = _with_paths(episodes, algorithm, paths)
    assert len(plain) == len(got) == 8
    # Four parts an epoch, of two examples or one; the order is the same in both epochs.
    order = np.random.default_rng((0, 1)).permutation(len(paths))
    losses, tokens = [], []
    for step, part in enumerate(np.array_split(order, 4) * 2):
        loss, imitation = _imitated([paths[i] for i in part])
        _assert_same(got[step], _added(plain[step], imitation, MU))
        losses.append(loss)
        tokens.append(sum(float(paths[i].weights[1:].sum()) for i in part))
    assert metrics["memory/loss"] == pytest.approx(np.average(losses, weights=tokens), rel=1e-5)


def test_examples_alone_are_a_step(episodes, paths):
    equal = [replace(t, reward=0.5) for t in episodes]
    (got,), metrics = _with_paths(equal, PLAIN, paths)
    _assert_same(got, {n: MU * g for n, g in _imitated(paths)[1].items()})
    assert metrics["policy/updates"] == 1
    assert math.isnan(metrics["policy/loss"])
    none, metrics = _with_paths(equal, PLAIN, [])
    assert none == []
    assert metrics["memory/examples"] == 0


def test_two_ranks_share_the_mean_over_examples(episodes, paths):
    whole, _ = _with_paths(episodes, PLAIN, paths)
    episodes_of = [[t for t in episodes if t.group % 2 == rank] for rank in range(2)]
    paths_of = [paths, []]  # all on one rank, which the mean may not depend on
    totals: dict[int, dict[int, list[float]]] = {}
    parts = []
    for _ in range(3):
        parts = [
            _with_paths(episodes_of[r], PLAIN, paths_of[r], ranks=_Half(r, totals))[0][0]
            for r in (0, 1)
        ]
    _assert_same(whole[0], {name: parts[0][name] + parts[1][name] for name in whole[0]})
