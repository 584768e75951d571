"""``search-env sample``: models, scripted agents, functions and endpoints; then ``sft``."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from search_env.agents.models import save_model
from search_env.cli.main import app
from search_env.recording.files import read_episodes
from search_env.recording.replay import replay_episodes
from tests.agents.toy_runs import tiny_model
from tests.benchmarks.players.endpoint_server import serving, text_reply

TOY = ("sample", "SearchQA-Toy-v0", "--tokenizer", "toy", "--limit", 6)


def _run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def base(tmp_path):
    return save_model(tiny_model(), tmp_path / "base")


def test_the_oracle_is_sampled_then_imitated(tmp_path, base):
    out = tmp_path / "kept.jsonl"
    done = _run(*TOY, "--agent", "oracle", "--rollouts", 2, "--most", 1, "--out", out)
    assert done.exit_code == 0, done.output
    assert "6 questions, 12 rollouts: 6 episodes kept, of 6 questions (100%)." in done.output
    assert f"search-env sft {out} --model tiny-base --tokenizer toy" in done.output
    episodes = list(read_episodes(out))
    assert [episode.group for episode in episodes] == [(f"kept/{i}", 2) for i in range(6)]
    assert {episode.score.total for episode in episodes} == {1.0}
    assert len(list(replay_episodes(episodes))) == 6
    words = ("--model", base, "--tokenizer", "toy", "--steps", 1, "--dtype", "fp32")
    learnt = _run("sft", out, *words, "--out", tmp_path / "sft")
    assert learnt.exit_code == 0, learnt.output
    assert (tmp_path / "sft" / "model").is_dir()


def test_a_model_is_sampled_and_gone_on_with(tmp_path, base, monkeypatch):
    from search_env.agents.rollouts.sample_file import SampleFile

    words = (*TOY, "--model", base, "--max-tokens", 16, "--num-envs", 8, "--threads", 1)
    words += ("--rollouts", 24, "--keep", "well-formed", "--most", 2, "--out")
    whole = _run(*words, tmp_path / "a" / "kept.jsonl")
    assert whole.exit_code == 0, whole.output
    assert "6 questions, 144 rollouts" in whole.output
    kept = list(read_episodes(tmp_path / "a" / "kept.jsonl"))
    assert 0 < len(kept) <= 12

    write = SampleFile.write

    def stop_after_three(self, index, rollouts):
        write(self, index, rollouts)
        if index == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SampleFile, "write", stop_after_three)
    stopped = _run(*words, tmp_path / "b" / "kept.jsonl")
    assert stopped.exit_code == 130
    assert "Run the same command to go on" in stopped.stderr
    monkeypatch.undo()
    assert _run(*words, tmp_path / "b" / "kept.jsonl").exit_code == 0
    for name in ("kept.jsonl", "kept.jsonl.progress"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    save_model(tiny_model(seed=1), base)
    other = _run(*words, tmp_path / "b" / "kept.jsonl")
    assert other.exit_code == 2
    assert "with agent.weights" in " ".join(other.stderr.split())


def test_nothing_kept_is_said_and_remembered(tmp_path):
    out = tmp_path / "kept.jsonl"
    words = (*TOY, "--agent", "closed-book", "--rollouts", 1, "--least", 2, "--out", out)
    for _ in range(2):
        done = _run(*words)
        assert done.exit_code == 0, done.output
        assert "0 episodes kept" in done.output
        assert "Nothing was kept" in done.output
    assert len((tmp_path / "kept.jsonl.progress").read_text().splitlines()) == 7
    assert not out.exists()


def test_an_endpoint_is_sampled_and_goes_on_after_failures(tmp_path):
    """A question is written when all of its rollouts are there; others are played again."""
    out = tmp_path / "kept.jsonl"

    def reply(_, request):
        if len(requests) in (4, 5):
            return 500, {"error": {"message": "busy"}}
        return text_reply("<a>" + "a" * (request["seed"] % 2))

    with serving(reply) as (url, requests):
        words = (*TOY[:2], "--limit", 6, "--agent", url, "--model", "m")
        words += (
            "--rollouts",
            2,
            "--keep",
            "all",
            "--concurrency",
            1,
            "--retries",
            0,
            "--out",
            out,
        )
        failed = _run(*words)
        assert failed.exit_code == 2
        assert "Run the same command again" in " ".join(failed.stderr.split())
        lines = (tmp_path / "kept.jsonl.progress").read_text().splitlines()[1:]
        assert 0 < len(lines) < 6
        assert _run(*words).exit_code == 0
    groups = [episode.group.id for episode in read_episodes(out)]
    assert sorted(groups) == sorted(2 * [f"kept/{index}" for index in range(6)])
    settings = json.loads((tmp_path / "kept.jsonl.progress").read_text().splitlines()[0])
    assert settings["agent"]["name"] == "m"
