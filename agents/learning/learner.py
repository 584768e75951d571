"""The training half of the agent: log-probabilities of sampled tokens, gradients, updates.

A learner scores trajectories, accumulates the gradient of any loss over micro-batches of packed
sequences, and takes optimizer steps. The loss is the caller's function. It gets log-probabilities,
entropies and values of the policy's tokens and of no others, so retrieved text cannot enter a loss.

Losses are summed over micro-batches and ranks, never averaged here: a caller that divides by totals
of the whole batch gets the same gradient for any ``max_tokens_per_micro_batch`` and any number of
ranks. Dropout is always off, so that a ratio of 1 means the same policy.

Shapes in the comments: B trajectories, P policy tokens of the longest, N targets of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from transformers import PreTrainedModel

from search_env.agents.errors import (
    CheckpointError,
    ContextLengthError,
    NonFiniteError,
    memory_errors,
)
from search_env.agents.inference.forward import context_limit
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.distributed import SINGLE_RANK, Ranks
from search_env.agents.learning.master_weights import (
    MasterWeights,
    split_state,
    total_norm,
    whole,
    whole_state,
)
from search_env.agents.learning.micro_batches import (
    Outputs,
    Targets,
    example_targets,
    packs,
    padded,
    policy_targets,
    target_logits,
    target_outputs,
)
from search_env.agents.learning.optimizers import (
    OptimizerConfig,
    configure,
    embedding_names,
    make_optimizers,
)
from search_env.agents.learning.packing import in_chunks, packed_attention, packed_logits
from search_env.agents.learning.precision import Dtype
from search_env.agents.learning.probe import probe
from search_env.agents.learning.recomputation import checkpoint_layers, recomputed
from search_env.agents.learning.reference import Reference
from search_env.agents.types import Example, Trajectory
from search_env.errors import ConfigurationError
from search_env.validation import check_count

__all__ = ["Learner"]

LossFunction: TypeAlias = Callable[[Outputs, Tensor], tuple[Tensor, Mapping[str, Tensor]]]
"""From outputs of b rows and int64 ``(b,)`` (their indices in the batch) to a scalar loss and
scalar statistics; both are summed over micro-batches."""

_Loss: TypeAlias = tuple[Tensor, Mapping[str, Tensor]]
_PLAIN = Sampling()


class Learner:
    """A model in training.

    Args:
        model: A causal language model of transformers, or one with adapters of peft; changed in
            place. Parameters without ``requires_grad`` stay as they are.
        config: Optimizer settings. May be replaced between steps: learning rates, weight decay
            and clipping follow; optimizer, betas and eps stay.
        dtype: ``"fp32"``: the model is optimised as it is. ``"bf16"``: the model computes in
            bfloat16 and follows float32 copies that are optimised, so that updates too small for
            bfloat16 add up. Either way it stays the same object. See also ``resolve_dtype``.
        max_tokens_per_micro_batch: Maximum number of tokens in one forward and backward pass; a
            longer sequence gets its own.
        gradient_checkpointing: Recompute each layer in the backward pass: less memory, more time.
        value_head: Add a critic: a linear map of the last hidden state, zero at first.
        reference: Keep a frozen copy of the model as it is now. Adapters need none: their
            reference is the model without them.
        sharded: Split weights and optimizer over ranks, for a model that does not fit on one. Then
            all ranks must make the same calls, and another model has to sample, with
            :meth:`weights`.
        sampling: The distribution that tokens are drawn from.

    Attributes:
        value_head: The critic (float32), None without one.
        updates: Number of steps taken.

    Raises:
        ConfigurationError: An invalid argument, or nothing to train.
        ModelMismatchError: A few short sequences, packed, do not get the log-probabilities and
            gradients of the model's own pass.
        DeviceMemoryError: Out of memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: OptimizerConfig | None = None,
        *,
        dtype: Dtype = "fp32",
        max_tokens_per_micro_batch: int = 16384,
        gradient_checkpointing: bool = False,
        value_head: bool = False,
        reference: bool = False,
        sharded: bool = False,
        sampling: Sampling = _PLAIN,
        ranks: Ranks = SINGLE_RANK,
    ) -> None:
        check_count("max_tokens_per_micro_batch", max_tokens_per_micro_batch, 1)
        model.eval()  # type: ignore[no-untyped-call]
        self.model, self.config, self.updates = model, config or OptimizerConfig(), 0
        self.sampling, self.ranks = sampling, ranks
        self.value_head = _zero_value_head(model) if value_head else None
        self._max_tokens, self._sharded = max_tokens_per_micro_batch, sharded
        self._recomputed_layers = checkpoint_layers(model) if gradient_checkpointing else []
        if model.dtype == torch.float32 and not sharded:  # gradients in bfloat16 agree too roughly
            self._probe(backward=True)
        self._reference = Reference(model, dtype, enabled=reference, sharded=sharded)
        self._masters = MasterWeights(model, dtype, sharded=sharded)
        self._optimizers = make_optimizers(
            self.config, self._masters.parameters, embedding_names(model), self.value_head
        )
        if model.dtype != torch.float32 or sharded:
            self._probe(backward=False)

    def _probe(self, *, backward: bool) -> None:
        with self._memory_errors():
            probe(self.model, self._recomputed_layers, backward=backward)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = self.model.device
        return device

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self.config.learning_rate_at(self.updates)

    def score(self, trajectories: Sequence[Trajectory], *, reference: bool = False) -> Outputs:
        """Return log-probabilities, entropies and values of policy tokens, without gradients.

        The outputs, a row for each trajectory, are on the CPU. The reference model has no critic.

        Raises:
            ConfigurationError: ``reference`` without one.
            ContextLengthError: A trajectory is longer than the model's context.
            DeviceMemoryError: Out of memory.
        """
        batch = [policy_targets(trajectory) for trajectory in trajectories]
        critic = None if reference else self.value_head
        # (2 or 3, tokens of a row) each, and an empty one for a batch without rows
        outputs = [torch.zeros(2 + (critic is not None), 0)] * (len(batch) + 1)
        chosen = self._reference.model() if reference else nullcontext(self.model)
        with torch.no_grad(), chosen as model, self._memory_errors():
            for pack in self._packs(batch):
                if not pack:
                    _idle_pass(model)
                    continue
                rows = [batch[index] for index in pack]
                packed = target_outputs(model, rows, self.sampling, critic).cpu()  # (2 or 3, N)
                for index, part in zip(pack, torch.split(packed, _counts(rows), 1), strict=True):
                    outputs[index] = part
        return padded(torch.cat(outputs, 1), _counts(batch))

    def accumulate(
        self, trajectories: Sequence[Trajectory], loss_fn: LossFunction
    ) -> dict[str, float]:
        """Add the gradient of a loss, summed over micro-batches, to the gradients.

        Trajectories without policy tokens are left out. Returns the sums over this rank's
        micro-batches of the statistics, and of the losses as ``loss``.

        Raises:
            ContextLengthError: A trajectory is longer than the model's context.
            NonFiniteError: A loss is NaN or infinite.
            DeviceMemoryError: Out of memory. Any error clears the gradients.
        """
        batch = [policy_targets(trajectory) for trajectory in trajectories]

        def loss_of(pack: list[int]) -> _Loss:
            rows = [batch[index] for index in pack]
            packed = target_outputs(self.model, rows, self.sampling, self.value_head)  # (2 or 3, N)
            return loss_fn(padded(packed, _counts(rows)), torch.tensor(pack, device=self.device))

        return self._backward(batch, loss_of)

    def accumulate_examples(
        self, examples: Sequence[Example], total_weight: float | None = None
    ) -> float:
        """Add the gradient of the weighted mean of examples' negative log-probabilities.

        Returns the loss of this rank's examples, in nats; the learner's sampling has no effect.
        The divisor ``total_weight`` is by default the sum of the weights over all ranks.

        Raises:
            ConfigurationError: No token has a weight.
            Exception: As in :meth:`accumulate`.
        """
        batch = [example_targets(example) for example in examples]
        if total_weight is None:
            total_weight = self.ranks.sum([sum(float(row.weights.sum()) for row in batch)])[0]
        if not total_weight > 0.0:
            raise ConfigurationError(
                f"Expected weights with a sum above 0, got {total_weight}. Set a weight for a "
                "token other than the first, which is never predicted."
            )

        def loss_of(pack: list[int]) -> _Loss:
            rows = [batch[index] for index in pack]
            logits, ids, _ = target_logits(self.model, rows)  # (N, V), (N,)
            log_probs = in_chunks(_PLAIN.log_prob_of, logits, ids)  # (N,)
            weights = torch.cat([row.weights for row in rows]).to(log_probs)  # (N,)
            return -(log_probs @ weights) / total_weight, {}

        return self._backward(batch, loss_of).get("loss", 0.0)

    def step(self) -> float:
        """Update the weights with the accumulated gradients, summed over ranks, and clear them.

        Returns the norm of the gradient before clipping.

        Raises:
            NonFiniteError: That norm is not finite; gradients are cleared, nothing else is changed.
        """
        parameters = [*self._masters.parameters.values(), *self._critic()]
        self.ranks.sum_gradients(parameters)
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        if not math.isfinite(norm):
            self.clear()
            raise NonFiniteError(
                f"Expected a finite gradient norm, got {float(norm)} at update {self.updates}. "
                "No weight was changed. Lower the learning rate, or inspect this batch."
            )
        for group in (self._masters.parameters.values(), self._critic()):
            # Separately: tensors that are split over ranks do not mix with others.
            clip_grads_with_norm_(list(group), self.config.max_grad_norm, norm)
        for optimizer in self._optimizers:
            configure(optimizer, self.config, self.updates)
        # Before the optimizers, so that an interrupted step counts: weights may have changed.
        self.updates += 1
        for optimizer in self._optimizers:
            optimizer.step()
        self.clear()
        self._masters.refresh()
        return float(norm)

    def clear(self) -> None:
        """Clear the accumulated gradients."""
        self._masters.clear()
        for parameter in self._critic():
            parameter.grad = None

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights by name, trained ones in the precision they are trained in.

        A tensor with two names (an embedding tied to the head) is the same tensor under both.
        """
        weights = {name: whole(tensor) for name, tensor in self.model.state_dict().items()}
        masters = self._masters.weights()
        names = {p: name for name, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if names[parameter] in masters:
                weights[name] = masters[names[parameter]]
        return weights

    def state_dict(self) -> dict[str, Any]:
        """Return trained weights, critic, optimizer states and counter, for exact resumption.

        The reference is not included: a new learner takes it from its initial model.
        """
        return {
            "weights": self._masters.weights(),
            "value_head": None if self.value_head is None else self.value_head.state_dict(),
            "optimizers": [whole_state(optimizer) for optimizer in self._optimizers],
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a :meth:`state_dict`.

        Raises:
            CheckpointError: It has another model, critic or optimizer; nothing was changed.
        """
        shapes = {name: master.shape for name, master in self._masters.parameters.items()}
        for part, matches in (
            ("model", {name: value.shape for name, value in state["weights"].items()} == shapes),
            ("value_head", (state["value_head"] is None) == (self.value_head is None)),
            ("optimizer", len(state["optimizers"]) == len(self._optimizers)),
        ):
            if not matches:
                raise CheckpointError(
                    f"Expected the {part} that the checkpoint was made with, got another. Make "
                    f"the learner with the same {part}."
                )
        self._masters.load(state["weights"])
        if self.value_head is not None:
            self.value_head.load_state_dict(state["value_head"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(split_state(optimizer, saved))
        self.updates = state["updates"]
        self.clear()

    def _critic(self) -> list[nn.Parameter]:
        """Return the critic's parameters."""
        return [] if self.value_head is None else list(self.value_head.parameters())

    def _packs(self, batch: Sequence[Targets]) -> list[list[int]]:
        """Return the micro-batches, as indices; empty ones where other ranks have more."""
        context, _ = context_limit(self.model)
        longest = max((len(row.inputs) for row in batch), default=0)
        if context is not None and longest > context:
            raise ContextLengthError(
                f"Expected at most {context} tokens, the model's context, got {longest}. Lower "
                "max_tokens of the environment, or use a model with a longer context."
            )
        micro_batches = packs(batch, self._max_tokens)
        if self._sharded:
            count = self.ranks.max(len(micro_batches))
            micro_batches += [[]] * (count - len(micro_batches))
        return micro_batches

    def _backward(
        self, batch: Sequence[Targets], loss_of: Callable[[list[int]], _Loss]
    ) -> dict[str, float]:
        """Add the gradients of all micro-batches; return sums of losses and statistics.

        Any error clears the gradients: part of a batch must not be learnt from.
        """
        totals: dict[str, Tensor] = {}
        try:
            with self._memory_errors():
                micro_batches = self._packs(batch)
                for number, pack in enumerate(micro_batches, 1):
                    sums = self._micro_batch(pack, loss_of, f"{number} of {len(micro_batches)}")
                    for name, part in sums.items():
                        totals[name] = totals.get(name, 0.0) + part
        except BaseException:
            self.clear()
            raise
        return {name: float(total) for name, total in totals.items()}

    def _micro_batch(
        self, pack: list[int], loss_of: Callable[[list[int]], _Loss], label: str
    ) -> dict[str, Tensor]:
        """Add the gradient of one micro-batch; return its loss and statistics."""
        # Layers that are recomputed in the backward pass use the packed attention there, too.
        with packed_attention(self.model), recomputed(self._recomputed_layers):
            loss, statistics = loss_of(pack) if pack else (_idle_pass(self.model), {})
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"Expected a finite loss, got {value} in micro-batch {label}. No weight was "
                    "changed. Inspect this batch."
                )
            torch.autograd.backward(loss)
        self._masters.collect()
        return {name: part.detach() for name, part in {**statistics, "loss": loss}.items()}

    def _memory_errors(self) -> AbstractContextManager[None]:
        return memory_errors(
            f"micro-batches of {self._max_tokens} tokens to fit into memory",
            "Lower max_tokens_per_micro_batch, or set gradient_checkpointing.",
        )


def _counts(rows: Iterable[Targets]) -> list[int]:
    return [len(row) for row in rows]


def _idle_pass(model: PreTrainedModel) -> Tensor:
    """Run a sharded model once while other ranks learn from it; return a loss of 0."""
    token = torch.zeros(1, dtype=torch.long)
    return packed_logits(model, [token], token).sum() * 0.0


def _zero_value_head(model: PreTrainedModel) -> nn.Linear:
    """Return a critic whose values are all 0."""
    width = model.get_output_embeddings().weight.shape[1]  # type: ignore[no-untyped-call]
    head = nn.Linear(width, 1, device=model.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
