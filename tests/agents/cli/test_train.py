from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import pytest
from typer.testing import CliRunner

from search_env.agents.reporting.logs import read_log
from search_env.agents.rollouts.curriculum import read_difficulties
from search_env.agents.training import checkpoints
from search_env.agents.training.run_training import run_training
from search_env.agents.training.settings import configure
from search_env.cli.main import app
from search_env.errors import ConfigurationError
from tests.agents.toy_runs import tiny_model

TOY = ("SearchQA-Toy-v0", "--tokenizer", "toy", "--max-tokens", "16", "--num-envs", "8")
SMALL = (
    *("--preset", "grpo", "--threads", "1", "--test-questions", "12"),
    *("--set", "prompts=4", "--set", "group_size=4", "--set", "minibatch=null"),
    *("--set", "eval_every=2", "--set", "eval_questions=8", "--set", "learning_rate=0.001"),
)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    for part in parts:
        assert part in result.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    return folder


def test_help_needs_no_torch():
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, safetensors=None)\n"
        "from typer.testing import CliRunner\n"
        "from search_env.cli.main import app\n"
        "for words in (['--help'], ['train', '--help'], ['label', '--help']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_to_install_is_said(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
    )
    for command in (["train"], ["label", "--model", "x", "--out", tmp_path / "x"]):
        refused(run(*command), "got no torch", 'pip install "search-env[agents]"')


def test_train_leaves_a_model_a_log_and_a_report(tmp_path, model):
    out = tmp_path / "run"
    command = ("train", *TOY, "--model", model, "--out", out, "--steps", 2, *SMALL)
    result = run(*command, "--processes", 2)
    assert result.exit_code == 0, result.output
    assert "12 questions never seen in training" in result.stdout
    assert re.search(r"before training.*\n", result.stdout)
    report = (out / "report.txt").read_text()
    assert "after training" in report
    assert "Question  find key" in report
    log = read_log(out / "metrics.jsonl")
    assert [row.step for row in log.steps] == [1, 2]
    assert [row.step for row in log.evaluations] == [0, 2]
    assert (out / "model" / "config.json").exists()
    assert (out / "training.png").stat().st_size > 10_000
    assert list((out / "tensorboard").iterdir())

    refused(run("train", *TOY, "--model", model, "--out", out), "holds a run", "--resume")
    more = run("train", "--resume", "--out", out, "--steps", 3, "--processes", 1)
    assert more.exit_code == 0, more.output
    assert [row.step for row in read_log(out / "metrics.jsonl").steps] == [1, 2, 3]
    refused(run("train", "--resume", "--out", out, "--seed", 4), "got seed", "own settings")
    (out / "config.json").write_text("{")
    refused(run("train", "--resume", "--out", out), "config.json", "Restore the file")


BOTH = """
from search_env import Document
from search_env.retrieval.registry import register_retriever

class Nothing:
    def search(self, queries, k):
        return [[] for _ in queries]

register_retriever("nothing-for-both", Nothing)
"""


def test_a_mixture_a_retriever_of_ones_own_and_three_phases(tmp_path, model, monkeypatch):
    (tmp_path / "retriever_for_both.py").write_text(BOTH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = tmp_path / "run.toml"
    settings.write_text("phase_episodes = 16\nphase_window = 8\nsteps = 5\nphases.x = 1\n")
    command = (
        *("train", *TOY, "--model", model, "--out", tmp_path / "run", *SMALL),
        *("--dataset", "toy+must-search", "--retriever", "nothing-for-both"),
        *("--import", "retriever_for_both", "--eval-dataset", "2*toy:test+must-search:test"),
        *("--phases", "f1,exact-match,f1", "--config", settings),
    )
    refused(run(*command), "phases", "'phases.x'")
    settings.write_text("phase_episodes = 16\nphase_window = 8\nsteps = 3\n")
    result = run(*command)
    assert result.exit_code == 0, result.output
    log = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [row.metrics["phase"] for row in log.steps] == [1.0, 2.0, 3.0]
    for name in ("exact_match_on_toy", "f1_on_must-search"):
        assert all(f"answer/{name}" in row.metrics for row in log.steps)
        assert all(f"eval/{name}" in row.metrics for row in log.evaluations)
    again = run("train", "--config", tmp_path / "run" / "config.json", "--out", tmp_path / "two")
    assert again.exit_code == 0, again.output
    first, second = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("run", "two"))
    assert {**first, "out": ""} == {**second, "out": ""}
    assert first["env_options"]["dataset"] == "toy+must-search"


