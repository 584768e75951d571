"""A causal LM behind Stable-Baselines3: a policy class for its PPO and A2C.

    envs = gym.make_vec("SearchQA-v0", num_envs=16, autoreset_mode="SameStep", max_tokens=1024)
    model = PPO(CausalLMPolicy, SearchQAVecEnv(envs), policy_kwargs={"model": "tiny-base"})

Stable-Baselines3 knows single steps: an observation, an action. A language model is affordable
there only if a step does not read the whole observation again. In rollouts each row has a KV cache
that follows its observations, so a step forwards what is new; in updates the observations of a
minibatch that are beginnings of one another are read once. Both give the same numbers.

Observations are read as they come. Nothing here goes through Stable-Baselines3's preprocessing,
which would scale ids and one-hot the length.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.forward import check_context
from search_env.agents.inference.rollout_engine import Decoded
from search_env.agents.inference.sampling import GREEDY, Sampling
from search_env.agents.learning.micro_batches import (
    Targets,
    log_probs_and_entropies,
    packed_targets,
    packs,
)
from search_env.agents.learning.packing import Packed
from search_env.agents.models import load_model
from search_env.errors import ConfigurationError

__all__ = ["CausalLMPolicy"]

_Tokens: TypeAlias = NDArray[np.integer[Any]]
_Compute: TypeAlias = Callable[[Packed, Tensor], Tensor]
"""From a packed pass over n states, and which observations these are, to ``(k, n)``."""


class CausalLMPolicy(ActorCriticPolicy):
    """A causal LM that chooses tokens, with a linear critic on its last hidden state.

    The attributes ``model`` and ``value_head`` are the two; the critic is zero at first.

    For on-policy algorithms of Stable-Baselines3 (PPO, A2C). All arguments but the first three go
    into ``policy_kwargs``. Dropout is always off, so that a ratio of 1 means the same policy.

    Whenever weights have changed, caches are dropped and the rows' observations are read anew at
    the next step. In the update, memory grows with the distinct tokens of a minibatch; a
    ``batch_size`` of ``n_steps * n_envs`` reads each episode once and is the cheapest for its
    number of transitions.

    Args:
        observation_space: That of ``SearchQAEnv``: a Dict with ``tokens`` and ``length``.
        action_space: ``Discrete(n)``, where the model has exactly n ids.
        lr_schedule: Learning rate by the progress that remains.
        model: A name or folder for :func:`~search_env.agents.models.load_model`; a model, trained
            in place; or a configuration, for a new model with random weights.
        sampling: The distribution that actions are drawn from, and that log-probabilities and
            entropies are of.
        max_tokens_per_micro_batch: Most tokens of one forward pass of the update. Where a minibatch
            has more, its passes are computed again in the backward pass, so that memory holds one.
        use_sde: False; Stable-Baselines3 passes it.
        optimizer_class: Takes the trained parameters and ``lr``.
        optimizer_kwargs: Its other arguments.

    Raises:
        ConfigurationError: Other spaces, or an argument out of range.
        ModelMismatchError: The model has another number of ids than there are actions.
        ContextLengthError: Observations may be longer than the model's context.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        model: str | Path | PreTrainedModel | PretrainedConfig,
        sampling: Sampling | None = None,
        max_tokens_per_micro_batch: int = 16384,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        # Not ActorCriticPolicy's own constructor: it builds networks that nothing would use.
        options: Any = {"optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs}
        super(ActorCriticPolicy, self).__init__(observation_space, action_space, **options)
        context = _context(observation_space)
        self.sampling, self.use_sde = sampling or Sampling(), use_sde
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        _check_arguments(self.sampling, max_tokens_per_micro_batch, use_sde)
        self.model = _model(model)
        width = _check_ids(self.model, observation_space, action_space)
        check_context(self.model, context)
        self.value_head = nn.Linear(width, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._caches: dict[tuple[str, bool], _ObservationCache] = {}
        self._places: tuple[int, ...] = ()
        self._versions: tuple[int, ...] = ()
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_class(trained, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.train(False)

    def train(self, mode: bool = True) -> CausalLMPolicy:
        """Note that an update begins or ends; the model stays in evaluation mode."""
        super().train(mode)
        self.model.eval()  # type: ignore[no-untyped-call]
        if mode:
            self._versions = ()  # a change of .data is not counted
        return self

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Choose an action in each row of a rollout.

        Row i's cache is that of row i of the call before. Only what its observation has beyond the
        last one and the action chosen there is forwarded; where it is not a continuation, its
        cache begins anew. With ``deterministic`` the most likely action is taken; its
        log-probability is then 0.

        Returns:
            Actions int64 ``(n,)``, values float32 ``(n, 1)``, log-probabilities float32 ``(n,)``.

        Raises:
            ContextLengthError: An observation has no room for a token.
            DeviceMemoryError: The cache does not fit; have fewer rows or a smaller ``max_tokens``.
            NonFiniteError: The model's weights are not finite.
        """
        decoded = self._decode("rollout", obs, deterministic)
        values = torch.from_numpy(decoded.values)[:, None].to(self.device)
        log_probs = torch.from_numpy(decoded.log_probs).to(self.device)
        return torch.from_numpy(decoded.ids).to(self.device), values, log_probs

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Choose actions for ``predict``, with caches apart from those of the rollouts."""
        return torch.from_numpy(self._decode("predict", observation, deterministic).ids)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values, log-probabilities and entropies of B transitions, differentiably.

        The transitions are in any order, with actions int64 ``(B,)``. The results are ``(B, 1)``,
        ``(B,)`` and, in nats, ``(B,)``.
        """
        actions = actions.long().flatten()

        def compute(packed: Packed, rows: Tensor) -> Tensor:
            others = log_probs_and_entropies(self.sampling, packed.logits, actions[rows])
            return torch.cat([self._values(packed)[None], others])

        values, log_probs, entropies = self._compute(obs, compute)
        return values[:, None], log_probs, entropies

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return the values ``(B, 1)`` of observations, without any cache."""
        return self._compute(obs, lambda packed, _: self._values(packed)[None]).mT

    def get_distribution(self, obs: PyTorchObs) -> CategoricalDistribution:
        """Return the distribution of actions, without any cache."""
        log_probs = self._compute(obs, lambda p, _: self.sampling.log_probs(p.logits).mT)
        actions = int(cast("spaces.Discrete", self.action_space).n)
        return CategoricalDistribution(actions).proba_distribution(log_probs.mT)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return the arguments with which ``load`` makes the policy that the weights go into."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "model": self.model.config,
            "sampling": self.sampling,
            "max_tokens_per_micro_batch": self.max_tokens_per_micro_batch,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }

    def _values(self, packed: Packed) -> Tensor:
        values: Tensor = self.value_head(packed.hidden.float())
        return values[:, 0]

    def _decode(self, purpose: str, obs: Any, deterministic: bool) -> Decoded:
        """Decode with the caches of this purpose."""
        tokens, lengths = _arrays(obs)
        self._drop_stale_caches()
        key = purpose, deterministic
        if key not in self._caches or self._caches[key].rows != len(tokens):
            engine = Engine(
                self.model,
                rows=len(tokens),
                max_tokens=tokens.shape[1],
                sampling=GREEDY if deterministic else self.sampling,
                value_head=self.value_head,
            )
            self._caches[key] = _ObservationCache(engine)
        return self._caches[key].decode(tokens, lengths)

    def _drop_stale_caches(self) -> None:
        """Drop caches that were computed with other weights."""
        places = tuple(parameter.data_ptr() for parameter in self.parameters())
        if places != self._places:
            self._caches.clear()  # CUDA graphs read the weights where they were
            self._places = places
        # In-place changes count a tensor's version up.
        versions = tuple(parameter._version for parameter in self.parameters())
        if versions != self._versions:
            for cache in self._caches.values():
                cache.forget()
            self._versions = versions

    def _compute(self, obs: Any, compute: _Compute) -> Tensor:
        """Return ``(k, B)``: what ``compute`` says of each observation, in their order."""
        sequences = shared_sequences(*_arrays(obs))
        batch = [sequence.targets() for sequence in sequences]
        passes = packs(batch, self.max_tokens_per_micro_batch)
        rows = [torch.cat([sequences[index].rows for index in some]) for some in passes]

        def run(some: list[int], rows: Tensor) -> Tensor:
            return compute(packed_targets(self.model, [batch[index] for index in some]), rows)

        recomputes = len(passes) > 1 and torch.is_grad_enabled()
        columns = [
            checkpoint(run, *arguments, use_reentrant=False) if recomputes else run(*arguments)
            for arguments in zip(passes, rows, strict=True)
        ]
        return torch.cat(columns, 1)[:, torch.cat(rows).argsort()]


class SharedSequence(NamedTuple):
    """Observations that are beginnings of one another."""

    tokens: Tensor  # int64 (T,): the longest
    lengths: Tensor  # int64 (n,): how many of its tokens each observation has
    rows: Tensor  # int64 (n,): which observations they are

    def targets(self) -> Targets:
        """Return it as a sequence that is asked for the token after each observation."""
        # The last token stands for the one after the longest, which is not read.
        tokens = torch.cat([self.tokens, self.tokens[-1:]])
        return Targets(tokens, self.lengths, torch.ones(len(self.lengths)))


def shared_sequences(tokens: _Tokens, lengths: NDArray[np.int64]) -> list[SharedSequence]:
    """Return the sequences that have to be read in order to have read all observations.

    Of the tokens ``(B, L)`` those before ``lengths`` ``(B,)``, from 1 to L, count.

    Example:
        >>> tokens = np.array([[5, 6, 7], [5, 6, 0], [5, 8, 9], [5, 0, 0]])
        >>> for shared in shared_sequences(tokens, np.array([3, 2, 3, 1])):
        ...     print(shared.tokens.tolist(), shared.lengths.tolist(), shared.rows.tolist())
        [5, 8, 9] [3] [2]
        [5, 6, 7] [3, 2, 1] [0, 1, 3]
    """
    keys = [row[:length].tobytes() for row, length in zip(tokens, lengths, strict=True)]
    # In this order all continuations of a sequence follow it at once; read from the end, an
    # observation is a beginning of the sequence in hand, or of none.
    groups: list[list[int]] = []
    for row in sorted(range(len(keys)), key=keys.__getitem__, reverse=True):
        if groups and keys[groups[-1][0]].startswith(keys[row]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [
        SharedSequence(
            torch.from_numpy(tokens[rows[0], : lengths[rows[0]]].astype(np.int64)),
            torch.from_numpy(lengths[rows]),
            torch.tensor(rows),
        )
        for rows in groups
    ]


class _ObservationCache:
    """An engine whose rows hold the observations of the last call, one each."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.rows = engine, engine.rows
        self._tokens = np.zeros((engine.rows, engine.max_tokens), np.int64)
        self._lengths = np.zeros(engine.rows, np.int64)  # 0: the row has to begin

    def forget(self) -> None:
        """Read all rows from the start at the next call."""
        self._lengths[:] = 0

    def decode(self, tokens: _Tokens, lengths: NDArray[np.int64]) -> Decoded:
        """Sample the token after each observation, ``(n, L)`` and ``(n,)``."""
        engine, lengths_before = self._engine, self._lengths.copy()
        self.forget()  # an error in between leaves the rows anyhow
        unknown = np.arange(engine.max_tokens) >= lengths_before[:, None]
        goes_on = (lengths_before > 0) & (lengths_before <= lengths)
        goes_on &= ((tokens == self._tokens) | unknown).all(1)
        new, old = np.flatnonzero(~goes_on), np.flatnonzero(goes_on)
        seeds = torch.randint(2**31, (len(new),)).tolist()
        engine.begin(new, [tokens[row, : lengths[row]] for row in new], seeds)
        engine.insert(old, [tokens[row, lengths_before[row] : lengths[row]] for row in old])
        decoded = engine.decode(np.arange(engine.rows))
        self._tokens[:] = tokens
        self._tokens[np.arange(engine.rows), lengths] = decoded.ids
        self._lengths[:] = lengths + 1
        return decoded


def _context(space: spaces.Space[Any]) -> int:
    """Return the most tokens of an observation."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    tokens = parts.get("tokens")
    ids = isinstance(tokens, spaces.Box) and np.issubdtype(tokens.dtype, np.integer)
    shape = tokens.shape if isinstance(tokens, spaces.Box) and ids else ()
    if len(shape) != 1 or "length" not in parts:
        raise ConfigurationError(
            "Expected the observations of SearchQAEnv, a Dict with integer 'tokens' (L,) and "
            f"'length', got {space}. Leave out wrappers that change them."
        )
    return shape[0]


def _check_arguments(sampling: Sampling, max_tokens_per_micro_batch: int, use_sde: bool) -> None:
    limit = max_tokens_per_micro_batch
    for is_valid, expected, value in (
        (sampling.temperature > 0.0, "a temperature above 0", sampling.temperature),
        (limit >= 1, "max_tokens_per_micro_batch of 1 or more", limit),
        (not use_sde, "use_sde=False, as tokens are discrete", use_sde),
    ):
        if not is_valid:
            raise ConfigurationError(f"Expected {expected}, got {value}. Change it.")


def _check_ids(
    model: PreTrainedModel, observed: spaces.Space[Any], actions: spaces.Space[Any]
) -> int:
    """Return the width of the model's states, or say why it cannot play."""
    if not isinstance(actions, spaces.Discrete):
        raise ConfigurationError(
            f"Expected a Discrete action space, one action a token, got {actions}. Leave out "
            "wrappers that change it."
        )
    read: Any = model.get_input_embeddings()
    written: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    ids = int(observed["tokens"].high.max()) + 1  # type: ignore[index]
    if len(written.weight) != actions.n or len(read.weight) < ids:
        raise ModelMismatchError(
            f"Expected a model that samples {actions.n} ids, the actions, and reads {ids}, got one "
            f"that samples {len(written.weight)} and reads {len(read.weight)}. Pass the model's "
            f"own tokenizer and vocab_size={len(written.weight)} to the environment."
        )
    return int(written.weight.shape[1])


def _model(model: str | Path | PreTrainedModel | PretrainedConfig) -> PreTrainedModel:
    """Return the model of a name, a folder or a configuration, or the model itself."""
    if isinstance(model, str | Path):
        return load_model(model)
    if isinstance(model, PretrainedConfig):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(model)  # type: ignore[no-untyped-call]
        return made
    return model


def _arrays(obs: Any) -> tuple[_Tokens, NDArray[np.int64]]:
    """Return tokens ``(n, L)`` and lengths ``(n,)`` of observations, on the CPU."""
    tokens, lengths = (obs[key].cpu().numpy() for key in ("tokens", "length"))
    return tokens, lengths.reshape(-1).astype(np.int64)
