"""``search-env revise``, then ``search-env sft`` on what it wrote; what it refuses."""

from __future__ import annotations

import gymnasium as gym
import pytest
from typer.testing import CliRunner

from search_env.agents.models import save_model
from search_env.cli.main import app
from search_env.recording.files import EpisodeWriter, read_episodes
from search_env.recording.replay import replay_episodes
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.registry import register_retriever
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document
from tests.agents.toy_runs import tiny_model
from tests.recording.revise.episodes import write

COUNT = 6
FAST = ("--rollouts", 2, "--least-right", 1, "--num-envs", 6, "--dtype", "fp32", "--threads", 1)


def _run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def reviser(tmp_path_factory):
    return save_model(tiny_model(), tmp_path_factory.mktemp("reviser") / "model")


def _record(path, *, wrong=False, count=COUNT, **arguments):
    env = gym.make("SearchQA-Toy-v0", max_searches=4, max_tokens=30, **arguments).unwrapped
    writer = EpisodeWriter(path, env)
    for index in range(count):
        question = env.questions[index]
        query, answer = question.hops[0].query, question.answers[0]
        answer = {"value1": "value2"}.get(answer, "value1") if wrong else answer
        text = f"<q>{query} </q><q>key5 key5 </q><a>{answer} </a>"
        writer.write(write(text, index, env))
    return path


def test_episodes_are_revised_then_imitated(tmp_path, reviser):
    path, out = _record(tmp_path / "episodes.jsonl"), tmp_path / "revised.jsonl"
    line = ("revise", path, "--reviser", reviser, "--output", out, *FAST, "--set", "gamma=0.5")
    line += ("--set", "least_score=1.0", "--operator", "stop", "--operator", "skip")
    done = _run(*line)
    assert done.exit_code == 0, done.output
    assert "of 6 episodes were revised" in done.output
    assert f"search-env sft {out} --model {reviser}" in done.output
    written = list(read_episodes(out))
    control = list(read_episodes(tmp_path / "revised.control.jsonl"))
    before = list(read_episodes(path))
    assert len(written) == len(control) == COUNT
    assert [e.transcript.tokens.tolist() for e in control] == [
        e.transcript.tokens.tolist() for e in before
    ]
    assert sum(1 for _ in replay_episodes(read_episodes(out))) == COUNT
    tried = {name.split()[0] for e in written for name in e.revision.tried}
    assert tried == {"skip", "stop"}
    assert all(e.revision.reviser == str(reviser) for e in written)
    content = out.read_bytes()
    again = _run(*line)
    assert again.exit_code == 0, again.output
    assert out.read_bytes() == content
    other = _run(*line[:-1], "continue")
    assert (other.exit_code, "revision.operators" in other.output) == (2, True)
    for file in (out, tmp_path / "revised.control.jsonl"):
        sft = _run(
            *("sft", file, "--model", reviser, "--out", tmp_path / file.stem, "--dtype", "fp32"),
            *("--tokenizer", "toy", "--steps", 3, "--tokens-per-step", 60),
        )
        assert sft.exit_code == 0, sft.output


def test_only_revised_ones_may_be_none(tmp_path, reviser):
    path = _record(tmp_path / "episodes.jsonl", count=2)
    done = _run(
        *("revise", path, "--reviser", reviser, "--output", tmp_path / "out.jsonl", *FAST),
        *("--operator", "stop", "--set", "least_right=2", "--keep", "revised", "--limit", 1),
    )
    assert done.exit_code == 0, done.output
    assert "None of 1 episodes was revised" in done.output
    assert not (tmp_path / "out.jsonl").exists()
    assert (tmp_path / "out.control.jsonl").read_bytes() == b""
    assert (tmp_path / "out.jsonl.progress").read_text().count("\n") == 2


def _refused(path, reviser, *options):
    out = path.parent / "out.jsonl"
    done = _run("revise", path, "--reviser", reviser, "--output", out, *FAST, *options)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert [p.name for p in path.parent.glob("out*")] == []
    return " ".join(done.output.split())


def test_wrong_trajectories_are_refused_by_name_or_left_out(tmp_path, reviser):
    path = _record(tmp_path / "episodes.jsonl")
    _record(path, wrong=True, count=1)
    output = _refused(path, reviser)
    assert "line 7, question 'toy-train-00'" in output
    assert "Only right ones are revised" in output
    done = _run(
        *("revise", path, "--reviser", reviser, "--output", tmp_path / "ok.jsonl", *FAST),
        *("--wrong", "skip", "--limit", 2),
    )
    assert done.exit_code == 0, done.output
    assert len(list(read_episodes(tmp_path / "ok.jsonl"))) == 2


def test_another_protocol_is_refused_by_name(tmp_path, reviser):
    path = _record(tmp_path / "episodes.jsonl")
    world = gym.make("SearchQA-v0", dataset_options={"articles": 120, "questions": 2}).unwrapped
    answer = world.questions[0].answers[0]
    text = f"</think>\n\n<answer> {answer} </answer>"
    EpisodeWriter(path, world).write(write(text, env=world))
    output = _refused(path, reviser)
    assert "line 7: expected an episode of the same environment" in output
    assert "with protocol 'toy', got 'r1-searcher'" in output


def test_a_reviser_with_another_tokenizer_is_refused_by_name(tmp_path):
    path = _record(tmp_path / "episodes.jsonl")
    output = _refused(path, "tiny-base")
    assert "line 1: expected a reviser with the episodes' tokenizer 'toy', got tiny-base" in output
    other = save_model(
        tiny_model(vocabulary=257), tmp_path / "bytes", tokenizer=load_tokenizer("byte")
    )
    assert "expected a reviser with the episodes' tokenizer 'toy'" in _refused(path, other)
    small = save_model(tiny_model(vocabulary=20), tmp_path / "small")
    assert "samples the episodes' 24 ids" in _refused(path, small)


def test_a_corpus_that_has_changed_is_refused_by_name(tmp_path, reviser):
    toy = gym.make("SearchQA-Toy-v0").unwrapped
    queries = [question.hops[0].query for question in toy.questions]

    def serve(text):
        documents = {query: [Document(f"d{text}", "", text)] for query in queries}
        register_retriever("changing", lambda: FakeRetriever(documents), replace=True)

    serve("value1")
    path = _record(tmp_path / "episodes.jsonl", retriever="changing")
    serve("value2")
    output = _refused(path, reviser)
    assert "line 1, question 'toy-train-00'" in output
    assert "the corpus, the index or the retriever changed" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--wrong", "keep"], "--wrong among"),
        (["--keep", "some"], "keep among"),
        (["--operator", "skp"], "Did you mean 'skip'"),
        (["--set", "gama=0.5"], "Did you mean 'gamma'"),
        (["--set", "gamma"], "--set NAME=VALUE"),
        (["--set", "gamma=high"], "gamma to be a number"),
        (["--least-right", "3"], "at most rollouts=2, got 3"),
        (["--num-envs", "1"], "as many rows as roll-outs"),
        (["--max-tokens", "12"], "at most max_tokens=12 tokens"),
        (["--top-p", "0"], "top_p"),
        (["--reviser", "/no/such"], "/no/such"),
    ],
)
def test_bad_options_are_named(tmp_path, reviser, options, words):
    path = _record(tmp_path / "episodes.jsonl", count=2)
    assert words in _refused(path, reviser, *options)


def test_no_such_file_is_named(tmp_path, reviser):
    done = _run("revise", "/no/such.jsonl", "--reviser", reviser, "--output", tmp_path / "out")
    assert (done.exit_code, "/no/such.jsonl" in done.output) == (2, True)
