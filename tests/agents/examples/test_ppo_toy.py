"""The single-file PPO really learns the toy: it searches, finds, and answers from what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
ppo_toy = pytest.importorskip("search_env.agents.examples.ppo_toy")


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads of networks this small wait for one another: minutes on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_is_one_short_file():
    assert len(Path(ppo_toy.__file__).read_text("utf-8").splitlines()) < 200


def test_it_learns_to_search_and_to_answer():
    phases, best = set(), None
    for at in ppo_toy.train(ppo_toy.Args(masked=True, total_steps=350_000, epochs=4)):
        phases.add(at.phase)
        best = at
        if at.train.episode_return >= 0.9 and at.train.evidence_rate >= 0.9:
            break
    assert phases == {0, 1}
    assert best.train.episode_return >= 0.9
    assert best.train.evidence_rate >= 0.9
    assert best.train.search_rate == 1.0
    assert best.validation.episode_return > 0.5  # a guess, or the other split's answers: 1/8