def test_python_makes_the_run_that_the_command_makes(tmp_path, model):
    command = ("train", *TOY, "--model", model, "--steps", 2, *SMALL)
    assert run(*command, "--out", tmp_path / "a").exit_code == 0
    values = {"model": str(model), "env_id": "SearchQA-Toy-v0", "env_options.tokenizer": "toy"}
    values |= {"max_tokens": 16, "num_envs": 8, "threads": 1, "steps": 2}
    texts = [word for word in SMALL if "=" in str(word)]
    config = configure(preset="grpo", values={**values, "out": str(tmp_path / "b")}, texts=texts)
    result = run_training(config, test_questions=12)
    assert result.steps == 2
    parts = [
        {path.relative_to(tmp_path / n) for path in (tmp_path / n).rglob("*") if path.is_file()}
        for n in "ab"
    ]
    first, second = ({p for p in part if p.parts[0] != "tensorboard"} for part in parts)
    assert first == second
    for name in ("report.txt", "model/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    logs = [read_log(tmp_path / n / "metrics.jsonl") for n in "ab"]
    rewards = [[row.metrics["reward/mean"] for row in log.steps] for log in logs]
    assert rewards[0] == rewards[1]
    with pytest.raises(ConfigurationError, match="holds a run"):
        run_training(config)
    more = run_training(replace(config, steps=3), resume=True, test_questions=0)
    assert more.steps == 3


def _is_step(line, child):
    """Press Ctrl-C once a step is shown."""
    if "/1000 " in line:
        child.send_signal(signal.SIGINT)
    return "/1000 " in line


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(tmp_path, model):
    out = tmp_path / "run"
    command = ["train", *TOY, "--model", model, "--out", out, "--steps", 1000, *SMALL]
    code = f"from search_env.cli.main import app; app({[str(word) for word in command]!r})"
    # Where the tests run in the background, SIGINT is ignored from the start.
    usual = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with subprocess.Popen(
        [sys.executable, "-c", usual + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        seen = [line for line in iter(child.stderr.readline, "") if _is_step(line, child)]
        printed = child.stdout.read()
    assert seen
    assert child.returncode == 130
    assert f"search-env train --resume --out {out}" in printed
    assert checkpoints.latest(out / "checkpoints") is not None


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--preset", "grop"], ["'grop'", "Did you mean 'grpo'"]),
        (["--phases", "3"], ["reward", "'3'"]),
        (["--set", "learning_rates=1"], ["Did you mean 'learning_rate'"]),
        (["--set", "seed"], ["NAME=VALUE"]),
        (["--set", "group_size=1"], ["group_size", "at least 2"]),
        (["--difficulties", "/no/such/file"], ["search-env label"]),
        (["--model", "/no/such/model"], ["/no/such/model"]),
        (["--resume"], ["no config.json"]),
    ],
)
def test_refusals_name_what_is_wrong(tmp_path, model, arguments, parts):
    preset = [] if "--preset" in arguments or "--resume" in arguments else ["--preset", "grpo"]
    more = [] if "--resume" in arguments else [*TOY]
    if "--model" not in arguments and "--resume" not in arguments:
        more += ["--model", model]
    refused(run("train", "--out", tmp_path / "run", *more, *preset, *arguments), *parts)


def test_label_counts_rollouts_and_training_takes_its_file(tmp_path, model):
    labels = tmp_path / "labels.jsonl"
    command = ["label", *TOY, "--model", model, "--out", labels, "--rollouts", 3, "--threads", 1]
    result = run(*command, "--limit", 6)
    assert result.exit_code == 0, result.output
    assert "6 questions" in result.stdout
    assert len(read_difficulties(labels)) == 6
    assert run(*command, "--limit", 8).exit_code == 0
    assert len(read_difficulties(labels)) == 8
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    assert set(lines[0]) == {"question_id", "rollouts_needed", "level"}
    out = tmp_path / "run"
    trained = run(
        *("train", *TOY, "--model", model, "--out", out, "--steps", 1, *SMALL),
        *("--difficulties", labels, "--phases", 2),
    )
    assert trained.exit_code == 0, trained.output


@pytest.fixture
def train_on(monkeypatch, tmp_path, model):
    """Begin a run on an id of one's own; return the splits it asks for and what was printed."""
    begun = []

    def begin(config, **options):
        purposes = ("train", "evaluation", "test")
        begun.append([config.options_for(purpose)["split"] for purpose in purposes])
        raise KeyboardInterrupt

    def train(**arguments):
        gym.register("Mine-v0", vector_entry_point="search_env:SearchQAVectorEnv", kwargs=arguments)
        out = tmp_path / f"run-{len(begun)}"
        result = run("train", "json:Mine-v0", "--model", model, "--out", out, *SMALL)
        gym.registry.pop("Mine-v0")
        return (begun[-1] if begun else None), result

    monkeypatch.setattr("search_env.agents.training.run_training.train", begin)
    # The questions of published datasets may not be here.
    monkeypatch.setattr("search_env.agents.training.run_training.check_run", lambda config: None)
    return train


def test_training_on_an_id_of_ones_own_takes_the_splits_of_its_dataset(train_on, tmp_path):
    splits, result = train_on(dataset="hotpotqa", tokenizer="byte")
    assert splits == ["train", "dev", "dev"]
    assert "Warning" not in result.stderr
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "q", "question": "Who?", "answers": ["I"]}\n')
    splits, result = train_on(dataset=str(file), tokenizer="byte")
    assert splits == [None, None, None]
    assert "evaluated on questions that it is trained on (all of them)" in result.stderr


def test_a_set_only_for_testing_is_refused_and_leaves_nothing(train_on, tmp_path):
    _, result = train_on(dataset="bamboogle")
    refused(result, "with test", "Train on another dataset")
    assert not list(tmp_path.glob("run-*"))
