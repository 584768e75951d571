"""Language models behind Stable-Baselines3's PPO, and our rows in its form."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import search_env  # noqa: F401
from search_env.agents.errors import ContextLengthError, ModelMismatchError, NonFiniteError
from search_env.agents.inference.sampling import Sampling
from search_env.agents.models import save_model, tiny_config, with_lora
from search_env.errors import ConfigurationError, RetrievalError
from search_env.rewards import Reward
from search_env.wrappers.staged_reward import VectorStagedReward
from search_env.wrappers.token_window import VectorTokenWindow
from tests.agents.toy_runs import tiny_model

stable_baselines3 = pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, PPO  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor  # noqa: E402

from search_env.agents.bridges.sb3_env import SearchQAVecEnv  # noqa: E402
from search_env.agents.bridges.sb3_policy import CausalLMPolicy, shared_sequences  # noqa: E402
from search_env.agents.examples import sb3_tiny  # noqa: E402

TOY = "SearchQA-Toy-v0"


def make_rows(count: int = 4, *, budgets_end: bool = True, **arguments) -> SearchQAVecEnv:
    envs = gym.make_vec(TOY, num_envs=count, autoreset_mode="SameStep", **arguments)
    return SearchQAVecEnv(envs, budgets_end=budgets_end)


def make_ppo(venv=None, *, model=None, algorithm=PPO, policy=None, **changes) -> PPO:
    venv = venv or make_rows()
    kwargs = {"model": model or tiny_model(), **(policy or {})}
    options = {"n_steps": 12, "seed": 0, "device": "cpu", "policy_kwargs": kwargs, **changes}
    if algorithm is PPO:
        options = {"batch_size": 12 * venv.num_envs, "n_epochs": 1, **options}
    return algorithm(CausalLMPolicy, venv, **options)


def roll_out(ppo: PPO) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Collect one rollout; give the critic something to say before."""
    with torch.no_grad():
        ppo.policy.value_head.weight.normal_(generator=torch.Generator().manual_seed(1))
    ppo._total_timesteps, callback = ppo._setup_learn(48)
    ppo.collect_rollouts(ppo.env, callback, ppo.rollout_buffer, ppo.n_steps)
    samples = next(ppo.rollout_buffer.get(None))
    return samples, samples.actions.long().flatten()


