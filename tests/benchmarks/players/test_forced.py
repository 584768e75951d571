"""Models that are made to write parts of their episodes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from search_env.benchmarks.harness.results_file import read_results
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.players.forced import FORCED
from search_env.benchmarks.question_sets.registry import get_benchmark
from search_env.benchmarks.run import run
from search_env.cli.main import app
from search_env.errors import ConfigurationError
from search_env.recording.files import read_episodes
from search_env.types import Source, TagRole

ID = "world-2hop/r1-searcher/bm25-world1k/v1"
LIMIT = 5


@pytest.fixture(scope="module", params=["r1-searcher", "search-r1"])
def protocol(request):
    base = get_benchmark(ID)
    arguments = {**base.arguments, "protocol": request.param, "max_tokens": 2048}
    return replace(base, arguments=arguments, rules_digest="")


@pytest.fixture(scope="module", params=FORCED)
def episodes(request, protocol, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forced")
    agent = make_agent("model:tiny-base", protocol, seed=0, forced=request.param, dtype="fp32")
    results = run(protocol, agent, folder / "r.jsonl", limit=LIMIT, episodes=folder / "e.jsonl")
    assert results.header["agent"]["forced"] == request.param
    return request.param, [episode.transcript for episode in read_episodes(folder / "e.jsonl")]


def test_it_writes_what_it_is_made_to_and_the_rest_itself(episodes):
    name, transcripts = episodes
    assert len(transcripts) == LIMIT
    for transcript in transcripts:
        written = transcript.text(Source.POLICY)
        pairs = {pair.role: pair for pair in transcript.required_markup().tags}
        query, answer = pairs[TagRole.TOOL], pairs[TagRole.ANSWER]
        queries = [search.query for search in transcript.searches]
        if name == "closed-book":
            assert answer.open in written.partition(query.open)[0]
            assert not queries
        elif name == "search":
            assert written.startswith(query.open)
        else:
            asked = transcript.question.text.replace('"', "")  # R1-Searcher's query has none
            assert queries[0].replace('"', "") == asked
        if name == "question-as-query":
            rest = written.partition(query.close)[2]
            thought = pairs[TagRole.REASON].close
            is_open = transcript.protocol == "r1-searcher"
            assert rest.startswith(f"{thought}\n\n{answer.open}" if is_open else answer.open)
            assert len(queries) == 1
        if "search" != name != "question-first":  # what it writes itself may be malformed
            assert transcript.faults == ()
        assert len(written) > len(answer.open)


def test_the_command_names_it_and_only_models_take_it(tmp_path):
    command = ["bench", ID, "--limit", "2", "--forced", "question-as-query"]
    words = ["--agent", "model:tiny-base", "--dtype", "fp32", "--out", str(tmp_path / "r.jsonl")]
    result = CliRunner().invoke(app, [*command, *words])
    assert result.exit_code == 0, result.output
    header = read_results(tmp_path / "r.jsonl").header
    assert header["agent"]["name"] == "tiny-base, question-as-query"
    assert CliRunner().invoke(app, command).exit_code == 2  # of a script
    with pytest.raises(ConfigurationError, match="Did you mean 'search'"):
        make_agent("model:tiny-base", get_benchmark(ID), seed=0, forced="serch")
