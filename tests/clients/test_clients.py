"""What users of other libraries write to train or record on these environments."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import search_env  # noqa: F401 - registers the ids
from search_env.wrappers import TokenWindow, VectorTokenWindow

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, when they are imported
TOY = "SearchQA-Toy-v0"


def needed(name: str):
    """Return a library, or skip where it cannot be imported."""
    return pytest.importorskip(name, exc_type=ImportError)


def window(**arguments) -> gym.Env:
    return TokenWindow(gym.make(TOY, **arguments))


def test_stable_baselines3():
    sb3 = needed("stable_baselines3")
    ppo = sb3.PPO("MlpPolicy", window(), n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    ppo.learn(64)
    assert ppo.num_timesteps == 64


def test_sb3_contrib_maskable_ppo():
    contrib = needed("sb3_contrib")
    ppo = contrib.MaskablePPO("MlpPolicy", window(), n_steps=32, batch_size=32, n_epochs=1)
    ppo.learn(64)
    env = ppo.get_env()
    masks = np.stack(env.env_method("action_masks"))
    action, _ = ppo.predict(env.reset(), action_masks=masks)
    assert masks[0][action[0]]


def test_sb3_contrib_recurrent_ppo():
    """Its LSTM refuses the NumPy number that a MultiDiscrete gives it as size: pass one-hot."""
    contrib = needed("sb3_contrib")
    env = gym.wrappers.FlattenObservation(window())
    ppo = contrib.RecurrentPPO("MlpLstmPolicy", env, n_steps=32, batch_size=32, n_epochs=1)
    ppo.learn(64)
    assert ppo.num_timesteps == 64


def test_cleanrl_style_loop():
    """A loop over the vector environment with PyTorch alone: one policy-gradient step."""
    torch = needed("torch")
    envs = VectorTokenWindow(gym.make_vec(TOY, num_envs=4, autoreset_mode="SameStep"))
    places, n = envs.single_observation_space.shape[0], envs.single_action_space.n
    actor = torch.nn.Sequential(
        torch.nn.Embedding(n + 1, 8), torch.nn.Flatten(), torch.nn.Linear(8 * places, n)
    )
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
    observations, _ = envs.reset(seed=0)
    losses, episodes = [], 0
    for _ in range(32):
        policy = torch.distributions.Categorical(logits=actor(torch.as_tensor(observations)))
        actions = policy.sample()
        observations, rewards, terminated, truncated, _ = envs.step(actions.numpy())
        losses.append(-(policy.log_prob(actions) * torch.as_tensor(rewards)).mean())
        episodes += int((terminated | truncated).sum())
    loss = torch.stack(losses).mean()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert episodes
    envs.close()


def test_torchrl():
    """A collector over the environment, advantages and a step of PPO's loss."""
    needed("torchrl")
    import torch
    from tensordict.nn import TensorDictModule as Module
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper
    from torchrl.modules import ProbabilisticActor
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE

    env = GymWrapper(gym.make(TOY, stable_infos=True), categorical_action_encoding=True)

    def network(outputs: int) -> torch.nn.Module:
        layers = torch.nn.Embedding(24, 8), torch.nn.Flatten(-2), torch.nn.Linear(8 * 16, outputs)
        return torch.nn.Sequential(*layers)

    actor = ProbabilisticActor(
        Module(network(24), ["tokens"], ["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = Module(network(1), ["tokens"], ["state_value"])
    collector = Collector(env, actor, frames_per_batch=64, total_frames=64)
    (batch,) = collector
    GAE(gamma=1.0, lmbda=0.95, value_network=critic)(batch)
    losses = ClipPPOLoss(actor, critic)(batch)
    loss = losses["loss_objective"] + losses["loss_critic"]
    loss.backward()
    assert torch.isfinite(loss)
    collector.shutdown()


def test_minari(tmp_path, monkeypatch):
    """A dataset with infos: every info has every key, as ``stable_infos`` promises."""
    minari = needed("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make(TOY, stable_infos=True), record_infos=True)
    for seed in range(3):
        env.reset(seed=seed)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
    dataset = env.create_dataset("search-qa/toy-v0", algorithm_name="random")
    episodes = list(dataset.iterate_episodes())
    assert len(episodes) == 3
    assert all(len(episode.infos["num_searches"]) for episode in episodes)


def test_skrl():
    """The environment behind skrl's wrapper: some steps with actions of its own space."""
    needed("skrl")
    import torch
    from skrl.envs.wrappers.torch import wrap_env

    env = wrap_env(window(), wrapper="gymnasium")
    env.reset()
    over = 0
    for _ in range(40):
        action = torch.as_tensor([[env.action_space.sample()]])
        _, reward, terminated, truncated, _ = env.step(action)
        assert torch.isfinite(reward).all()
        if terminated.any() or truncated.any():
            over += 1
            env.reset()
    assert over


def test_tianshou():
    """Tianshou's vector environments collect episodes of a random policy."""
    needed("tianshou")
    from tianshou.env import DummyVectorEnv

    envs = DummyVectorEnv([window for _ in range(3)])
    observations, _ = envs.reset()
    assert len(observations) == 3
    ended = 0
    for _ in range(40):
        actions = np.array([space.sample() for space in envs.action_space])
        _, _, terminated, truncated, _ = envs.step(actions)
        over = np.flatnonzero(terminated | truncated)
        ended += len(over)
        if len(over):
            envs.reset(over)
    assert ended
    envs.close()
