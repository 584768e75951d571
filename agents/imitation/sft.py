"""Supervised training: pretraining on texts, fine-tuning on episodes, with the learner of RL.

An example is tokens with weights (:class:`~search_env.agents.types.Example`): all 1 for a text, 1
on the policy's tokens for an episode. The order of each epoch depends on seed and epoch number
alone, so an interrupted run can be continued with the same batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from search_env.agents.learning.learner import Learner
from search_env.agents.learning.packing import packed_logits
from search_env.agents.reporting.logs import Observer, Observers
from search_env.agents.types import Example
from search_env.errors import ConfigurationError
from search_env.interrupts import watch_signals
from search_env.validation import check_count

_SILENT = Observers(())
_STOPPING = "Stopping after this step ... Once more (Ctrl-C or SIGTERM) to stop without it."


@dataclass(frozen=True, slots=True)
class SupervisedConfig:
    """Length and batches of supervised training; counts are checked."""

    steps: int  # number of all updates
    # A batch ends with the example that reaches this many tokens, those without weight included.
    tokens_per_step: int = 4096
    seed: int = 0  # of the order of examples
    eval_every: int = 0  # updates between evaluations on held-out examples; 0 for none
    save_every: int = 0  # updates between saves; 0 for none

    def __post_init__(self) -> None:
        """Check the counts."""
        check_count("steps", self.steps)
        check_count("tokens_per_step", self.tokens_per_step)
        check_count("eval_every", self.eval_every, 0)
        check_count("save_every", self.save_every, 0)


def fit(
    learner: Learner,
    examples: Sequence[Example],
    config: SupervisedConfig,
    *,
    held_out: Sequence[Example] = (),
    observer: Observer = _SILENT,
    save: Callable[[], None] = lambda: None,
) -> None:
    """Train on examples, from the learner's update count on to ``config.steps``.

    Processes that train together share each batch; all of them get the same examples. The observer
    receives ``loss`` (nats a weighted token), and :func:`measure` of held-out examples. ``save`` is
    called every ``save_every`` updates. Ctrl-C and SIGTERM end the training after the present
    update, a second one before it.

    Raises:
        ConfigurationError: No example has weights.
        NonFiniteError: The loss is NaN or infinite; the weights are those of the last good update.
    """
    done = learner.updates

    def evaluate(step: int) -> None:
        if config.eval_every and step % config.eval_every == 0 and held_out:
            observer.evaluated(step, measure(learner, held_out))

    with watch_signals(_STOPPING) as interrupts:
        if done:
            evaluate(done)  # it may be what was interrupted
        for step, batch in zip(range(config.steps), _batches(examples, config), strict=False):
            if step < done:
                continue
            start = time.perf_counter()
            by_length = sorted(batch, key=lambda example: len(example.tokens))
            share = learner.ranks.split(by_length)  # about as many tokens for each rank
            with interrupts.finishing():
                loss = learner.ranks.sum([learner.accumulate_examples(share)])[0]
                with interrupts.blocked():  # weights, and the step's row in the logs
                    metrics = {
                        "loss": loss,
                        "policy/grad_norm": learner.step(),
                        "policy/learning_rate": learner.learning_rate,
                        "tokens/total": float(sum(len(example.tokens) for example in batch)),
                        "time/step": time.perf_counter() - start,
                    }
                    observer.step(step + 1, metrics, ())
            interrupts.check()
            evaluate(step + 1)
            if config.save_every and (step + 1) % config.save_every == 0:
                with interrupts.blocked():
                    save()
        interrupts.check()


@torch.no_grad()
def measure(learner: Learner, examples: Sequence[Example]) -> dict[str, float]:
    """Return loss and accuracies on examples.

    Returns:
        ``eval/loss``: weighted mean of negative log-probabilities, in nats. ``eval/accuracy``:
        share of tokens with weight whose most likely id is right. ``eval/exact``: share of
        examples in which all of those are.
    """
    loss = weight = right = count = exact = 0.0
    for example in examples:
        ids = torch.from_numpy(example.tokens.astype(np.int64)).to(learner.device)
        weights = torch.from_numpy(example.weights).to(learner.device)
        keep = torch.nonzero(weights[1:] > 0)[:, 0]
        if not len(keep):
            continue
        logits = packed_logits(learner.model, [ids], keep).float()
        target = ids[keep + 1]
        hit = logits.argmax(-1) == target
        losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        loss += float(losses @ weights[keep + 1])
        weight += float(weights[keep + 1].sum())
        right, count, exact = right + float(hit.sum()), count + len(hit), exact + float(hit.all())
    return {
        "eval/loss": loss / weight if weight else math.nan,
        "eval/accuracy": right / count if count else math.nan,
        "eval/exact": exact / max(len(examples), 1),
    }


def _batches(examples: Sequence[Example], config: SupervisedConfig) -> Iterator[list[Example]]:
    """Yield batches without end."""
    if not any(example.weights[1:].any() for example in examples):
        raise ConfigurationError(
            f"Expected examples with weights above 0, got {len(examples)} without. "
            "Pass at least one."
        )
    batch: list[Example] = []
    tokens = epoch = 0
    while True:
        for index in np.random.default_rng([config.seed, epoch]).permutation(len(examples)):
            batch.append(examples[index])
            tokens += len(examples[index].tokens)
            if tokens >= config.tokens_per_step:
                yield batch
                batch, tokens = [], 0
        epoch += 1