def plain(policy: CausalLMPolicy, obs) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and values of each observation by a forward pass of its own, without this package."""
    logits, values = [], []
    for tokens, length in zip(obs["tokens"], obs["length"].flatten(), strict=True):
        out = policy.model(input_ids=tokens[None, :length].long(), output_hidden_states=True)
        logits.append(out.logits[0, -1])
        values.append(policy.value_head(out.hidden_states[-1][0, -1])[0])
    return torch.stack(logits), torch.stack(values)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12))
def test_sequences_hold_every_observation(observations):
    tokens = np.zeros((len(observations), 5), np.int32)
    for row, ids in zip(tokens, observations, strict=True):
        row[: len(ids)] = ids
    found = shared_sequences(tokens, np.array([len(ids) for ids in observations]))
    restored = {}
    for sequence in found:
        for length, row in zip(sequence.lengths.tolist(), sequence.rows.tolist(), strict=True):
            restored[row] = sequence.tokens[:length].tolist()
    assert [restored[row] for row in range(len(observations))] == observations
    longest = {
        tuple(a) for a in observations if not any(b[: len(a)] == a != b for b in observations)
    }
    assert sorted(tuple(s.tokens.tolist()) for s in found) == sorted(longest)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_k=9, top_p=0.9)])
def test_rollout_update_and_plain_passes_agree(sampling):
    ppo = make_ppo(policy={"sampling": sampling})
    samples, actions = roll_out(ppo)
    values, log_probs, entropies = ppo.policy.evaluate_actions(samples.observations, actions)
    assert values.shape == (48, 1)
    torch.testing.assert_close(log_probs, samples.old_log_prob, rtol=0, atol=1e-5)
    torch.testing.assert_close(values[:, 0], samples.old_values, rtol=0, atol=1e-5)
    logits, expected_values = plain(ppo.policy, samples.observations)
    expected = torch.distributions.Categorical(logits=sampling.log_probs(logits))
    torch.testing.assert_close(log_probs, expected.log_prob(actions), rtol=0, atol=1e-5)
    torch.testing.assert_close(values[:, 0], expected_values, rtol=0, atol=1e-5)
    probs = sampling.log_probs(logits).exp()
    torch.testing.assert_close(entropies, torch.special.entr(probs).sum(1), rtol=0, atol=1e-5)
    again = ppo.policy.get_distribution(samples.observations).log_prob(actions)
    torch.testing.assert_close(again, log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ppo.policy.predict_values(samples.observations), values, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("max_tokens_per_micro_batch", [16384, 20])
def test_gradients_are_those_of_plain_passes(max_tokens_per_micro_batch):
    ppo = make_ppo(policy={"max_tokens_per_micro_batch": max_tokens_per_micro_batch})
    samples, actions = roll_out(ppo)
    weights = torch.randn(3, 48, generator=torch.Generator().manual_seed(2))

    def gradients(values, log_probs, entropies):
        ppo.policy.zero_grad()
        (torch.stack([values.flatten(), log_probs, entropies]) * weights).sum().backward()
        return [parameter.grad.clone() for parameter in ppo.policy.parameters()]

    found = gradients(*ppo.policy.evaluate_actions(samples.observations, actions))
    logits, values = plain(ppo.policy, samples.observations)
    expected = torch.distributions.Categorical(logits=logits)
    for left, right in zip(
        found, gradients(values, expected.log_prob(actions), expected.entropy()), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_a_token_is_forwarded_once():
    ppo = make_ppo()
    ppo.policy.forward({k: torch.as_tensor(v) for k, v in ppo.env.reset().items()})
    engine = ppo.policy._caches["rollout", False]._engine
    engine.timings.reset()
    samples, _ = roll_out(ppo)
    tokens, lengths = (samples.observations[key].numpy() for key in ("tokens", "length"))
    sequences = shared_sequences(tokens, lengths.flatten())
    forwarded = engine.timings.prefill_tokens + engine.timings.decode_tokens
    distinct = sum(len(sequence.tokens) for sequence in sequences)
    # Of rows with the same question one reads the prompt.
    assert forwarded + engine.timings.copied_tokens <= distinct < lengths.sum() / 2


def change_by_optimizer(policy):
    sum(p.square().sum() for p in policy.parameters()).backward()
    policy.optimizer.step()


def change_by_loading(policy):
    policy.load_state_dict({key: 0.9 * value for key, value in policy.state_dict().items()})


def change_by_vector(policy):
    policy.load_from_vector(0.9 * policy.parameters_to_vector())


def change_behind_the_counters(policy):
    for parameter in policy.parameters():
        parameter.data.mul_(0.9)
    policy.set_training_mode(True)


@pytest.mark.parametrize(
    "change",
    [change_by_optimizer, change_by_loading, change_by_vector, change_behind_the_counters],
)
def test_changed_weights_drop_the_caches(change):
    ppo = make_ppo(learning_rate=0.1)
    venv = ppo.env
    obs = venv.reset()
    for step in range(6):
        if step == 4:
            change(ppo.policy)
        tensors = {key: torch.as_tensor(value) for key, value in obs.items()}
        actions, _, log_probs = ppo.policy(tensors)
        logits, _ = plain(ppo.policy, tensors)
        expected = logits.log_softmax(1)[torch.arange(4), actions]
        torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-5)
        obs, *_ = venv.step(actions.numpy())


def test_rows_that_went_another_way_begin_anew():
    policy = make_ppo(make_rows(1)).policy
    for ids in ([5, 6, 7], [5, 9], [5, 9, 1, 2, 3, 4], [5, 9, 1], [5, 9, 1]):
        tokens = torch.zeros(1, 16, dtype=torch.int32)
        tokens[0, : len(ids)] = torch.tensor(ids)
        obs = {"tokens": tokens, "length": torch.tensor([len(ids)])}
        actions, _, log_probs = policy(obs)
        expected = plain(policy, obs)[0].log_softmax(1)[0, actions]
        torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-5)


def test_predicting_takes_the_likeliest_and_leaves_rollouts_alone():
    ppo = make_ppo()
    obs = ppo.env.reset()
    tensors = {key: torch.as_tensor(value) for key, value in obs.items()}
    best = plain(ppo.policy, tensors)[0].argmax(1).numpy()
    ppo.policy(tensors)
    before = ppo.policy._caches["rollout", False]._lengths.copy()
    for _ in range(3):
        np.testing.assert_array_equal(ppo.predict(obs, deterministic=True)[0], best)
    single = {"tokens": obs["tokens"][0], "length": obs["length"][0], "sources": obs["sources"][0]}
    assert ppo.predict(single, deterministic=True)[0] == best[0]
    drawn = [ppo.predict(obs)[0].tolist() for _ in range(8)]
    assert len({tuple(actions) for actions in drawn}) > 1
    np.testing.assert_array_equal(ppo.policy._caches["rollout", False]._lengths, before)
    mean, _ = evaluate_policy(ppo, VecMonitor(make_rows(3)), n_eval_episodes=5)
    assert 0.0 <= mean <= 1.0


def test_the_same_seed_trains_the_same():
    def weights(seed: int) -> torch.Tensor:
        ppo = make_ppo(seed=seed, learning_rate=1e-2, batch_size=16, ent_coef=0.1)
        ppo.learn(96)
        return torch.cat([p.detach().flatten() for p in ppo.policy.parameters()])

    first = weights(3)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


COPY = Reward("copy", ("copied",), lambda t: {"copied": float(t.tokens[3] == t.tokens[1])})
"""Pays for a first token that repeats the question's first key."""


