"""The training half of the agent: log-probabilities of what was written, gradients, updates.

A learner scores trajectories, accumulates the gradient of any loss over micro-batches of packed
sequences, and takes steps. Which loss that is, it does not know: the caller's function gets
log-probabilities, entropies and values of the policy's own tokens and of no others, so what was
retrieved cannot enter a loss.

Losses are summed over micro-batches and over ranks, never averaged here: a caller that divides by
numbers of the whole batch gets the same gradient for any ``max_tokens_per_micro_batch`` and any
number of ranks. Dropout is always off, so that a ratio of 1 means the same policy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from search_env.agents.errors import (
    CheckpointError,
    ContextLengthError,
    DeviceMemoryError,
    NonFiniteError,
)
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.distributed import SINGLE_RANK, Ranks
from search_env.agents.learning.master_weights import (
    MasterWeights,
    arrange,
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
)
from search_env.agents.learning.optimizers import (
    OptimizerConfig,
    configure,
    embedding_names,
    make_optimizers,
)
from search_env.agents.learning.packing import (
    in_chunks,
    packed_attention,
    packed_forward,
    packed_logits,
)
from search_env.agents.learning.precision import Dtype
from search_env.agents.types import Example, Trajectory
from search_env.errors import ConfigurationError

__all__ = ["Learner", "LossFunction", "OptimizerConfig", "Outputs"]

LossFunction: TypeAlias = Callable[[Outputs, Tensor], tuple[Tensor, Mapping[str, Tensor]]]
"""From outputs of b rows and int64 ``(b,)`` (which rows of the batch they are) to a scalar loss and
scalar statistics; all of them are summed over micro-batches."""

_Loss: TypeAlias = tuple[Tensor, Mapping[str, Tensor]]
_PLAIN = Sampling()


class Learner:
    """A model that is trained.

    Args:
        model: A causal language model of transformers, or one with adapters of peft; it is
            changed in place. Parameters that ask for no gradient stay as they are.
        config: How it is optimised. It may be replaced between steps: learning rates, weight decay
            and clipping follow; optimizer, betas and eps stay.
        dtype: ``"fp32"``: the model is optimised as it is. ``"bf16"``: the model computes in
            bfloat16 and follows float32 copies that are optimised, so that updates too small for
            bfloat16 add up. Either way it stays the same object. See also ``resolve_dtype``.
        max_tokens_per_micro_batch: Most tokens in one forward and backward pass; a longer sequence
            has its own.
        gradient_checkpointing: Compute each layer again in the backward pass: less memory, more
            time.
        value_head: Add a critic: a linear map of the last hidden state, zero at first.
        reference: Keep a frozen copy of the model as it is now. Adapters need none: theirs is the
            model without them.
        sharded: Split weights and optimizer over ranks, for a model that does not fit. Then all
            ranks must make the same calls, and another model has to sample, with
            :meth:`weights`.
        sampling: The distribution that tokens are drawn from.
        ranks: The processes that train together.

    Attributes:
        model: The model.
        value_head: The critic (float32), None without one.
        updates: Number of steps taken.

    Raises:
        ConfigurationError: An argument that cannot work, or nothing to train.
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
        if max_tokens_per_micro_batch < 1:
            raise ConfigurationError(
                "Expected max_tokens_per_micro_batch to be 1 or more, got "
                f"{max_tokens_per_micro_batch}. Raise it."
            )
        self.model = model
        model.eval()  # type: ignore[no-untyped-call]
        self.config = config or OptimizerConfig()
        self.sampling = sampling
        self.ranks = ranks
        self.updates = 0
        self.value_head = _zero_head(model) if value_head else None
        self._micro_tokens = max_tokens_per_micro_batch
        self._sharded = sharded
        self._reference = None
        if reference and not _has_adapters(model):
            self._reference = copy.deepcopy(model)
            self._reference.requires_grad_(False)
            arrange(self._reference, dtype, sharded=sharded)
        self._masters = MasterWeights(model, dtype, sharded=sharded)
        self._optimizers = make_optimizers(
            self.config, self._masters.parameters, embedding_names(model), self.value_head
        )
        self._checkpointed: list[nn.Module] = []
        if gradient_checkpointing:
            # The second is what it was called before transformers 5.20.
            enable = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
            layers = (m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))
            self._checkpointed.extend(layers)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.config.learning_rate_at(self.updates)

    def score(self, trajectories: Sequence[Trajectory], *, reference: bool = False) -> Outputs:
        """Return what the model thinks of trajectories, without gradients.

        Args:
            trajectories: The batch, B of them.
            reference: Ask the frozen model instead; it has no critic.

        Returns:
            Outputs of B rows, on the CPU.

        Raises:
            ConfigurationError: ``reference`` without one.
            ContextLengthError: A trajectory is longer than the model's context.
            DeviceMemoryError: Out of memory.
        """
        batch = [policy_targets(trajectory) for trajectory in trajectories]
        critic = None if reference else self.value_head
        found = [torch.zeros(2 + (critic is not None), 0)] * (len(batch) + 1)
        with torch.no_grad(), self._asked(reference) as model, self._memory():
            for pack in self._packs(batch):
                if not pack:
                    self._nothing(model)
                    continue
                rows = [batch[index] for index in pack]
                numbers = self._numbers(model, critic, rows).cpu()
                parts = torch.split(numbers, _counts(rows), 1)
                for index, part in zip(pack, parts, strict=True):
                    found[index] = part
        return padded(torch.cat(found, 1), _counts(batch))

    def accumulate(
        self, trajectories: Sequence[Trajectory], loss_fn: LossFunction
    ) -> dict[str, float]:
        """Add the gradient of a loss, summed over micro-batches, to the gradients.

        Args:
            trajectories: The batch; rows in which the policy wrote nothing are left out.
            loss_fn: Called once for each micro-batch.

        Returns:
            Its statistics summed over micro-batches, and its losses as ``loss``; of this rank.

        Raises:
            ContextLengthError: A trajectory is longer than the model's context.
            NonFiniteError: A loss is NaN or infinite.
            DeviceMemoryError: Out of memory. After any error, gradients are cleared.
        """
        batch = [policy_targets(trajectory) for trajectory in trajectories]

        def loss_of(pack: list[int]) -> _Loss:
            rows = [batch[index] for index in pack]
            outputs = padded(self._numbers(self.model, self.value_head, rows), _counts(rows))
            return loss_fn(outputs, torch.tensor(pack, device=self.device))

        return self._backward(batch, loss_of)

    def accumulate_examples(
        self, examples: Sequence[Example], total_weight: float | None = None
    ) -> float:
        """Add the gradient of the weighted mean of examples' negative log-probabilities.

        Args:
            examples: What to imitate; the sampling plays no part in it.
            total_weight: What the weighted sum is divided by; the weights of these examples, over
                all ranks, if None.

        Returns:
            The loss of this rank's examples, in nats.

        Raises:
            ConfigurationError: No token has a weight.
            ContextLengthError: An example is longer than the model's context.
            NonFiniteError: A loss is NaN or infinite.
            DeviceMemoryError: Out of memory. After any error, gradients are cleared.
        """
        batch = [example_targets(example) for example in examples]
        if total_weight is None:
            total_weight = self.ranks.sum([sum(float(row.weights.sum()) for row in batch)])[0]
        if not total_weight > 0.0:
            raise ConfigurationError(
                f"Expected weights with a sum above 0, got {total_weight}. Give tokens a weight; "
                "that of the first does not count."
            )

        def loss_of(pack: list[int]) -> _Loss:
            rows = [batch[index] for index in pack]
            logits, ids, _ = self._logits(self.model, rows)
            log_probs = in_chunks(_PLAIN.log_prob_of, logits, ids)
            weights = torch.cat([row.weights for row in rows]).to(log_probs)
            return -(log_probs @ weights) / total_weight, {}

        return self._backward(batch, loss_of).get("loss", 0.0)

    def step(self) -> float:
        """Update the weights by the accumulated gradients, summed over ranks, and clear those.

        Returns:
            Norm of the gradient before it is clipped.

        Raises:
            NonFiniteError: That norm is NaN or infinite; gradients are cleared, nothing else is
                changed.
        """
        parameters = self._parameters()
        self.ranks.sum_gradients(parameters)
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        if not math.isfinite(norm):
            self.clear()
            raise NonFiniteError(
                f"Expected a finite gradient norm, got {float(norm)} at update {self.updates}. "
                "Nothing was changed. Lower the learning rate, or look at what this batch holds."
            )
        for some in (self._masters.parameters.values(), self._critic()):
            # Not all at once: tensors that are split over ranks do not mix with others.
            clip_grads_with_norm_(list(some), self.config.max_grad_norm, norm)
        for optimizer in self._optimizers:
            configure(optimizer, self.config, self.updates)
        # First of all, so that whoever interrupts this can tell that weights have moved.
        self.updates += 1
        for optimizer in self._optimizers:
            optimizer.step()
        self.clear()
        self._masters.refresh()
        return float(norm)

    def clear(self) -> None:
        """Forget the accumulated gradients."""
        self._masters.clear()
        for parameter in self._parameters():
            parameter.grad = None

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights by name, trained ones in the precision they are trained in.

        A tensor that has two names (an embedding that is the head) is the same tensor under both.
        """
        own = {name: whole(tensor) for name, tensor in self.model.state_dict().items()}
        masters = self._masters.weights()
        names = {p: name for name, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if names[parameter] in masters:
                own[name] = masters[names[parameter]]
        return own

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact continuation needs beside the model this learner was made with.

        Trained weights, critic, optimizer and counter. The reference is not among them: a new
        learner has it from the model that it is made with.
        """
        return {
            "weights": self._masters.weights(),
            "value_head": None if self.value_head is None else self.value_head.state_dict(),
            "optimizers": [whole_state(optimizer) for optimizer in self._optimizers],
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            CheckpointError: It is of another model, critic or optimizer; nothing was changed.
        """
        shapes = {name: master.shape for name, master in self._masters.parameters.items()}
        for what, same in (
            ("model", {name: value.shape for name, value in state["weights"].items()} == shapes),
            ("value_head", (state["value_head"] is None) == (self.value_head is None)),
            ("optimizer", len(state["optimizers"]) == len(self._optimizers)),
        ):
            if not same:
                raise CheckpointError(
                    f"Expected the {what} that the checkpoint was made with, got another. Make "
                    f"the learner with the same {what}."
                )
        self._masters.load(state["weights"])
        if self.value_head is not None:
            self.value_head.load_state_dict(state["value_head"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(split_state(optimizer, saved))
        self.updates = state["updates"]
        self.clear()

    def _parameters(self) -> list[nn.Parameter]:
        """Return all that is optimised."""
        return [*self._masters.parameters.values(), *self._critic()]

    def _critic(self) -> list[nn.Parameter]:
        """Return the critic's parameters."""
        return [] if self.value_head is None else list(self.value_head.parameters())

    def _packs(self, batch: Sequence[Targets]) -> list[list[int]]:
        """Return the micro-batches, as indices; empty ones where other ranks have more."""
        config = self.model.config.get_text_config(decoder=True)
        context = getattr(config, "max_position_embeddings", None)
        longest = max((len(row.inputs) for row in batch), default=0)
        if context is not None and longest > context:
            raise ContextLengthError(
                f"Expected at most {context} tokens, the model's context, got {longest}. Lower "
                "max_tokens of the environment, or take a model with a longer context."
            )
        micro_batches = packs(batch, self._micro_tokens)
        if self._sharded:
            most = self.ranks.max(len(micro_batches))
            micro_batches += [[]] * (most - len(micro_batches))
        return micro_batches

    def _nothing(self, model: PreTrainedModel) -> Tensor:
        """Run a model that other ranks run, too, for a loss of 0."""
        only = torch.zeros(1, dtype=torch.long)
        return packed_logits(model, [only], only).sum() * 0.0

    def _backward(
        self, batch: Sequence[Targets], loss_of: Callable[[list[int]], _Loss]
    ) -> dict[str, float]:
        """Add the gradients of all micro-batches; return sums of losses and statistics.

        Whatever goes wrong, gradients are cleared: part of a batch must not be learnt from.
        """
        totals: dict[str, Tensor] = {}
        try:
            with self._memory():
                micro_batches = self._packs(batch)
                for number, pack in enumerate(micro_batches, 1):
                    found = self._micro_batch(pack, loss_of, f"{number} of {len(micro_batches)}")
                    for name, part in found.items():
                        totals[name] = totals.get(name, 0.0) + part
        except BaseException:
            self.clear()
            raise
        return {name: float(total) for name, total in totals.items()}

    def _micro_batch(
        self, pack: list[int], loss_of: Callable[[list[int]], _Loss], which: str
    ) -> dict[str, Tensor]:
        """Add the gradient of one micro-batch; return its loss and statistics."""
        # Layers that are computed again in the backward pass attend there, too.
        with packed_attention(self.model), self._layers_training():
            loss, statistics = loss_of(pack) if pack else (self._nothing(self.model), {})
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"Expected a finite loss, got {value} in micro-batch {which}. Look at what it "
                    "holds; no weight was changed."
                )
            torch.autograd.backward(loss)
        self._masters.collect()
        return {name: part.detach() for name, part in {**statistics, "loss": loss}.items()}

    def _logits(
        self, model: PreTrainedModel, rows: Sequence[Targets]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits ``(n, V)``, ids ``(n,)`` and states ``(n, H)`` of all targets."""
        starts = torch.tensor([0, *(len(row.inputs) for row in rows)]).cumsum(0)
        keep = [row.positions - 1 + start for row, start in zip(rows, starts, strict=False)]
        logits, hidden = packed_forward(model, [row.inputs for row in rows], torch.cat(keep))
        ids = torch.cat([row.tokens[row.positions] for row in rows])
        return logits, ids.to(logits.device), hidden

    def _numbers(
        self, model: PreTrainedModel, critic: nn.Linear | None, rows: Sequence[Targets]
    ) -> Tensor:
        """Return log-probabilities, entropies and perhaps values, ``(2 or 3, n)``."""
        logits, ids, hidden = self._logits(model, rows)
        numbers = in_chunks(self._log_probs_and_entropies, logits, ids)
        if critic is None:
            return numbers
        return torch.cat([numbers, critic(hidden.float()).mT])

    def _log_probs_and_entropies(self, logits: Tensor, ids: Tensor) -> Tensor:
        log_probs = self.sampling.log_probs(logits)
        # Where a probability is 0, its share of the entropy is 0 and not 0 times infinity.
        terms = log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)
        return torch.stack([self.sampling.log_prob_of(logits, ids), -terms.sum(-1)])

    @contextmanager
    def _asked(self, reference: bool) -> Iterator[PreTrainedModel]:
        """Yield the model, or the reference."""
        if not reference:
            yield self.model
        elif _has_adapters(self.model):
            with self.model.disable_adapter():  # type: ignore[operator]
                yield self.model
        elif self._reference is None:
            raise ConfigurationError(
                "Expected a reference model, got none. Make the learner with reference=True."
            )
        else:
            yield self._reference

    @contextmanager
    def _layers_training(self) -> Iterator[None]:
        """Let layers be recomputed, which transformers does in training mode only.

        Only the layers themselves are in that mode, nothing inside them, so dropout stays off.
        """
        for layer in self._checkpointed:
            layer.training = True
        try:
            yield
        finally:
            for layer in self._checkpointed:
                layer.training = False

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Say what to do where memory runs out."""
        try:
            yield
        except RuntimeError as error:
            out = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
            if not out:
                raise
            raise DeviceMemoryError(
                f"Expected micro-batches of {self._micro_tokens} tokens to fit into memory, got: "
                f"{str(error).splitlines()[0]} Lower max_tokens_per_micro_batch, or set "
                "gradient_checkpointing."
            ) from error


def _counts(rows: Sequence[Targets]) -> list[int]:
    return [len(row) for row in rows]


def _zero_head(model: PreTrainedModel) -> nn.Linear:
    """Return a critic whose values are all 0."""
    width = model.get_output_embeddings().weight.shape[1]  # type: ignore[no-untyped-call]
    head = nn.Linear(width, 1, device=model.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _has_adapters(model: PreTrainedModel) -> bool:
    """Whether a model is one of peft."""
    return hasattr(model, "disable_adapter")
