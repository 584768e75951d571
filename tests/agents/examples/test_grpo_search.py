"""GRPO in one file: its arithmetic by hand, its rollouts token by token, a short run."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
grpo = pytest.importorskip("search_env.agents.examples.grpo_search")

ARGS = grpo.Args(prompts=2, group_size=8, minibatch=8, steps=1, questions=2, max_policy_tokens=96)
SHORT = grpo.Args(**{**vars(ARGS), "max_policy_tokens": 24})  # an answer fits, a search does not


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads of models this small wait for one another: minutes on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return grpo.AutoModelForCausalLM.from_pretrained(grpo.Args.model, dtype=torch.float32)


@pytest.fixture(scope="module")
def envs():
    return grpo.make_envs(ARGS, split="train", num_envs=16, group_size=8, vocab_size=1024)


@pytest.fixture(scope="module")
def played(model, envs):
    """Sixteen sampled episodes; with this seed some search, at different times."""
    torch.manual_seed(0)
    obs, _ = envs.reset(seed=0)
    return grpo.rollout(model, envs, obs)


def test_it_is_one_short_file_without_the_packages_trainer():
    text = Path(grpo.__file__).read_text("utf-8")
    assert len(text.splitlines()) <= 250
    for line in text.splitlines():
        assert not line.strip().startswith(("import search_env.agents", "from search_env.agents"))


def test_group_advantages_by_hand():
    paid = torch.tensor([1.0, 0.0, 0.5, 0.5, 0.0, 0.0])
    found = grpo.group_advantages(paid, 2)
    deviation = math.sqrt(0.5) + 1e-4  # of (1, 0), unbiased
    assert found.tolist() == pytest.approx([0.5 / deviation, -0.5 / deviation, 0, 0, 0, 0])
    assert found[2:].tolist() == [0.0] * 4


def test_the_loss_by_hand_and_its_gradient_through_policy_tokens_alone():
    old = torch.zeros(2, 3)
    logp = torch.tensor([[0.0, 0.1, 5.0], [0.5, 7.0, -0.5]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, True]])
    loss = grpo.policy_loss(logp, old, torch.tensor([2.0, 1.0]), mask, 0.2)
    expected = 2 * 1 + 2 * math.exp(0.1) + 1.2 + math.exp(-0.5)  # the third is clipped
    assert loss.item() == pytest.approx(-expected)
    loss.backward()
    assert (logp.grad != 0).tolist() == [[True, True, False], [False, False, True]]


def test_the_mask_marks_what_the_policy_wrote(played, envs):
    transcripts = [envs.transcript(row) for row in range(16)]
    assert played.mask_BT.sum(1).tolist() == [t.num_policy_tokens for t in transcripts]
    assert played.length_B.tolist() == [len(t.tokens) for t in transcripts]
    for row, transcript in enumerate(transcripts):
        assert np.array_equal(played.tokens_BT[row, : len(transcript.tokens)], transcript.tokens)
    searched = [len(t.searches) > 0 for t in transcripts]
    assert 0 < sum(searched) < 16
    assert played.scores["search_rate"] == pytest.approx(np.mean(searched))
    assert (played.logp_BT[~played.mask_BT] == 0).all()


def test_rollout_and_update_have_the_same_log_probabilities(model, played):
    """Padding, rounds and dropped rows leave no trace: one pass over each row alone agrees."""
    with torch.no_grad():
        for row, length in enumerate(played.length_B.tolist()):
            alone = grpo.token_log_probs(model, played.tokens_BT[row : row + 1, :length])[0]
            mask = played.mask_BT[row, :length]
            torch.testing.assert_close(
                alone[mask], played.logp_BT[row, :length][mask], atol=2e-4, rtol=1e-4
            )


def test_a_short_run_is_finite_and_repeats_itself():
    first, second = (list(grpo.train(SHORT)) for _ in range(2))
    assert first == second
    assert [name for name, _ in first] == ["before", "step 1", "after"]
    step = first[1][1]
    assert all(math.isfinite(value) for value in step.values())
    assert step["loss"] != 0
    other = itertools.islice(grpo.train(grpo.Args(**{**vars(SHORT), "seed": 1})), 2)
    assert list(other)[1][1] != step


def test_an_update_moves_the_model_unless_nothing_is_to_be_learnt(model, played):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flat = played._replace(reward_B=torch.ones_like(played.reward_B))
    assert grpo.update(model, optimizer, flat, ARGS) == 0.0
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    grpo.update(model, optimizer, played, ARGS)
    assert any(not torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model.load_state_dict(weights)


def test_ctrl_c_ends_it_without_a_traceback(monkeypatch, capsys):
    def interrupted(args):
        yield "before", {"f1": 0.5}
        raise KeyboardInterrupt

    monkeypatch.setattr(grpo, "train", interrupted)
    monkeypatch.setattr("sys.argv", ["grpo_search", "--steps", "3"])
    grpo.main()
    told = capsys.readouterr().out
    assert "f1 0.500" in told
    assert "stopped" in told


def test_it_saves_a_model_that_loads(tmp_path):
    args = grpo.Args(steps=0, questions=2, save=str(tmp_path / "model"))
    list(grpo.train(args))
    assert len(list(grpo.train(grpo.Args(model=args.save, steps=0, questions=2)))) == 2