def test_ppo_learns_to_read_the_question():
    rows = VecMonitor(make_rows(64, reward=COPY, max_policy_tokens=1))
    ppo = make_ppo(
        rows,
        model=tiny_model(64),
        learning_rate=3e-3,
        n_steps=4,
        batch_size=256,
        n_epochs=4,
        ent_coef=0.01,
    )
    before, _ = evaluate_policy(ppo, rows, n_eval_episodes=128)
    ppo.learn(16 * 256)
    after, _ = evaluate_policy(ppo, rows, n_eval_episodes=128)
    assert before < 0.3
    assert after > 0.8


def test_the_example_trains_and_scores(capsys, monkeypatch):
    monkeypatch.setattr(sb3_tiny, "TASK", {"max_tokens": 256})
    model = AutoModelForCausalLM.from_config(tiny_config(hidden_size=16, intermediate_size=16))
    ppo = sb3_tiny.make_ppo(model, rows=2, rollout=8, seed=0)
    ppo.learn(16, sb3_tiny.Printer())
    assert "16 tokens" in capsys.readouterr().out
    found = sb3_tiny.score(model, 2)
    assert found.search_rate == 0.0
    assert found.exact_match == 0.0


# peft 0.21 asks models of transformers for what they call otherwise now.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_adapters_are_trained_alone():
    ppo = make_ppo(model=with_lora(tiny_model(), rank=2), ent_coef=0.1, learning_rate=1e-2)
    samples, actions = roll_out(ppo)
    _, log_probs, _ = ppo.policy.evaluate_actions(samples.observations, actions)
    torch.testing.assert_close(log_probs, samples.old_log_prob, rtol=0, atol=1e-5)
    adapters = ppo.policy.model.state_dict()
    first = {key: value.clone() for key, value in adapters.items()}
    ppo.learn(48)
    changed = {key for key in adapters if not torch.equal(adapters[key], first[key])}
    assert changed
    assert all("lora" in key for key in changed)


def test_a2c_takes_it_too():
    ppo = make_ppo(algorithm=A2C, ent_coef=0.1)
    before = ppo.policy.parameters_to_vector()
    ppo.learn(48)
    assert (ppo.policy.parameters_to_vector() != before).any()


