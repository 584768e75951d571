"""The study of a real model, from reading practice to its report, on a tiny model and corpus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from search_env.agents.models import load_model, save_model, tiny_config, untrained
from search_env.benchmarks.harness.results_file import read_results
from search_env.benchmarks.studies import real_model, real_model_report
from search_env.benchmarks.studies.real_model_recipe import HELD_OUT, Recipe, Study
from search_env.benchmarks.studies.real_model_report import Row, Slice, later_recall, values_of
from search_env.envs.loading import load_questions
from search_env.errors import ConfigurationError
from search_env.tokens.tokenizer import load_tokenizer

# Of peft: it reads an old name of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

FILMS, SETS = 24, ("hotpotqa", "2wikimultihopqa", "musique")
SMALL = {
    **{"top_k": 1, "max_tokens": 1536, "max_policy_tokens": 160, "dtype": "fp32", "lora_rank": 2},
    **{"imitated_tokens": 1024, "read_episodes": 4, "strong_episodes": 4, "weak_searching": 2},
    **{"weak_closed": 3, "steps": 2, "prompts": 2, "group_size": 2},
    **{"num_envs": 4, "label_questions": 3, "label_rollouts": 2, "levels": ["easy", "difficult"]},
    **{"eval_questions": 3, "checkpoint_every": 1},
}


def name(number: int) -> str:
    return f"{'ABCDEFGHIJKLMNOPQRSTUVWX'[number]}ena Roe"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Iterator[object]:
    """Films and their directors, whose places of birth two of three questions ask for."""
    folder = tmp_path_factory.mktemp("data")
    passages, questions = [], []
    for i in range(FILMS):
        film = f"Film {i + 10} is a 19{i + 10} drama film directed by {name(i)}. It is long."
        person = f"{name(i)} (born 3 May 19{i + 10}) is a writer. She was born in Ulm{i}."
        passages += [
            {"id": f"f{i}", "title": f"Film {i + 10}", "text": film},
            {"id": f"p{i}", "title": f"{name(i)} (writer)", "text": person},
        ]
        split = "dev" if i < 6 else "train"
        row = {"id": f"q{i}", "split": split, "supporting": [f"f{i}", f"p{i}"]}
        row |= {"question": f"Which town has the director of the drama film Film {i + 10}?"}
        row |= {"answers": [f"Ulm{i}"], "kind": "compositional", "source": "peterbaile/lag"}
        questions.append({**row, "dataset": SETS[i % 3]})
    for file, rows in (("passages.jsonl", passages), ("questions.jsonl", questions)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEARCH_ENV_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def study(data, tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    model = untrained(tiny_config(hidden_size=64, intermediate_size=64, layers=2))
    save_model(model, folder / "base", tokenizer=load_tokenizer("world-1k"))
    settings = {"model": str(folder / "base"), "corpus": str(data / "passages.jsonl"), **SMALL}
    (folder / "small.json").write_text(json.dumps(settings))
    call("read", "--recipe", folder / "small.json", folder=folder / "s")
    return Study(folder / "s")


def call(*words, folder):
    torch.manual_seed(0)
    real_model.main([*map(str, words), "--folder", str(folder), "--threads", "1"])


def test_nothing_is_practised_on_passages_of_evaluation(study):
    others = load_questions(HELD_OUT, None, None)
    held_out = {id_ for question in others for id_ in question.supporting}
    assert len(held_out) == 12
    practice = real_model.practice_questions(study)
    searching = real_model.searching_questions(study)
    for question in (*practice, *searching):
        assert held_out.isdisjoint(question.supporting)
    assert {question.kind for question in practice} == {"fact"}
    assert {question.kind for question in searching[:2]} == {"compositional", "chain"}
    assert {len(question.hops) for question in searching} == {2}


def test_cold_starts_search_or_do_not(study):
    env = study.env()

    def queries(example):
        written = env.tokenizer.decode(example.tokens[example.weights > 0])
        return re.findall(r"begin_of_query\|> (.*?) <\|end", written)

    strong = [queries(example) for example in real_model.start_examples(study, "strong")]
    assert len(strong) == 4
    assert all(first.startswith("Film ") and second.endswith(" Roe") for first, second in strong)
    weak = [len(queries(example)) for example in real_model.start_examples(study, "weak")]
    assert sorted(weak) == [0, 0, 0, 2, 2]


def test_too_few_questions_for_a_start(study):
    study = Study(study.folder)
    study.recipe = replace(study.recipe, strong_episodes=1000)
    with pytest.raises(ConfigurationError, match="for 1000 episodes that search, got"):
        real_model.start_examples(study, "strong")


def test_all_stages_and_the_report(study, tmp_path, capsys):
    folder = study.folder
    for words in (("start", "strong"), ("start", "weak"), ("label", "weak")):
        call(*words, folder=folder)
    labels = (folder / "weak" / "difficulties.jsonl").read_text().splitlines()
    assert len(labels) == 3
    call("train", "weak", "both", 0, folder=folder)
    assert (folder / "weak-both-0" / "adapter.safetensors").stat().st_size < 1 << 20
    capsys.readouterr()
    call("train", "weak", "both", 0, folder=folder)  # nothing is left to do
    call("start", "weak", folder=folder)
    assert capsys.readouterr().out == "weak-both-0: done before\nweak: done before\n"

    models = ("weak", "weak-both-0")
    call("evaluate", *models, "--sets", "2wiki", folder=folder)
    files = sorted(file.stem for file in (folder / "eval" / "2wiki").glob("*.jsonl"))
    assert len(files) == 1 + len(models) * 4
    forced = read_results(folder / "eval/2wiki/weak-both-0+question-as-query.jsonl")
    assert forced.header["protocol"] == "2wikimultihopqa-dev-3/r1-searcher-top1/bm25/v1"
    assert [len(record.queries) for record in forced.records] == [1] * len(forced.records)
    assert all(len(search) == 1 for r in forced.records for search in r.document_ids)
    call("report", "--output", tmp_path / "report.md", folder=folder)
    text = (tmp_path / "report.md").read_text()
    assert "## 2Wiki, compositional and inference" in text
    rows = [line for line in text.splitlines() if line.startswith("| weak-both |")]
    assert rows
    assert rows[0].split("|")[2].strip() == "1"


def test_conditions_change_what_they_name_and_nothing_else(study):
    standard = real_model.configure(study, "strong", "both", 3).to_json()
    expected = {"both": set(), "phase-2": {"phases"}, "reinforce-pp": {"algorithm"}}
    for condition, names in expected.items():
        other = real_model.configure(study, "strong", condition, 3).to_json()
        assert {name for name in other if other[name] != standard[name]} == {*names, "out"} - (
            {"out"} if condition == "both" else set()
        )
    assert standard["env_options"]["dataset_options"]["most_yes_no"] == 0.1
    assert [phase["reward"] for phase in standard["phases"]] == [
        "r1-searcher-stage1",
        "r1-searcher-stage2",
    ]


def test_models_are_made_again_from_adapters(study):
    folder = study.folder / "read"
    before = load_model(folder / "model").state_dict()
    (folder / "model").rename(folder / "kept")
    call("assemble", "read", folder=study.folder)
    after = load_model(folder / "model").state_dict()
    assert before.keys() == after.keys()
    for weights in before:
        torch.testing.assert_close(after[weights], before[weights], atol=1e-6, rtol=1e-5)
    base = load_model(study.recipe.model).state_dict()
    assert any(not torch.equal(after[weights], base[weights]) for weights in base)


def test_a_folder_keeps_its_recipe(study, tmp_path):
    with pytest.raises(ConfigurationError, match="got another"):
        Study.begin(study.folder, replace(study.recipe, top_k=2))
    with pytest.raises(ConfigurationError, match="Begin with `read`"):
        Study(tmp_path)
    with pytest.raises(ConfigurationError, match="top_j"):
        call("read", "--model", "m", "--set", "top_j=3", folder=tmp_path)
    assert Recipe(model="m").training()["dataset_options"]["apart_from"] == HELD_OUT


def test_rows_are_of_questions_that_all_seeds_have(study, tmp_path):
    Study.begin(tmp_path, study.recipe)
    call("evaluate", "base", "--variants", "", "--sets", "2wiki", folder=tmp_path)
    base = read_results(tmp_path / "eval/2wiki/base.jsonl")
    record = replace(base.records[0], kind="inference", document_ids=(("a", "b"), ("c", "d")))
    seeds = []
    for ids in (("1", "2"), ("2", "3")):
        rows = [replace(record, question_id=id_, exact_match=float(id_ == "2")) for id_ in ids]
        episodes = tuple(
            replace(base.episodes[0], index=n, record=row) for n, row in enumerate(rows)
        )
        seeds.append(replace(base, episodes=episodes))
    row = Row("x", "x", "", tuple(seeds))
    everything, none = Slice("", "2wiki"), Slice("", "2wiki", ("comparison",))
    assert values_of(row, everything, lambda r: r.exact_match) == {"2": [1.0, 1.0]}
    assert values_of(row, none, lambda r: r.exact_match) == {}
    wanted = {record.question_id: frozenset({"b", "d"})}
    assert later_recall(record, wanted) == 0.5
    assert later_recall(replace(record, document_ids=(("b",),)), wanted) is None
    assert real_model_report.SCRIPT == "question-as-query"
