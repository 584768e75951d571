"""The benchmarks for GPUs in their tiny mode, what they count on paper, and the step beside TRL."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from search_env.agents.rollouts.collect import collect, make_envs
from search_env.benchmarks.speed import throughput, training_step, trl_peer
from search_env.benchmarks.speed.scripted import END, ScriptedEngine, write_scripts
from search_env.benchmarks.speed.throughput import (
    SHAPES,
    decode_bytes,
    matrix_weights,
    random_model,
    shape_config,
)
from search_env.benchmarks.speed.training_step import Ours, check
from search_env.benchmarks.speed.trl_peer import Measured, Workload

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# On paper.


def test_weights_are_those_of_the_model():
    model = random_model("tiny", CPU)
    linear = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)]
    assert matrix_weights(shape_config("tiny")) == sum(linear)


def test_published_shapes_have_their_published_sizes():
    # Non-embedding parameters on the model cards: 1.31, 2.77 and 6.53 billion.
    configs = [shape_config(name) for name in SHAPES if name != "tiny"]
    heads = [config.vocab_size * config.hidden_size for config in configs]
    weights = [matrix_weights(c) - head for c, head in zip(configs, heads, strict=True)]
    assert [round(count / 1e9, 2) for count in weights] == [1.31, 2.77, 6.53]


def test_bytes_of_a_decoding_step():
    config = shape_config("tiny")
    # 2 layers, keys and values, 2 heads of 16 numbers, 2 bytes: 256 a token.
    assert decode_bytes(config, 3, 10) - decode_bytes(config, 3, 9) == 3 * 256
    assert decode_bytes(config, 1, 0) == 2 * matrix_weights(config)


# Scripts.


def test_a_scripted_engine_writes_its_scripts():
    envs = make_envs("SearchQA-v0", num_envs=3, vocabulary=1100, options={"max_tokens": 1024})
    questions = [i for i, q in enumerate(envs.questions) if len(q.hops) == 1][:2]
    scripts = write_scripts(envs, questions, 2, (2, 5))
    engine = ScriptedEngine(random_model("tiny", CPU), rows=3, max_tokens=1024)
    engine.follow(envs, questions, scripts)
    played = collect(envs, engine, questions, group_size=2).trajectories
    written = [t.tokens[t.policy].tolist() for t in played]
    assert written == [np.concatenate(script).tolist() for script in scripts]
    assert [t.num_searches for t in played] == [1, 1, 1, 1]
    assert [t.reward for t in played] == [1.0, 0.0, 1.0, 0.0]


# Throughput.


def test_throughput_in_tiny_mode(tmp_path, capsys):
    throughput.main(["--tiny", "--output", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert capsys.readouterr().out == page
    assert f"{throughput.__name__} --part decode step --shape tiny`" in page
    for row in ("tiny, batch 2, context 50", "tiny, batch 4", "tiny, all weights, 2 x 2"):
        assert f"| {row}" in page
    cells = [cell.strip() for cell in page.splitlines()[-1].strip("|").split("|")]
    assert cells[3] == "4"  # one search of each episode
    assert 0 < sum(float(cell.strip("%")) for cell in cells[4:10]) <= 100.5


def test_large_shapes_want_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        throughput.main(["--shape", "1.5b"])
    assert "pass --tiny" in capsys.readouterr().err


# A training step beside TRL's.


@pytest.fixture(scope="module")
def work():
    return Workload.of(rows=2, group=2, steps=2, max_tokens=3072)


def test_our_side_does_the_work(work):
    ours = Ours(work, "fp32", 3072)
    for step in range(2):
        ours.step(step)
    check(work, ours.measured, ours.measured)
    lazy = Measured(written=[[[1], [2]], [[1], [2]]], read=[1, 1])
    with pytest.raises(RuntimeError, match="from TRL, got others"):
        check(work, ours.measured, lazy)
    greedy = Measured(written=ours.measured.written, read=[2 * n for n in ours.measured.read])
    with pytest.raises(RuntimeError, match="equal length"):
        check(work, ours.measured, greedy)


def test_figures_are_medians_without_the_first_step(work):
    ours = Measured(seconds=[9.0, 1.0])
    peer = Measured(seconds=[9.0, 2.5])
    tokens = sum(map(len, work.tokens(1)))
    row = training_step.speed_row("fp32", ours, peer, work)
    assert row[1:3] == ["1.00", "2.50"]
    assert row[3:5] == [f"{tokens:,}", f"{tokens / 2.5:,.0f}"]
    assert row[5:] == ["2.50", "2.50 to 2.50"]


def test_the_chat_tokenizer_speaks_the_protocol(work):
    envs, tokenizer = work.envs, trl_peer.chat_tokenizer(work.envs)
    question = envs.questions[0]
    obs, _ = envs.reset(options={"index": 0})
    prompt = obs["tokens"][0, : obs["length"][0]].tolist()
    message = {"role": "user", "content": trl_peer.prompt_text(envs, question.text)}
    rendered = tokenizer.apply_chat_template([message], tokenize=True, return_dict=False)
    assert rendered == prompt
    turn = [*work.scripts[0][0][0].tolist(), END]
    parsed = tokenizer.parse_response(turn, prefix=prompt)
    (call,) = parsed["tool_calls"]
    assert call["function"] == {"name": "search", "arguments": {"query": question.hops[0].query}}
    block = trl_peer.search_tool(envs)(question.hops[0].query)
    assert block.startswith(envs.protocol.documents_prefix)
    assert tokenizer.parse_response(
        [*work.scripts[0][0][-1].tolist(), END],
        prefix=[*prompt, *turn, *envs.tokenizer.encode(block).tolist()],
    ).get("tool_calls") in (None, [])


def test_rewards_are_those_of_the_environment():
    said = [[{"content": "x </think> <answer> Oslo </answer>"}], [{"content": "Oslo"}]]
    assert trl_peer.reward_of(said, [["Oslo"], ["Oslo"]]) == [1.0, 0.0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_side_by_side_with_trl():
    pytest.importorskip("trl")
    given = argparse.Namespace(
        rows=2, group=2, steps=1, dtypes="fp32", micro=2, max_tokens=3072, threads=1
    )
    page = training_step.page(given)
    assert "| fp32 | " in page
