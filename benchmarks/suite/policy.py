"""The reference algorithms' policy: a small causal transformer, cloned from a base's episodes.

Shapes: N rows, T tokens of the longest of them, V ids.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_env.benchmarks.suite.base import Demonstrations
from search_env.benchmarks.suite.task import Act, Observation, Task
from search_env.paths import atomic_path, cache_dir

Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
WIDTH, LAYERS, HEADS = 64, 2, 4
CLONING_RATE, CLONING_EPOCHS, CLONING_BATCH = 3e-3, 16, 128


class Output(NamedTuple):
    """What the policy says after each token."""

    logits: Tensor  # (N, T, V)
    values: Tensor  # (N, T)


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, mask: Tensor, remember: Remember | None = None) -> Tensor:
        """Return ``(N, T, WIDTH)``; ``remember`` takes keys and values and returns all of them."""
        count, width, _ = x.shape
        qkv = self.qkv(self.norms[0](x)).view(count, width, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, HEADS, T, WIDTH // HEADS) each
        if remember is not None:
            k, v = remember(k, v)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(count, width, WIDTH))
        made: Tensor = x + self.wide(self.norms[1](x))
        return made


class Policy(nn.Module):
    """A causal transformer with learned positions, and a value head."""

    def __init__(self, vocabulary: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(length, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.actor, self.critic = nn.Linear(WIDTH, vocabulary), nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.critic.weight)

    def forward(self, tokens: Tensor) -> Output:
        """Return logits and values for tokens ``(N, T)``; later tokens change nothing before."""
        count = tokens.shape[1]
        x = self.tokens(tokens) + self.positions.weight[:count]  # (N, T, WIDTH)
        mask = torch.ones(count, count, dtype=torch.bool).tril()
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        return Output(self.actor(x), self.critic(x).squeeze(-1))

    def greedy(self) -> Act:
        """Return the function that takes the likeliest token."""
        decoders: dict[int, Decoder] = {}

        def act(observation: Observation) -> NDArray[np.int64]:
            count = len(observation["tokens"])
            decoder = decoders.setdefault(count, Decoder(self, count))
            chosen: NDArray[np.int64] = decoder(observation, np.arange(count)).argmax(-1).numpy()
            return chosen

        return act


class Decoder:
    """Next-token logits for the rows of an environment, with the keys and values of what was read.

    A row whose observation is not longer than before has begun another episode.
    """

    def __init__(self, policy: Policy, rows: int) -> None:
        self._policy, self._read = policy, np.zeros(rows, np.int64)
        shape = LAYERS, 2, rows, HEADS, policy.positions.num_embeddings, WIDTH // HEADS
        self._cache = torch.zeros(shape)

    def __call__(self, observation: Observation, rows: NDArray[np.int64]) -> Tensor:
        """Return the logits of the next token in some rows, ``(rows, V)``."""
        lengths = np.ravel(observation["length"])[rows].astype(np.int64)
        read = np.where(self._read[rows] < lengths, self._read[rows], 0)
        self._read[rows] = lengths
        width = int((lengths - read).max())
        places = (read[:, None] + np.arange(width)).clip(max=self._cache.shape[4] - 1)
        tokens = torch.as_tensor(observation["tokens"][rows[:, None], places].astype(np.int64))
        at = torch.as_tensor(places)  # (rows, width); what is beyond a row's length is never read
        with torch.no_grad():
            hidden = self._forward(tokens, torch.as_tensor(rows), at, int(lengths.max()))
            last = hidden[range(len(rows)), lengths - read - 1]
            logits: Tensor = self._policy.actor(self._policy.norm(last))
        return logits

    def _forward(self, tokens: Tensor, rows: Tensor, at: Tensor, longest: int) -> Tensor:
        policy = self._policy
        x = policy.tokens(tokens) + policy.positions(at)  # (rows, width, WIDTH)
        mask = (torch.arange(longest) <= at[..., None])[:, None]  # (rows, 1, width, longest)
        for number, block in enumerate(policy.blocks):
            cache = self._cache[number]

            def remember(k: Tensor, v: Tensor, cache: Tensor = cache) -> tuple[Tensor, Tensor]:
                for place, new in enumerate((k, v)):
                    cache[place][rows[:, None], :, at] = new.transpose(1, 2)
                keys, values = cache[:, rows, :, :longest]
                return keys, values

            x = block(x, mask, remember)
        hidden: Tensor = x
        return hidden


def clone(task: Task) -> Policy:
    """Return a policy that imitates the base of a task; it is kept for other algorithms."""
    torch.manual_seed(task.seed)
    episodes = task.demonstrations
    policy = Policy(task.num_actions, episodes.tokens.shape[1])
    path = cache_dir() / "suite" / f"{_digest(policy, episodes, task.seed)}.pt"
    if path.exists():
        policy.load_state_dict(torch.load(path, weights_only=True))
        return policy
    imitate(policy, episodes, task.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(policy.state_dict(), temporary)
    return policy


def _digest(policy: Policy, episodes: Demonstrations, seed: int) -> str:
    """Return what a cloned policy depends on."""
    shapes = [(name, tuple(value.shape)) for name, value in policy.state_dict().items()]
    settings = HEADS, CLONING_RATE, CLONING_EPOCHS, CLONING_BATCH
    facts = repr((shapes, settings, seed, torch.__version__)).encode()
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
