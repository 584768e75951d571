"""The toy is really learned: a network that imitates the oracle searches on splits it never saw.

Between splits every pair of keys has another value, so only copying (keys into the query, value
into the answer) carries over. A network that is not shown searches must stay near the 1/8 of a
guess.
"""

from __future__ import annotations

import numpy as np
import pytest

import search_env
from search_env.agents.baselines.scripted import make_baseline, scripted
from search_env.evaluation.evaluate import evaluate
from search_env.protocols.tagged_text import answer_text

torch = pytest.importorskip("torch")


def toy(split: str) -> search_env.SearchQAEnv:
    return search_env.SearchQAEnv(
        dataset="toy", protocol="toy", tokenizer="toy", max_tokens=16, split=split
    )


def features(observation) -> torch.Tensor:
    """One-hot tokens at each position (none beyond the length), one-hot length."""
    tokens = torch.from_numpy(observation["tokens"]).long()
    hot = torch.nn.functional.one_hot(tokens, 24).float()
    hot[observation["length"] :] = 0
    length = torch.nn.functional.one_hot(torch.tensor(observation["length"]), 17).float()
    return torch.cat([hot.flatten(), length])


class Recorder:
    """Plays another agent and keeps what it saw and did."""

    def __init__(self, inner) -> None:
        self.inner, self.seen, self.did = inner, [], []

    def begin(self, env, observation) -> None:
        self.inner.begin(env, observation)

    def act(self, observation) -> int:
        action = self.inner.act(observation)
        self.seen.append(features(observation))
        self.did.append(action)
        return action


class Greedy:
    """Acts by a network."""

    def __init__(self, network) -> None:
        self.network = network

    def begin(self, env, observation) -> None:
        pass

    def act(self, observation) -> int:
        with torch.no_grad():
            return int(self.network(features(observation)).argmax())


def imitate(teacher, seed: int):
    """Train a network with one hidden layer on a teacher's train episodes."""
    recorder = Recorder(teacher)
    evaluate(toy("train"), recorder)
    x, y = torch.stack(recorder.seen), torch.tensor(recorder.did)
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 128), torch.nn.ReLU(), torch.nn.Linear(128, 24)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(400):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def mean_return(network, split: str) -> float:
    return float(np.mean([r.episode_return for r in evaluate(toy(split), Greedy(network))]))


def from_memory(env):
    """Answer at once with the gold answer: a teacher that shows no search."""
    yield answer_text(env.protocol, env.transcript().question.answers[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_imitating_the_search_carries_over(seed):
    network = imitate(make_baseline("oracle"), seed)
    assert mean_return(network, "train") == 1.0
    assert mean_return(network, "test") > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_imitating_answers_from_memory_does_not(seed):
    network = imitate(scripted(from_memory)(0), seed)
    assert mean_return(network, "train") > 0.9
    assert mean_return(network, "test") < 0.35
