"""Wrong command lines are refused before a model is loaded or a file written."""

from __future__ import annotations

import os
import shlex

import pytest
from typer.testing import CliRunner

from search_env.cli.main import app

WORLD = "bench world-2hop/r1-searcher/bm25-world1k/v1 --agent model:tiny-trained"
LINES = {
    "train --phases 3": ["reward", "'3'"],
    "train --phases f1,f-1": ["Did you mean 'f1'"],
    "train --phases f1,r1-searcher-text-stage1-paper --protocol search-r1": ["R1-Searcher's tags"],
    "eval --reward r1-searcher-text-stage1-paper --protocol search-r1": ["R1-Searcher's tags"],
    "train --phases f1,": ["separated by commas"],
    "train --reward exact-mach": ["Did you mean 'exact-match'"],
    "train --reward f1 --phases 1": ["--phases or --reward"],
    "train --dataset wrld": ["Did you mean 'world'"],
    "train --dataset toy+musiqe": ["Did you mean 'musique'"],
    "train --dataset toy+": ["both sides of +"],
    "train --dataset bamboogle": ["a split to train on", "--split"],
    "train --split trian": ["Did you mean 'train'"],
    "train --eval-split tset": ["Did you mean 'test'"],
    "train --eval-dataset nowhere": ["'nowhere'"],
    "train --dataset toy --corpus README.md": ["would not search", "retriever='bm25'"],
    "train --corpus /no/such": ["corpus at /no/such"],
    "train --retriever bm52": ["Did you mean 'bm25'"],
    "train --retriever cassette:/no/such": ["/no/such"],
    "train --protocol serch-r1": ["Did you mean 'search-r1'"],
    "train --tokenizer /no/such": ["/no/such"],
    "train --top-k 0": ["top_k", "got 0"],
    "train --top-k five": ["--top-k", "valid integer"],
    "train --max-tokens 1": ["max_tokens", "got 1"],
    "train --steps -1": ["steps", "got -1"],
    "train --minutes nan": ["minutes to be a number"],
    "train --num-envs 0": ["num_envs"],
    "train --dtype fp16": ["Did you mean 'bf16'"],
    "train --processes 0": ["processes"],
    "train --preset grp": ["Did you mean 'grpo'"],
    "train --config /no/such.toml": ["/no/such.toml"],
    "train --config pyproject.txt": [".toml, .yaml, .yml, .json"],
    "train --set lr=1": ["'lr'"],
    "train --set top_k=3": ["Did you mean 'env_options.top_k'"],
    "train --set env_options.topk=3": ["Did you mean 'top_k'"],
    "train --set eval_options.top_k=true": ["eval_options.top_k", "True"],
    "train --set learning_rate=fast": ["learning_rate to be a number"],
    "train --set steps=3 --steps 4": ["each setting once"],
    "train --set optimizer.learning_rate=1": ["Set algorithm.learning_rate"],
    "train --set device=cuda:7": ["cuda:7"],
    "train --difficulties /no/such": ["search-env label"],
    "train --import no.such.module": ["no.such.module", "PYTHONPATH"],
    "train SearchQA-v1": ["Did you mean 'SearchQA-v0'"],
    "train --out /dev/null/run": ["/dev/null is a file"],
    "train --evaldataset toy": ["--eval-dataset"],
    "label --out OUT --right exact": ["Did you mean 'exact_match'"],
    "label --out OUT --dataset wrld": ["Did you mean 'world'"],
    "label --out OUT --dataset bamboogle": ["a split to train on"],
    "label --out OUT --retriever x": ["retriever", "'x'"],
    "label --out /dev/null/labels": ["--out", "written"],
    "sample --out OUT --keep rihgt": ["Did you mean 'right'"],
    "sample --out OUT --least nan": ["least to be a finite number"],
    "sample --out OUT --dataset wrld": ["Did you mean 'world'"],
    "sample --out OUT --reward exact-mach": ["Did you mean 'exact-match'"],
    "sample --out OUT --temperature 0": ["temperature above 0"],
    "sample --out OUT --top-p 2": ["top_p", "at most 1"],
    "sample --out OUT --dtype fp23": ["dtype", "'fp23'"],
    "sample --out OUT --concurrency 3": ["got concurrency"],
    "sample --out OUT --agent oracel": ["Did you mean 'oracle'"],
    "sample --out OUT --agent oracle --model m": ["got model"],
    "sample --out OUT --agent http://127.0.0.1:1/v1": ["Pass --model"],
    "sample --out /dev/null/kept": ["--out", "written"],
    "revise /no/such --reviser m --output OUT": ["/no/such"],
    "revise README.md --reviser m --output OUT": ["a recorded episode", "README.md"],
    "revise README.md --reviser m --output OUT --wrong no": ["--wrong among"],
    "revise README.md --reviser m --output OUT --set x=1": ["'x'"],
    "revise README.md --reviser m --output /dev/null/x": ["written"],
    "sft --out OUT --optimizer adam": ["Did you mean 'adamw'"],
    "sft --out OUT --dtype fp23": ["Did you mean 'fp32'"],
    "sft --out OUT --dataset wrld": ["Did you mean 'world'"],
    "sft --out OUT --env SearchQA-v1": ["Did you mean 'SearchQA-v0'"],
    "sft --out OUT --reward f1": ["recorded episodes with --reward"],
    "sft --out OUT --least 1": ["recorded episodes with --least"],
    "sft --out OUT /no/such": ["/no/such"],
    "sft --out OUT README.md --dataset toy": ["dataset", "keep their questions"],
    "sft --out /dev/null/sft": ["/dev/null is a file"],
    f"{WORLD} --ablation no-document": ["Did you mean 'no-documents'"],
    f"{WORLD} --dataset wrld": ["Did you mean 'world'"],
    f"{WORLD} --corpus /no/such": ["corpus at /no/such"],
    f"{WORLD} --retriever bm52": ["Did you mean 'bm25'"],
    f"{WORLD} --trained-on toy:tset": ["Did you mean 'test'"],
    f"{WORLD} --judge http://127.0.0.1:1/v1": ["--judge-model"],
    f"{WORLD} --out /dev/null/x": ["written"],
    f"{WORLD} --samples 3": ["temperature above 0"],
    "eval --dataset wrld": ["Did you mean 'world'"],
    "eval --reward exact-mach": ["Did you mean 'exact-match'"],
    "eval --retriever bm52": ["Did you mean 'bm25'"],
}


def _must_not_load(*arguments, **options):
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize("line", LINES)
def test_b7_wrong_lines_are_refused_before_anything_is_loaded(line, tmp_path, monkeypatch):
    # The home of the function last: a module that is imported here takes it from there.
    for module in ("benchmarks.players.local_model", "agents.training.run", "agents.models"):
        monkeypatch.setattr(f"search_env.{module}.load_model", _must_not_load)
    words = shlex.split(line.replace("OUT", str(tmp_path / "out")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("x")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, (result.output, result.exception)
    flat = " ".join(result.stderr.replace("│", " ").split())
    assert all(part in flat for part in LINES[line]), flat
    assert os.listdir(tmp_path) == ["README.md"]
