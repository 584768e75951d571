"""The memorisation of a run: which steps have it, who rewrites, what joins the loss.

The rules are those of :mod:`search_env.agents.rollouts.memorisation`. Nothing is kept from step to
step: paths depend on the step's seed and rollouts, and on the weights that played them, so a
resumed run has the same ones. Replies of an endpoint are kept in ``rewrites.jsonl``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from search_env.agents.inference.rollout_engine import RolloutEngine
from search_env.agents.learning.distributed import Ranks
from search_env.agents.rollouts.memorisation import (
    MODEL,
    ORACLE,
    MemorisationConfig,
    RightRollouts,
    memorise,
)
from search_env.agents.rollouts.rewriters import Model, Oracle, Rewriter, RewritingTask
from search_env.agents.rollouts.rewriting_endpoint import Endpoint
from search_env.agents.types import Example
from search_env.envs.search_qa_vector import SearchQAVectorEnv

REPLIES = "rewrites.jsonl"


class MemorisedStep(NamedTuple):
    """The examples of a step on this rank, and metrics over all ranks."""

    examples: list[Example] | None  # None in a run without memorisation
    measured: dict[str, float]


class Memorisation:
    """Rewrites the right rollouts of a step where the configuration asks for it."""

    def __init__(
        self,
        config: MemorisationConfig,
        envs: SearchQAVectorEnv,
        engine: RolloutEngine,
        out: str | Path,
        ranks: Ranks,
    ) -> None:
        self.config, self._ranks = config, ranks
        self._rewriter: Rewriter | None = None
        if config.weight:
            self._rewriter = make_rewriter(config, envs, engine, Path(out) / REPLIES)
        self._dynamics = envs.components.dynamics(1)

    def collector(self, step: int) -> RightRollouts | None:
        """Return what collects the rollouts of a step, None where none are rewritten."""
        return RightRollouts(self.config) if self.config.is_due(step) else None

    def rewrite(self, rollouts: RightRollouts | None, seed: int) -> MemorisedStep:
        """Return the examples of a step; all ranks call it together."""
        if self._rewriter is None:
            return MemorisedStep(None, {})
        started = time.perf_counter()
        examples: list[Example] = []
        counts = [0.0, 0.0, 0.0, 0.0]
        if rollouts is not None:
            chosen = rollouts.chosen(seed)
            found = memorise(self._dynamics, self._rewriter, chosen, self.config, seed)
            examples = found.examples
            counts = [float(rollouts.count), float(len(chosen)), float(found.written)]
            counts.append(float(len(examples)))
        names = ("right", "chosen", "written", "kept")
        totals = zip(names, self._ranks.sum(counts), strict=True)
        measured = {f"memory/{name}": total for name, total in totals}
        return MemorisedStep(examples, {**measured, "time/rewrite": time.perf_counter() - started})


def make_rewriter(
    config: MemorisationConfig, envs: SearchQAVectorEnv, engine: RolloutEngine, replies: Path
) -> Rewriter:
    """Return the rewriter that a configuration names; an endpoint's replies go to ``replies``.

    Raises:
        ConfigurationError: It is an endpoint, and its package is missing or its address is none.
    """
    components = envs.components
    protocol, tokenizer = components.protocol, components.tokenizer
    if config.source == ORACLE:
        return Oracle(protocol, tokenizer, config.statement)
    task = RewritingTask(protocol, config.prompt)
    if config.source == MODEL:
        return Model(
            engine,
            task,
            tokenizer,
            max_tokens=config.max_tokens,
            style=components.prompt,
            chat_template_kwargs=components.config.chat_template_kwargs,
        )
    return Endpoint(
        config.source,
        config.endpoint_model,
        task,
        tokenizer,
        replies,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        timeout=config.timeout,
        retries=config.retries,
        concurrency=config.concurrency,
    )
