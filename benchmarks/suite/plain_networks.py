"""Two algorithms from elsewhere, through the same door: SB3's PPO, and PPO in one function.

Both see the last tokens as categories, as programs for plain networks do, and begin with the base's
behaviour, which they imitate first.

    search-env suite search_env.benchmarks.suite.plain_networks:sb3_ppo
    search-env suite search_env.benchmarks.suite.plain_networks:cleanrl_ppo
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_env.benchmarks.suite.base import Demonstrations
from search_env.benchmarks.suite.task import Act, BudgetSpentError, Observation, Task

WINDOW = 32  # last tokens: of every experiment, what the next token depends on
CLONING = {"epochs": 8, "batch": 256, "learning_rate": 1e-3}


def last_tokens(tokens: Any, lengths: Any, empty: int) -> NDArray[np.int64]:
    """Return the last tokens before each length, ``(N, WINDOW)``; ``empty`` fills the front.

    Example:
        >>> last_tokens(np.array([[5, 6, 7, 0]]), np.array([3]), 9)[0, -5:].tolist()
        [9, 9, 5, 6, 7]
    """
    places = np.ravel(lengths)[:, None] - WINDOW + np.arange(WINDOW)  # (N, WINDOW)
    rows = np.arange(len(places))[:, None]
    return np.where(places < 0, empty, np.asarray(tokens)[rows, places.clip(0)]).astype(np.int64)


def imitate(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    network: nn.Module,
    episodes: Demonstrations,
    empty: int,
) -> None:
    """Train a network on what the base wrote; ``loss_of`` takes windows and actions."""
    rows, places = episodes.written.nonzero()
    windows = torch.as_tensor(last_tokens(episodes.tokens[rows], places, empty))
    actions = torch.as_tensor(episodes.tokens[rows, places])
    optimizer = torch.optim.Adam(network.parameters(), CLONING["learning_rate"])
    for _ in range(int(CLONING["epochs"])):
        for chosen in torch.split(torch.randperm(len(actions)), int(CLONING["batch"])):
            loss = loss_of(windows[chosen], actions[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def sb3_ppo(task: Task) -> Act:
    """Train Stable-Baselines3's PPO with its ``MlpPolicy``."""
    import gymnasium as gym
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    from search_env.wrappers.token_window import TokenWindow

    class Window(gym.ObservationWrapper[Any, Any, Any]):
        """The last tokens, however short an episode may be."""

        def __init__(self) -> None:
            super().__init__(TokenWindow(task.make_env()))
            self.observation_space = gym.spaces.MultiDiscrete(np.full(WINDOW, task.num_actions + 1))

        def observation(self, observation: Any) -> NDArray[np.int64]:
            length = int((observation != task.num_actions).sum())
            window: NDArray[np.int64] = last_tokens(observation[None], [length], task.num_actions)[
                0
            ]
            return window

    model = PPO(
        "MlpPolicy",
        DummyVecEnv([Window] * 16),
        n_steps=max(32, task.experiment.batch),
        batch_size=256,
        n_epochs=4,
        gamma=1.0,
        learning_rate=3e-4,
        policy_kwargs={"net_arch": [128, 128], "activation_fn": nn.ReLU},
        seed=task.seed,
        device="cpu",
    )

    def loss(windows: Tensor, actions: Tensor) -> Tensor:
        return -model.policy.evaluate_actions(windows, actions)[1].mean()

    imitate(loss, model.policy, task.demonstrations, task.num_actions)
    with contextlib.suppress(BudgetSpentError):
        model.learn(10 * task.experiment.budget)

    def act(observation: Observation) -> NDArray[np.int64]:
        seen = last_tokens(observation["tokens"], observation["length"], task.num_actions)
        return np.asarray(model.predict(seen, deterministic=True)[0], np.int64)

    return act


class Network(nn.Module):
    """An actor and a critic over one-hot tokens."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.categories = num_actions + 1

        def layers(outputs: int) -> nn.Sequential:
            wide = (
                nn.Linear(WINDOW * self.categories, 128),
                nn.ReLU(),
                nn.Linear(128, 128),
                nn.ReLU(),
            )
            return nn.Sequential(*wide, nn.Linear(128, outputs))

        self.actor, self.critic = layers(num_actions), layers(1)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``(N, V)`` and values ``(N,)`` of windows ``(N, WINDOW)``."""
        x = nn.functional.one_hot(windows, self.categories).flatten(1).float()
        return self.actor(x).log_softmax(-1), self.critic(x).squeeze(1)


def cleanrl_ppo(task: Task) -> Act:
    """Train PPO in the manner of CleanRL: one function, to be read from top to bottom."""
    torch.manual_seed(task.seed)
    empty, rows, steps, rate = task.num_actions, 64, 32, 1e-3
    network = Network(task.num_actions)

    def imitation(windows: Tensor, actions: Tensor) -> Tensor:
        return nn.functional.nll_loss(network(windows)[0], actions)

    imitate(imitation, network, task.demonstrations, empty)
    optimizer = torch.optim.Adam(network.parameters(), rate, eps=1e-5)
    envs = task.make_vec(rows, autoreset_mode="SameStep")
    observation, _ = envs.reset(seed=1000 * task.seed)
    window = torch.as_tensor(last_tokens(observation["tokens"], observation["length"], empty))
    try:
        while True:
            windows, actions, log_probs, values, rewards, ends = [], [], [], [], [], []
            for _ in range(steps):  # play
                with torch.no_grad():
                    logits, value = network(window)
                action = torch.multinomial(logits.exp(), 1).squeeze(1)
                observation, paid, over, cut, _ = envs.step(action.numpy())
                windows.append(window)
                actions.append(action)
                log_probs.append(logits.gather(1, action[:, None]).squeeze(1))
                values.append(value)
                rewards.append(torch.as_tensor(paid, dtype=torch.float32))
                ends.append(torch.as_tensor(over | cut, dtype=torch.float32))
                lengths = observation["length"]
                window = torch.as_tensor(last_tokens(observation["tokens"], lengths, empty))
            with torch.no_grad():
                following = network(window)[1]
            later = torch.zeros(rows)
            gains: list[Tensor] = []
            for t in reversed(range(steps)):  # generalised advantages, lambda .95
                error = rewards[t] + (1 - ends[t]) * following - values[t]
                later = error + 0.95 * (1 - ends[t]) * later
                gains.insert(0, later)
                following = values[t]
            flat = [torch.cat(x) for x in (windows, actions, log_probs, values, gains)]
            for _ in range(4):  # learn
                for chosen in torch.split(torch.randperm(rows * steps), 256):
                    seen, did, old, was, gain = (x[chosen] for x in flat)
                    logits, value = network(seen)
                    ratio = (logits.gather(1, did[:, None]).squeeze(1) - old).exp()
                    scaled = (gain - gain.mean()) / (gain.std() + 1e-8)
                    policy = -torch.min(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled).mean()
                    critic = 0.5 * (value - was - gain).square().mean()
                    optimizer.zero_grad()
                    (policy + critic).backward()
                    nn.utils.clip_grad_norm_(network.parameters(), 0.5)
                    optimizer.step()
    except BudgetSpentError:
        pass

    def act(observation: Observation) -> NDArray[np.int64]:
        seen = last_tokens(observation["tokens"], observation["length"], empty)
        with torch.no_grad():
            chosen: NDArray[np.int64] = network(torch.as_tensor(seen))[0].argmax(1).numpy()
        return chosen

    return act
