"""What each process of test_distributed runs, by torchrun: ``two_processes.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from search_env.agents.learning.distributed import SINGLE_RANK, Ranks, init_process_group
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.errors import ConfigurationError
from tests.agents.learning.test_learner import BATCH, make_model

CONFIG = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
STEPS = 2


def loss_of_row(outputs, rows, groups):
    """A sum over tokens that depends on which trajectory of the whole batch a row is."""
    weights = torch.tensor([1.0 + groups[row] for row in rows.tolist()])[:, None]
    terms = weights * outputs.log_probs - 0.3 * outputs.entropies
    if outputs.values is not None:
        terms = terms + (outputs.values - 1.0).square()
    return (terms * outputs.mask).sum() / 25, {"tokens": outputs.mask.sum()}


def train(
    ranks: Ranks = SINGLE_RANK, *, sharded: bool = False, dtype="fp32", value_head: bool = True
):
    """Two updates by policy gradient and one by examples, on this rank's share of the batch."""
    learner = Learner(
        make_model(),
        CONFIG,
        dtype=dtype,
        max_tokens_per_micro_batch=40,
        value_head=value_head,
        reference=True,
        ranks=ranks,
        sharded=sharded,
    )
    numbers = ranks.split(range(len(BATCH)))
    share = [BATCH[number] for number in numbers]
    result = {"norms": [], "losses": []}
    for _ in range(STEPS):
        statistics = learner.accumulate(share, lambda o, rows: loss_of_row(o, rows, numbers))
        result["losses"].append(ranks.sum([statistics["loss"], statistics["tokens"]]))
        result["norms"].append(learner.step())
    result["losses"].append(ranks.sum([learner.accumulate_examples([t.example() for t in share])]))
    result["norms"].append(learner.step())
    scores = {number: (s, r) for number, s, r in _scores(learner, share, numbers)}
    for other in ranks.gather(scores):
        scores.update(other)
    result["scores"] = [scores[number] for number in range(len(BATCH))]
    result["weights"] = learner.weights()
    result["state"] = learner.state_dict()
    return result, learner


def _scores(learner, share, numbers):
    scores, reference = learner.score(share), learner.score(share, reference=True)
    return zip(numbers, scores.log_probs.tolist(), reference.log_probs.tolist(), strict=True)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with init_process_group() as ranks:
        results = {}
        results["parallel"], _ = train(ranks)
        results["bf16"], _ = train(ranks, dtype="bf16")
        results["sharded"], learner = train(ranks, sharded=True)
        learner.load_state_dict(results["parallel"]["state"])
        results["loaded"] = learner.state_dict()
        results["sharded bf16"], _ = train(ranks, sharded=True, dtype="bf16")
        # A rank without anything to do takes part all the same.
        lonely = Learner(make_model(), CONFIG, ranks=ranks, sharded=True)
        lonely.accumulate_examples([BATCH[0].example()] if ranks.is_main else [])
        results["lonely"] = lonely.step()
        try:
            Learner(make_model(), OptimizerConfig(optimizer="muon"), ranks=ranks, sharded=True)
        except ConfigurationError as error:
            results["muon"] = str(error)
        results["broadcast"] = ranks.broadcast({"rank": ranks.rank})
        results["gathered"] = ranks.gather(ranks.rank)
        if ranks.is_main:
            torch.save(results, folder / "results.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
