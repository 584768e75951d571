from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys

import gymnasium as gym
import pytest
from typer.testing import CliRunner

import search_env
from search_env.cli.main import COMMANDS, app
from search_env.recording.record import _checksum
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.registry import register_retriever
from search_env.wrappers.record_episodes import RecordEpisodes
from tests.rewards.groups import FEWEST

COMMAND = [sys.executable, "-c", "from search_env.cli.main import main; main()"]
PASSAGES = '{"id": "u", "title": "Ulm", "text": "A city."}\n{"id": "p", "title": "", "text": "x"}\n'


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def test_the_version_is_shown():
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith(f"search-env {search_env.__version__}, Python 3.")


@pytest.mark.parametrize(
    ("words", "found"),
    [("search-env su", "suite"), ("search-env bench --ag", "--agent"), ("search-env xyz", "")],
)
def test_shells_complete_commands_and_their_options(words, found):
    place = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    environment = {**os.environ, "_SEARCH_ENV_COMPLETE": "complete_bash", **place}
    program = "from search_env.cli.main import app; app(prog_name='search-env')"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.stdout.decode().split() == found.split()


def refused(result, *parts):
    """One line on standard error, no traceback, exit code 2."""
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    for part in parts:
        assert part in result.stderr


def rows_of(text):
    """The table's first lines, by agent."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if " answered " in line}


def test_eval_prints_the_known_scores_of_the_toy():
    result = run("eval", "SearchQA-Toy-v0")
    assert result.exit_code == 0, result.output
    assert "64 of 64 questions (test)" in result.stdout
    rows = rows_of(result.stdout)
    # EM, F1, cover EM, support recall, all supports, answer recall, searches, stop reasons
    assert rows["closed-book"] == [*[".000"] * 6, "0.00", "answered", "64"]
    assert rows["question-as-query"] == [*[".000"] * 6, "1.00", "answered", "64"]
    assert rows["oracle-queries"] == rows["oracle"] == [*["1.00"] * 6, "1.00", "answered", "64"]
    assert re.search(r"^random .*max_tokens \d+ *$", result.stdout, re.M)
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 100
    assert result.stdout.splitlines()[-1].startswith("Next: ")


def test_eval_takes_agents_in_order_once_and_a_limit():
    result = run(
        *("eval", "SearchQA-Toy-v0", "--agent", "oracle", "--agent", "closed-book"),
        *("--agent", "oracle", "--limit", 7, "--split", "train"),
    )
    assert list(rows_of(result.stdout)) == ["oracle", "closed-book"]
    assert "7 of 64 questions (train)" in result.stdout


def test_eval_passes_arguments_on_and_writes_the_run(tmp_path):
    out = tmp_path / "runs" / "toy.json"
    arguments = [
        *("eval", "SearchQA-Toy-v0", "--agent", "oracle", "--limit", "2", "--seed", "3"),
        *("--protocol", "search-r1", "--tokenizer", "byte", "--top-k", "2"),
        *("--max-tokens", "2000", "--out", str(out)),
    ]
    assert run(*arguments).exit_code == 0
    content = json.loads(out.read_text("utf-8"))
    assert content["command"] == " ".join(["search-env", *arguments])
    assert content["seed"] == 3
    expected = {"protocol": "search-r1", "tokenizer": "byte", "top_k": 2, "max_tokens": 2000}
    assert expected.items() <= content["env_spec"]["kwargs"].items()
    assert content["env_spec"]["kwargs"]["split"] == "test"
    assert [e["answer"] for e in content["agents"]["oracle"]["episodes"]] == [
        e["golds"][0] for e in content["agents"]["oracle"]["episodes"]
    ]


def test_eval_of_the_world():
    result = run("eval", "--limit", 8, "--agent", "oracle")
    assert result.exit_code == 0, result.output
    assert rows_of(result.stdout)["oracle"][:5] == ["1.00"] * 5


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["eval", "SearchQA-Tyo-v0"], ["got 'SearchQA-Tyo-v0'", "Did you mean 'SearchQA-Toy-v0'"]),
        (["play", "SearchQA-Tyo-v0"], ["Did you mean 'SearchQA-Toy-v0'"]),
        (["eval", "--agent", "orcale"], ["got 'orcale'", "Did you mean 'oracle'"]),
        (["eval", "SearchQA-Toy-v0", "--protocol", "r1-sercher"], ["mean 'r1-searcher'"]),
        (["eval", "SearchQA-Toy-v0", "--split", "tset"], ["mean 'test'"]),
        (["eval", "SearchQA-Toy-v0", "--max-tokens", "3"], ["room in max_tokens=3"]),
        (["eval", "CartPole-v1"], ["got CartPoleEnv"]),
        (["play", "SearchQA-Toy-v0", "--question-id", "toy-tset-01"], ["mean 'toy-test-01'"]),
        (["index", "/nowhere/passages.jsonl", "index"], ["/nowhere/passages.jsonl"]),
    ],
)
def test_mistakes_are_reported_in_one_line(arguments, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run(*arguments), *parts)
    assert not list(tmp_path.iterdir())


def test_unwritable_results_are_refused_before_the_run(tmp_path):
    result = run("eval", "SearchQA-Toy-v0", "--out", tmp_path)
    refused(result, "--out")
    assert not result.stdout


def test_play_from_a_pipe():
    result = run(
        *("play", "SearchQA-Toy-v0", "--question-id", "toy-test-09"),
        stdin="? key1 key1\n! value3\n",
    )
    assert result.exit_code == 0, result.output
    assert "<q>key1 key1 </q><d>value" in result.stdout
    assert "Ended     answered" in result.stdout


def test_play_is_seeded_and_may_be_left():
    first, second = (run("play", "SearchQA-Toy-v0", "--seed", 3, stdin="") for _ in range(2))
    assert first.stdout == second.stdout
    assert first.exit_code == 0
    assert "Left before the end." in first.stderr


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "passages.jsonl"
    path.write_text(PASSAGES, "utf-8")
    return path


def test_index_builds_what_eval_searches_in(corpus, tmp_path):
    out = tmp_path / "index"
    result = run("index", corpus, out, "--k1", 1.2, "--b", 0.75)
    assert result.exit_code == 0, result.output
    index = BM25Retriever.load(out)
    assert (index.k1, index.b, len(index)) == (1.2, 0.75, 2)
    assert "2 passages, 0.0 MB, digest " + index.digest in result.stdout
    assert f"corpus={str(out)!r}" in result.stdout
    written = tmp_path / "run.json"
    result = run(
        *("eval", "--agent", "closed-book", "--limit", 1, "--tokenizer", "byte"),
        *("--corpus", out, "--out", written),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(written.read_text("utf-8"))["retriever"]["digest"] == index.digest


def test_index_overwrites_only_by_force_and_only_an_index(corpus, tmp_path):
    out = tmp_path / "index"
    out.mkdir()
    assert run("index", corpus, out).exit_code == 0
    refused(run("index", corpus, out), "pass --force")
    assert run("index", corpus, out, "--force").exit_code == 0
    refused(run("index", corpus, tmp_path, "--force"), str(tmp_path))
    assert corpus.exists()


def test_index_suggests_the_layout_that_fits(corpus, tmp_path):
    refused(run("index", corpus, tmp_path / "index", "--format", "flashrga"), "mean 'flashrag'")
    refused(run("index", corpus, tmp_path / "index", "--format", "flashrag"), "'native'")
    assert not (tmp_path / "index").exists()


@pytest.fixture
def episodes(tmp_path):
    """Two episodes of the toy, the first with the right answer, and one with failed retrieval."""
    path = tmp_path / "episodes.jsonl"
    register_retriever("down", lambda: FakeRetriever(error=OSError("down")))
    ends = [("<q>key0 key0 </q><a>{} </a>", {}), ("<a>value1 value2 </a>", {})]
    ends.append(("<q>key0 </q>", {"retriever": "down", "on_retrieval_error": "truncate"}))
    for text, arguments in ends:
        env = RecordEpisodes(gym.make("SearchQA-Toy-v0", **arguments), path)
        env.reset(seed=0, options={"index": 0})
        gold = env.unwrapped.transcript().question.answers[0]
        for token in env.unwrapped.tokenizer.encode(text.format(gold)).tolist():
            env.step(token)
    return path


def test_replay_counts_what_it_compared(episodes):
    result = run("replay", episodes)
    assert result.exit_code == 0, result.output
    # 8 + 5 + 4 observations: one of each reset, one of each token sent
    assert result.stdout == (
        "3 episodes, 17 observations and 1 searches compared: all as recorded.\n"
    )


def test_replay_exits_with_the_first_difference(episodes):
    row = json.loads(episodes.read_text().splitlines()[0])
    del row["sha256"]
    row["tokens"][0][1][0] += 1
    row["sha256"] = _checksum(row)
    episodes.write_text(json.dumps(row) + "\n")
    refused(run("replay", episodes), "line 1", "reset: expected an observation", "Likely cause")


def test_rescore_prints_totals_and_parts(episodes):
    result = run(
        *("rescore", episodes, "--reward", "exact-match", "--reward", "f1"),
        *("--reward", "exact-match"),
    )
    assert result.exit_code == 0, result.output
    header, _, *rows, means, left_out = result.stdout.splitlines()
    assert header.split() == ["reward", "part", "mean"]
    assert [row.split() for row in rows] == [
        ["exact-match", "total", "0.5000"],
        ["exact_match", "0.5000"],
        ["f1", "total", "0.5000"],
        ["f1", "0.5000"],
    ]
    assert means == "Means over 2 episodes."
    assert left_out == "1 left out because retrieval failed."


def test_rescore_adds_a_group_reward(episodes):
    group = ("--group-reward", FEWEST.name)
    refused(run("rescore", episodes, "--reward", "f1", *group), "--group-by question")
    result = run("rescore", episodes, "--reward", "f1", *group, "--group-by", "question")
    assert result.exit_code == 0, result.output
    assert "f1 + test-fewest-searches" in result.stdout
    rows = dict(line.split()[-2:] for line in result.stdout.splitlines()[2:5])
    assert rows == {"total": "1.0000", "f1": "0.5000", "frugal": "0.5000"}


@pytest.mark.parametrize("command", [["replay"], ["rescore", "--reward", "f1"]])
def test_recorded_episodes_that_cannot_be_read(command, episodes, tmp_path):
    refused(run(*command, tmp_path / "none.jsonl"), "no such file", "RecordEpisodes")
    refused(run(*command, episodes, "--torn-tail", "skp"), "Did you mean 'skip'")
    episodes.write_bytes(episodes.read_bytes()[:-9])
    refused(run(*command, episodes), "line 3", "--torn-tail skip")
    assert run(*command, episodes, "--torn-tail", "skip").exit_code == 0
    episodes.write_bytes(b"")
    refused(run(*command, episodes), "got an empty file")


def test_modules_of_the_user_are_imported(episodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "rewards_of_my_own.py").write_text(
        "from search_env.rewards import F1, register_reward\n"
        "register_reward((2 * F1).renamed('test-cli-double'), replace=True)\n"
    )
    name = "test-cli-double"
    refused(run("rescore", episodes, "--reward", name), "got 'test-cli-double'")
    refused(run("rescore", episodes, "--reward", name, "--import", "nope"), "got 'nope'")
    result = run("rescore", episodes, "--reward", name, "--import", "rewards_of_my_own")
    assert "1.0000" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_follows_the_convention_and_has_help_with_an_example(command):
    module = importlib.import_module(COMMANDS[command][0])
    assert callable(getattr(module, f"{command.replace('-', '_')}_command"))
    result = run(command, "--help")
    assert result.exit_code == 0, result.output
    assert f"Example: search-env {command}" in " ".join(result.stdout.split())
    assert command in run("--help").stdout.split()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from search_env.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'bm25s', 'PIL', 'torch', 'agents', 'huggingface_hub'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == "[]"


INTERRUPTED = """
import itertools, os, signal
from search_env.agents.baselines.scripted import RandomAgent
from search_env.cli.main import main

begin, episodes = RandomAgent.begin, itertools.count()

def interrupted(agent, env, observation):
    if next(episodes) == 7:
        os.kill(os.getpid(), signal.SIGINT)
    begin(agent, env, observation)

RandomAgent.begin = interrupted
main()
"""


def test_ctrl_c_shows_what_is_finished_and_writes_nothing(tmp_path):
    agents = ["--agent", "closed-book", "--agent", "random"]
    out = tmp_path / "run.json"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "eval", *agents, "--limit", "40", "--out", str(out)],
        capture_output=True,
        text=True,
        # A suite that runs in the background is deaf to Ctrl-C, and so would its children be.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 130, done.stdout + done.stderr
    assert {"closed-book", "random"} <= {
        line.split()[0] for line in done.stdout.splitlines() if line
    }
    assert "Next:" not in done.stdout
    assert "Interrupted in random after 7 of 40 questions" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_misspelt_command_suggests_the_nearest():
    result = CliRunner().invoke(app, ["trian"])
    assert result.exit_code == 2
    assert "Did you mean 'train'?" in " ".join(result.output.replace("│", " ").split())
