"""The commands that :mod:`scripts.kill_tests` kills: how each goes on, and what it must leave."""

from __future__ import annotations

import hashlib
import importlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from search_env.agents.models import save_model
from search_env.agents.training import checkpoints
from search_env.agents.training.run_folder import holds_run
from search_env.envs.search_qa import bare_env
from search_env.errors import SearchEnvError
from search_env.recording.files import EpisodeWriter
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.types import Document

for _module in (  # so that a forked run does not import them anew
    *("agents.cli.imitate", "agents.cli.label", "agents.cli.revise", "agents.cli.train"),
    *("agents.imitation.demonstrations", "agents.imitation.sft", "agents.reporting.plots"),
    *("agents.reporting.summary", "agents.rollouts.revise", "agents.rollouts.sample"),
    *("agents.training.supervised_saves", "agents.training.train"),
    *("benchmarks.cli.bench", "benchmarks.cli.sample", "benchmarks.players.local_model"),
    *("benchmarks.players.factory", "benchmarks.reports.tables", "cli.eval", "cli.index"),
    *("cli.main", "evaluation.tables"),
):
    importlib.import_module(f"search_env.{_module}")

_TIMES = ("time/", "eval/seconds", "tokens/s")
_VOLATILE = {"seconds", "elapsed", "time", "date", "started", "finished", "duration", "created"}

Files = dict[str, Any]  # content by relative path, without what differs from run to run


def prepare(base: Path) -> Path:
    """Write what the commands read: a model, a corpus, an old index; return the folder."""
    base.mkdir()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    save_model(Qwen2ForCausalLM(config), base / "model")
    rows = [
        {"id": f"d{i}", "contents": f'"Title {i}"\nText of {i} and {i + 1}.'} for i in range(300)
    ]
    (base / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    BM25Retriever.build([Document("old", "old", "old text")]).save(base / "index")
    _write_episodes(base / "wasteful.jsonl")  # caches what the process has of the toy, too
    return base


def _write_episodes(path: Path) -> None:
    """Write right episodes of the toy with a search more than they need."""
    env = bare_env(gym.make("SearchQA-Toy-v0", max_tokens=24))
    writer = EpisodeWriter(path, env)
    for index in range(8):
        env.reset(options={"index": index})
        hop, other = env.questions[index].hops[0], env.questions[index + 9].hops[0]
        text = f"<q>{hop.query} </q><q>{other.query} </q><a>{hop.answer} </a>"
        for token in env.tokenizer.encode(text).tolist():
            env.step(token)
        writer.write(env.transcript())
    env.close()


@dataclass(frozen=True)
class Command:
    """A command line, and where it writes to."""

    name: str
    arguments: list[str]
    out: str
    resumed: list[str] = field(default_factory=list)  # the command line that goes on with a run
    refusal: str = "\0"  # of a run that is finished
    check: Callable[[Path], None] = lambda out: None  # raises if half of something is there

    def go_on(self, folder: Path) -> list[str]:
        """Return the command line that goes on after a kill."""
        return self.resumed if self.resumed and holds_run(folder / self.out) else self.arguments

    def is_finished(self, output: str) -> bool:
        """Return whether a command refused to go on because all was done."""
        return self.refusal in output

    def read(self, folder: Path) -> Files:
        """Return all that a finished run left in a folder, the prepared files included."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        content = {str(path.relative_to(folder)): _content(path) for path in files}
        return {name.partition("/events.out")[0]: value for name, value in content.items()}

    def check_killed(self, folder: Path, expected: Files) -> list[str]:
        """Return what is wrong after a kill, before the command goes on."""
        del expected
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.check(folder / self.out)
        except (SearchEnvError, OSError, ValueError) as error:
            return [f"half of something was left: {error}"]
        return []

    def compare(self, folder: Path, expected: Files) -> list[str]:
        """Return how what is left differs from what an undisturbed run left."""
        left = self.read(folder)
        names = left.keys() | expected.keys()
        return [
            f"{name}: {_difference(left.get(name), expected.get(name))}"
            for name in sorted(names)
            if left.get(name) != expected.get(name)
        ]


def _difference(left: Any, expected: Any) -> str:
    if left is None or expected is None:
        return "lost" if left is None else "left behind"
    if isinstance(left, list) and isinstance(expected, list):
        odd = [line for line in left if line not in expected][:2]
        lost = [line for line in expected if line not in left][:2]
        return f"{len(left)} lines, expected {len(expected)}; odd {odd}, lost {lost}"[:1500]
    return f"{left!r:.300}, expected {expected!r:.300}"


def _content(path: Path) -> Any:
    """Return a file's content without times."""
    if path.suffix == ".jsonl":
        lines = [_row(line) for line in path.read_text().splitlines()]
        if path.name == "metrics.jsonl":  # one begin and one end for each part of a run
            lines = [line for line in lines if line["event"] not in ("begin", "end")]
        return lines
    if path.suffix == ".json":
        record = _row(path.read_text())
        whole = path.name == "state.json" and isinstance(record, dict)
        return (record["step"], record["config"]) if whole else record
    if path.suffix == ".png" or path.name.startswith("events.out"):
        return "a picture or TensorBoard's"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _row(line: str) -> Any:
    try:
        return _timeless(json.loads(line))
    except ValueError:
        return f"half a line: {line[-80:]}"


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _timeless(inner)
            for name, inner in value.items()
            if name not in _VOLATILE and not name.startswith(_TIMES)
        }
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def _check_run(out: Path) -> None:
    for checkpoint in (out / "checkpoints").glob("step-*"):
        checkpoints.load(checkpoint)
    if (out / "model").exists() and not (out / "model" / "model.safetensors").is_file():
        raise ValueError(f"half a model in {out}")