@pytest.mark.parametrize("source", ["folder", "model", "config"])
def test_comes_back_from_a_zip(tmp_path, source):
    model = tiny_model()
    given = {
        "folder": lambda: str(save_model(model, tmp_path / "base")),
        "model": lambda: model,
        "config": lambda: model.config,
    }[source]()
    ppo = make_ppo(model=given, policy={"sampling": Sampling(top_k=5)}, learning_rate=1e-2)
    ppo.learn(48)
    ppo.save(tmp_path / "agent.zip")
    obs = make_rows(3).reset()
    loaded = PPO.load(tmp_path / "agent.zip", device="cpu")
    assert loaded.policy.sampling == Sampling(top_k=5)
    for key, value in ppo.policy.state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[key], value)
    np.testing.assert_array_equal(
        ppo.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
    )
    loaded.set_env(make_rows())
    loaded.learn(48)


def test_a_policy_comes_back_alone(tmp_path):
    policy = make_ppo(policy={"max_tokens_per_micro_batch": 99}).policy
    change_by_loading(policy)
    policy.save(tmp_path / "policy.pt")
    loaded = CausalLMPolicy.load(tmp_path / "policy.pt", device="cpu")
    assert loaded.max_tokens_per_micro_batch == 99
    np.testing.assert_array_equal(loaded.parameters_to_vector(), policy.parameters_to_vector())


@pytest.mark.parametrize(
    ("observed", "policy", "error", "words"),
    [
        ({}, {"model": tiny_model(vocabulary=23)}, ModelMismatchError, "samples 23"),
        ({}, {"model": tiny_model(vocabulary=25)}, ModelMismatchError, "vocab_size=25"),
        ({"max_tokens": 64}, {"model": tiny_model()}, ContextLengthError, "at most 32"),
        ({}, {"model": tiny_model(), "use_sde": True}, ConfigurationError, "use_sde"),
        (
            {},
            {"model": tiny_model(), "max_tokens_per_micro_batch": 0},
            ConfigurationError,
            "max_tokens_per_micro_batch",
        ),
        (
            {},
            {"model": tiny_model(), "sampling": Sampling(temperature=0.0)},
            ConfigurationError,
            "temperature",
        ),
    ],
)
def test_what_does_not_fit_is_named(observed, policy, error, words):
    rows = make_rows(1, **observed)
    with pytest.raises(error, match=words):
        CausalLMPolicy(rows.observation_space, rows.action_space, lambda _: 1e-3, **policy)


@pytest.mark.parametrize(
    "observed",
    [
        spaces.Box(0, 23, (16,), np.int32),
        spaces.Dict(tokens=spaces.Box(0, 1, (16,), np.float32), length=spaces.Discrete(17)),
        spaces.Dict(tokens=spaces.Box(0, 23, (16,), np.int32)),
    ],
)
def test_other_observations_are_refused(observed):
    with pytest.raises(ConfigurationError, match="Expected the observations of SearchQAEnv"):
        CausalLMPolicy(observed, spaces.Discrete(24), lambda _: 1e-3, model=tiny_model())


def test_other_actions_are_refused():
    observed = make_rows(1).observation_space
    with pytest.raises(ConfigurationError, match="Discrete"):
        CausalLMPolicy(observed, spaces.MultiBinary(24), lambda _: 1e-3, model=tiny_model())


