"""The reference algorithms' policy: a small causal transformer, cloned from a base's episodes.

Shapes: N rows, T tokens of the longest of them, V ids.
"""

from __future__ import annotations

import copy
import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_env.benchmarks.suite.base import Demonstrations
from search_env.benchmarks.suite.task import Act, Observation, Task
from search_env.paths import atomic_path, cache_dir

WIDTH, LAYERS, HEADS = 64, 2, 4
CLONING_RATE, CLONING_EPOCHS, CLONING_BATCH = 3e-3, 16, 128


class Output(NamedTuple):
    """What the policy says after each token."""

    logits: Tensor  # (N, T, V)
    values: Tensor  # (N, T)


class Policy(nn.Module):
    """A causal transformer with learned positions, and a value head."""

    def __init__(self, vocabulary: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(length, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.actor, self.critic = nn.Linear(WIDTH, vocabulary), nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.critic.weight)

    def forward(self, tokens: Tensor) -> Output:
        """Return logits and values for tokens ``(N, T)``; later tokens change nothing before."""
        count = tokens.shape[1]
        x = self.tokens(tokens) + self.positions.weight[:count]  # (N, T, WIDTH)
        mask = torch.ones(count, count, dtype=torch.bool).triu(1)
        x = self.norm(self.layers(x, mask=mask, is_causal=True))
        return Output(self.actor(x), self.critic(x).squeeze(-1))

    def at_ends(self, observation: Observation, rows: NDArray[np.int64]) -> Tensor:
        """Return the logits of the next token in some rows, ``(rows, V)``."""
        lengths = np.ravel(observation["length"])[rows]
        tokens = torch.as_tensor(observation["tokens"][rows, : lengths.max()], dtype=torch.int64)
        with torch.no_grad():
            logits: Tensor = self(tokens).logits[range(len(rows)), lengths - 1]
        return logits

    def greedy(self) -> Act:
        """Return the function that takes the likeliest token."""

        def act(observation: Observation) -> NDArray[np.int64]:
            rows = np.arange(len(observation["tokens"]))
            chosen: NDArray[np.int64] = self.at_ends(observation, rows).argmax(-1).numpy()
            return chosen

        return act


def clone(task: Task) -> Policy:
    """Return a policy that imitates the base of a task; it is kept for other algorithms."""
    torch.manual_seed(task.seed)
    episodes = task.demonstrations
    policy = Policy(task.num_actions, episodes.tokens.shape[1])
    path = cache_dir() / "suite" / f"{_digest(episodes, task.seed)}.pt"
    if path.exists():
        policy.load_state_dict(torch.load(path, weights_only=True))
        return policy
    imitate(policy, episodes, task.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(policy.state_dict(), temporary)
    return policy


def _digest(episodes: Demonstrations, seed: int) -> str:
    """Return what a cloned policy depends on."""
    sizes = WIDTH, LAYERS, HEADS, CLONING_RATE, CLONING_EPOCHS, CLONING_BATCH
    facts = repr((sizes, seed, torch.__version__)).encode()
    arrays = episodes.tokens.tobytes() + episodes.written.tobytes()
    return hashlib.sha256(facts + arrays).hexdigest()[:32]


def imitate(
    policy: Policy,
    episodes: Demonstrations,
    seed: int,
    *,
    epochs: int = CLONING_EPOCHS,
    rate: float = CLONING_RATE,
) -> None:
    """Train on what was written in some episodes."""
    tokens, written = map(torch.as_tensor, (episodes.tokens, episodes.written))  # (E, L)
    optimizer = torch.optim.AdamW(policy.parameters(), rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(tokens) // CLONING_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(2, steps))
    for _ in range(epochs):
        order = torch.randperm(len(tokens), generator=generator)
        for rows in torch.split(order, CLONING_BATCH):
            width = int((tokens[rows] != 0).any(0).nonzero().max()) + 1
            seen, mask = tokens[rows, :width], written[rows, 1:width]
            logits = policy(seen[:, :-1]).logits[mask]
            loss = nn.functional.cross_entropy(logits, seen[:, 1:][mask])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def frozen(policy: Policy) -> Policy:
    """Return a copy without gradients."""
    return copy.deepcopy(policy).requires_grad_(False)
