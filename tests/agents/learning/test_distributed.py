"""Two processes started by torchrun do what one does."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from search_env.agents.learning.distributed import SINGLE_RANK, Ranks, init_process_group, shard
from search_env.errors import ConfigurationError
from tests.agents.learning.two_processes import train

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Results of the script run by two processes."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "results.pt")


@pytest.fixture(scope="module")
def one():
    """The same by one process."""
    return train()[0]


@pytest.mark.parametrize("how", ["parallel", "sharded"])
def test_two_processes_take_the_steps_of_one(one, two, how):
    assert two[how]["norms"] == pytest.approx(one["norms"], rel=1e-5)
    for left, right in zip(two[how]["losses"], one["losses"], strict=True):
        assert left == pytest.approx(right, rel=1e-5)
    torch.testing.assert_close(two[how]["weights"], one["weights"], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        two[how]["state"]["value_head"], one["state"]["value_head"], atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        torch.tensor(two[how]["scores"]), torch.tensor(one["scores"]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("how", ["bf16", "sharded bf16"])
def test_bfloat16_is_near(one, two, how):
    """The first gradient, before weights differ."""
    assert two[how]["norms"][0] == pytest.approx(one["norms"][0], rel=0.03)


def test_a_whole_state_is_split_and_put_together(two):
    assert two["loaded"].keys() == two["parallel"]["state"].keys()
    torch.testing.assert_close(two["loaded"], two["parallel"]["state"], atol=0, rtol=0)


def test_a_rank_with_nothing_to_learn_takes_part(two):
    from search_env.agents.learning.learner import Learner
    from tests.agents.learning.test_learner import BATCH, make_model
    from tests.agents.learning.two_processes import CONFIG

    learner = Learner(make_model(), CONFIG)
    learner.accumulate_examples([BATCH[0].example()])
    assert two["lonely"] == pytest.approx(learner.step(), rel=1e-5)


def test_muon_needs_whole_matrices(two):
    assert "whole matrices" in two["muon"]


def test_objects_travel(two):
    assert two["broadcast"] == {"rank": 0}
    assert two["gathered"] == [0, 1]


def test_alone_everything_is_the_identity():
    with init_process_group() as ranks:
        assert ranks is SINGLE_RANK
    assert SINGLE_RANK.is_main
    assert SINGLE_RANK.sum([1.5, 2]) == [1.5, 2]
    assert SINGLE_RANK.max(3) == 3
    assert SINGLE_RANK.broadcast("x") == "x"
    assert SINGLE_RANK.gather("x") == ["x"]
    assert SINGLE_RANK.split([1, 2, 3]) == [1, 2, 3]


def test_shares_are_disjoint_and_complete():
    shares = [Ranks(rank, 3).split(range(11)) for rank in range(3)]
    assert sorted(itertools.chain(*shares)) == list(range(11))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_nothing_to_split_over():
    with pytest.raises(ConfigurationError, match="torchrun"):
        shard(torch.nn.Linear(1, 1), torch.float32)