def test_weights_that_are_not_finite_are_named_and_rows_recover():
    ppo = make_ppo()
    obs = {key: torch.as_tensor(value) for key, value in ppo.env.reset().items()}
    good = {key: value.clone() for key, value in ppo.policy.state_dict().items()}
    ppo.policy.load_state_dict({key: value * torch.nan for key, value in good.items()})
    with pytest.raises(NonFiniteError):
        ppo.policy(obs)
    ppo.policy.load_state_dict(good)
    actions, _, log_probs = ppo.policy(obs)
    expected = plain(ppo.policy, obs)[0].log_softmax(1)[torch.arange(4), actions]
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**20))
def test_rows_are_those_of_single_environments(seed):
    ours = make_rows(3, budgets_end=False, max_policy_tokens=9)
    theirs = DummyVecEnv([lambda: gym.make(TOY, max_policy_tokens=9)] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for venv in (ours, theirs):
        venv.seed(seed)
    assert_same(ours.reset(), theirs.reset())
    random, kept = np.random.default_rng(seed), []
    for _ in range(40):
        actions = random.choice([0, 5, 6, 7, 8, 13], 3)
        (mine, *rest), (other, *others) = ours.step(actions), theirs.step(actions)
        assert_same([mine, *rest], [other, *others])
        assert_same(ours.reset_infos, theirs.reset_infos)
        kept.append((mine, other))
    for mine, other in kept:  # nothing of the past has changed since
        assert_same(mine, other)


def assert_same(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    else:
        np.testing.assert_array_equal(left, right)
        assert np.asarray(left).dtype == np.asarray(right).dtype


@pytest.mark.parametrize("budgets_end", [True, False])
def test_spent_budgets(budgets_end):
    rows = make_rows(2, budgets_end=budgets_end, max_policy_tokens=2)
    rows.reset()
    rows.step(np.array([5, 5]))
    _, _, dones, infos = rows.step(np.array([5, 0]))
    assert dones.all()
    assert [info["stop_reason"] for info in infos] == ["max_policy_tokens", "end_of_sequence"]
    assert [info["TimeLimit.truncated"] for info in infos] == [not budgets_end, False]


def test_a_spent_budget_is_bootstrapped_only_if_it_is_no_end():
    for budgets_end in (True, False):
        ppo = make_ppo(make_rows(4, budgets_end=budgets_end, max_policy_tokens=1))
        with torch.no_grad():
            ppo.policy.value_head.bias.fill_(2.0)
        roll_out(ppo)
        last = ppo.rollout_buffer.rewards
        assert bool((last != 0).any()) is not budgets_end


class Broken:
    """A retriever that always fails."""

    def search(self, queries, k):
        raise RetrievalError("gone")


def test_an_episode_that_broke_off_is_always_truncated():
    rows = make_rows(1, retriever=Broken(), on_retrieval_error="truncate")
    tokenizer = rows.get_attr("tokenizer")[0]
    rows.reset()
    for action in tokenizer.encode("<q>key1 key2</q>"):
        _, _, dones, infos = rows.step(np.array([action]))
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["valid"] is False


def test_attributes_and_methods_of_all_rows():
    envs = gym.make_vec(TOY, num_envs=3, autoreset_mode="SameStep", render_mode="rgb_array")
    rows = SearchQAVecEnv(VectorStagedReward(envs, after_episodes=None))
    rows.set_options({"index": 5})
    rows.reset()
    assert {info["question_id"] for info in rows.reset_infos} == {envs.unwrapped.questions[5].id}
    assert rows.get_attr("group_size", indices=[0, 2]) == [1, 1]
    assert not rows.has_attr("nothing")
    rows.env_method("set_phase", 1)
    assert rows.get_attr("phase") == [1, 1, 1]
    masks = np.stack(rows.env_method("action_masks"))
    np.testing.assert_array_equal(masks, envs.unwrapped.action_masks())
    rows.set_attr("render_row", 1)
    assert rows.get_attr("render_row") == [1, 1, 1]
    assert envs.unwrapped.render_row == 1
    assert rows.render().ndim == 3
    assert rows.env_is_wrapped(gym.Wrapper, [1]) == [False]
    with pytest.raises(ConfigurationError, match="for all rows"):
        rows.set_attr("render_row", 1, indices=[0])
    with pytest.raises(ConfigurationError, match="for all rows"):
        rows.env_method("set_phase", 0, indices=0)
    rows.close()


def test_rows_serve_other_policies():
    envs = gym.make_vec(TOY, num_envs=2, autoreset_mode="SameStep", copy=False)
    rows = SearchQAVecEnv(VectorTokenWindow(envs, 3, keep="last"))
    PPO("MlpPolicy", rows, n_steps=8, batch_size=16, device="cpu", seed=0).learn(32)


def test_other_autoreset_modes_are_refused():
    with pytest.raises(ConfigurationError, match="SameStep"):
        SearchQAVecEnv(gym.make_vec(TOY, num_envs=2))