def _check_index(out: Path) -> None:
    BM25Retriever.load(out)


_TOY = ["SearchQA-Toy-v0", "--model", "model", "--tokenizer", "toy", "--max-tokens", "16"]
_SETTINGS = ["prompts=4", "group_size=4", "minibatch=8", "eval_every=2", "eval_questions=8"]
_SETTINGS += ["checkpoint_every=1", "record_every=2", "learning_rate=0.001"]
_MEMORY = ["memorisation.source=oracle", 'memorisation.keep=["all"]']  # nothing is right here

COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train",
            [
                *("train", *_TOY, "--num-envs", "8", "--preset", "grpo", "--steps", "4"),
                *("--threads", "1", "--processes", "1", "--test-questions", "4", "--dtype", "fp32"),
                *("--out", "run", *(word for s in _SETTINGS for word in ("--set", s))),
            ],
            "run",
            ["train", "--resume", "--out", "run", "--test-questions", "4"],
            check=_check_run,
        ),
        Command(
            "train-plus",
            [
                *("train", *_TOY, "--num-envs", "8", "--preset", "r1-searcher++", "--steps", "3"),
                *("--threads", "1", "--processes", "1", "--test-questions", "4", "--dtype", "fp32"),
                *("--protocol", "toy", "--out", "run"),
                *(word for s in (*_SETTINGS, *_MEMORY) for word in ("--set", s)),
            ],
            "run",
            ["train", "--resume", "--out", "run", "--test-questions", "4"],
            check=_check_run,
        ),
        Command(
            "sft",
            [
                *("sft", "--model", "model", "--env", "SearchQA-Toy-v0", "--tokenizer", "toy"),
                *("--steps", "10", "--tokens-per-step", "60", "--dtype", "fp32", "--threads", "1"),
                *("--out", "run"),
            ],
            "run",
            refusal="a finished",
            check=_check_run,
        ),
        Command(
            "bench",
            [
                *("bench", "world-2hop/r1-searcher/bm25-world1k/v1", "--limit", "6"),
                *("--out", "results.jsonl", "--episodes", "episodes.jsonl"),
            ],
            "results.jsonl",
        ),
        Command(
            "eval",
            ["eval", "SearchQA-Toy-v0", "--limit", "4", "--out", "results.json"],
            "results.json",
        ),
        Command(
            "index",
            ["index", "corpus.jsonl", "index", "--force"],
            "index",
            check=_check_index,
        ),
        Command(
            "label",
            [
                *("label", *_TOY, "--num-envs", "8", "--limit", "12", "--rollouts", "3"),
                *("--threads", "1", "--out", "labels.jsonl"),
            ],
            "labels.jsonl",
        ),
        Command(
            "sample",
            [
                *("sample", *_TOY, "--num-envs", "8", "--limit", "12", "--rollouts", "24"),
                *("--keep", "well-formed", "--most", "2", "--threads", "1"),
                *("--out", "kept.jsonl"),
            ],
            "kept.jsonl",
        ),
        Command(
            "revise",
            [
                *("revise", "wasteful.jsonl", "--reviser", "model", "--output", "revised.jsonl"),
                *("--num-envs", "8", "--rollouts", "4", "--least-right", "1", "--dtype", "fp32"),
                *("--set", "gamma=0.2", "--threads", "1"),
            ],
            "revised.jsonl",
        ),
    )
}
