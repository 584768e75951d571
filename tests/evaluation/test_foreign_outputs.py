"""Outputs of other systems: each layout, the published files row by row, unreadable files."""

from __future__ import annotations

import gzip
import json
import lzma
from dataclasses import asdict, replace

import gymnasium as gym
import pytest

from search_env.agents.baselines.scripted import make_baseline
from search_env.benchmarks.players.base import TokenAgent
from search_env.benchmarks.question_sets.registry import get_benchmark
from search_env.benchmarks.run import run
from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from search_env.evaluation.evaluate import evaluate, on_shared_questions, summarise
from search_env.evaluation.foreign_outputs import FORMATS, output_format, read_outputs
from search_env.evaluation.tables import run_record, write_json
from search_env.metrics.answers import HOTPOTQA, R1_SEARCHER, SQUAD
from search_env.wrappers.record_episodes import RecordEpisodes
from tests.metrics.slow_scoring import slow_contiguous, slow_cover, slow_exact, slow_f1

R1_TEXT = (
    " I look.\n<|begin_of_query|> Ulm \n mayor<|end_of_query|>\n\n<|begin_of_documents|>\n"
    "(1)Ulm   Its mayor is Jan Holt.\n<|end_of_documents|>\n\n"
    "</think> <answer> Jan </answer> <answer> Jan Holt </answer>"
)
R1_ROW = {
    "question": "Who is mayor of Ulm?",
    "answer": "Jan Holt",
    "pred_ans": " Jan Holt ",
    "stop_reason_final": "finished",
    "gen_text_store": R1_TEXT,
    "gpt4o_output": "True",
}
FLASHRAG_ROW = {
    "id": "test_0",
    "question": "Who is mayor of Ulm?",
    "golden_answers": ["Holt", "Jan Holt"],
    "output": {
        "pred": "Mayor Jan Holt",
        "finish_reason": "OnEpisode",
        "retrieved_times": 11,
        "retrieval_results": {
            "10": {"query": "last", "docs": [{"contents": '"Ulm"\nIts mayor is Jan Holt.'}]},
            "2": {"query": "first", "docs": [{"contents": '"Bonn"\nA city.'}]},
        },
        "metric_score": {"em": 1.0},
    },
    "metadata": {"type": "bridge"},
}
VERL_ROW = {
    "input": "user\nFor example, <answer> Rome </answer>. Question: Mayor of Ulm?\nassistant\n",
    "output": (
        "<search> Ulm mayor </search>\n\n<information>Doc 1(Title: Ulm) Jan Holt</information>\n\n"
        "<think>So.</think><answer> Jan Holt </answer>"
    ),
    "gts": {"target": ["Jan Holt"]},
    "score": 1.0,
    "step": 100,
}


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def only(path, format=None, rule=R1_SEARCHER):
    ((name, (episode,)),) = read_outputs(path, format, rule).items()
    assert name == path.name.split(".")[0]
    return episode


# Published files, row by row.


@pytest.mark.parametrize(
    ("name", "count", "em", "cover", "f1", "judged", "searches"),
    [
        ("bamboogle", 125, 0.456, 0.528, 0.577, 0.544, 1.98),
        ("2wiki", 500, 0.554, 0.636, 0.637, 0.650, 2.24),
    ],
)
def test_published_trajectories(data_dir, name, count, em, cover, f1, judged, searches):
    path = data_dir / "trajectories" / f"{name}_qwen.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    ((agent, episodes),) = read_outputs(path).items()
    assert (agent, len(episodes)) == (f"{name}_qwen", count)
    for row, episode in zip(rows, episodes, strict=True):
        pair = (row["pred_ans"], row["answer"], R1_SEARCHER)
        assert episode.exact_match == slow_exact(*pair)
        assert episode.f1 == pytest.approx(slow_f1(*pair))
        assert episode.cover_exact_match == slow_cover(*pair)
        assert episode.contiguous_cover_exact_match == slow_contiguous(*pair)
        assert episode.searches == row["gen_text_store"].count("<|begin_of_documents|>\n(1)")
        assert len(episode.queries) == episode.searches
        assert all(query in " ".join(row["gen_text_store"].split()) for query in episode.queries)
    summary = summarise(episodes)
    measured = (summary.exact_match, summary.cover_exact_match, summary.f1, summary.judged)
    assert [round(value.mean, 3) for value in measured] == [em, cover, f1, judged]
    assert round(summary.searches.mean, 2) == searches


# Layouts.


def test_r1_searcher(tmp_path):
    episode = only(write_rows(tmp_path / "theirs.jsonl", R1_ROW))
    assert (episode.answer, episode.exact_match, episode.judged) == (" Jan Holt ", 1.0, 1.0)
    assert (episode.queries, episode.searches) == (("Ulm mayor",), 1)
    assert (episode.answer_recall, episode.stop_reason) == (1.0, "finished")
    assert (episode.policy_tokens, episode.supporting_recall, episode.hops) == (None, None, None)


def test_a_reply_of_the_judge_that_is_no_verdict_is_none(tmp_path):
    episode = only(
        write_rows(tmp_path / "theirs.jsonl", {**R1_ROW, "gpt4o_output": "I cannot say"})
    )
    assert episode.judged is None


def test_flashrag(tmp_path):
    episode = only(write_rows(tmp_path / "intermediate_data.json", FLASHRAG_ROW))
    assert (episode.question_id, episode.kind, episode.golds) == (
        "test_0",
        "bridge",
        ("Holt", "Jan Holt"),
    )
    assert (episode.answer, episode.exact_match) == ("Mayor Jan Holt", 0.0)  # not the file's 1.0
    assert episode.f1 == pytest.approx(0.8)
    assert episode.queries == ("first", "last")  # turn 2 before turn 10
    assert (episode.searches, episode.answer_recall, episode.stop_reason) == (2, 1.0, "OnEpisode")


def test_flashrag_as_one_list_and_without_searches(tmp_path):
    path = tmp_path / "data.json"
    bare = {**FLASHRAG_ROW, "output": {"pred": None}, "metadata": None}
    once = {
        **FLASHRAG_ROW,
        "output": {"pred": "Holt", "retrieval_result": [{"contents": "Bonn\nA city"}]},
    }
    path.write_text(json.dumps([bare, once], indent=4), "utf-8")
    none, single = read_outputs(path)["data"]
    assert (none.answer, none.f1, none.searches, none.answer_recall) == (None, 0.0, None, None)
    assert (single.exact_match, single.searches, single.answer_recall) == (1.0, 1, 0.0)


@pytest.mark.parametrize("golds", [{"target": ["Jan Holt"]}, ["Jan Holt"], "Jan Holt"])
def test_verl(tmp_path, golds):
    episode = only(write_rows(tmp_path / "100.jsonl", {**VERL_ROW, "gts": golds}))
    assert (episode.question, episode.golds) == ("Mayor of Ulm?", ("Jan Holt",))
    assert (episode.exact_match, episode.queries, episode.answer_recall) == (
        1.0,
        ("Ulm mayor",),
        1.0,
    )
    assert episode.stop_reason == "answered"


def test_verl_in_the_tags_of_r1_searcher(tmp_path):
    episode = only(write_rows(tmp_path / "1.jsonl", {**VERL_ROW, "output": R1_TEXT}))
    assert (episode.answer.strip(), episode.searches) == ("Jan Holt", 1)


def test_text_without_an_answer(tmp_path):
    episode = only(
        write_rows(tmp_path / "1.jsonl", {**VERL_ROW, "output": "I give up. <answer> x"})
    )
    assert (episode.answer, episode.searches, episode.stop_reason) == (None, 0, "unknown")
    assert episode.answer_recall == 0.0


def test_our_own_runs_come_back_as_they_were(tmp_path):
    env = gym.make("SearchQA-Toy-v0", split="test")
    agents = ("oracle", "closed-book")
    episodes = {name: evaluate(env, make_baseline(name), range(3)) for name in agents}
    summaries = {name: summarise(measures) for name, measures in episodes.items()}
    path = tmp_path / "run.json"
    write_json(path, run_record(env, summaries, episodes, command="", seed=0))
    assert output_format(path) == "run"
    assert read_outputs(path) == episodes


def test_our_own_episodes_come_back_as_they_were(tmp_path):
    path = tmp_path / "episodes.jsonl"
    env = RecordEpisodes(gym.make("SearchQA-Toy-v0", split="test"), path)
    played = evaluate(env, make_baseline("oracle"), range(3))
    env.close()
    assert output_format(path) == "episodes"
    assert read_outputs(path) == {"episodes": played}


def test_results_of_a_benchmark_come_back_as_they_were(tmp_path):
    path, id = tmp_path / "results.jsonl", "world-1hop/r1-searcher/bm25-world1k/v1"
    player = TokenAgent("mine", make_baseline("oracle-queries"))
    results = run(get_benchmark(id), player, path, limit=3)
    assert output_format(path) == "bench"
    assert read_outputs(path) == {"mine": results.records}
    path.write_text(path.read_text("utf-8") + '{"question_id": "q"}\n', "utf-8")
    with pytest.raises(DataFormatError, match=r"without 'question' \(line 5\)"):
        read_outputs(path)


def test_the_rule_decides(tmp_path):
    row = {**R1_ROW, "answer": "USA", "pred_ans": "U.S.A."}
    path = write_rows(tmp_path / "theirs.jsonl", row)
    assert [only(path, rule=rule).exact_match for rule in (R1_SEARCHER, SQUAD, HOTPOTQA)] == [
        0.0,
        1.0,
        1.0,
    ]


def test_compressed_files(tmp_path):
    path = tmp_path / "theirs.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(R1_ROW).encode()))
    assert only(path).exact_match == 1.0


# Unreadable files.


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"question": "Who?", "golds": "x"}, "known layout .*fields golds, question"),
        ({**R1_ROW, "answer": True}, "answer.*gold answer"),
        ({**R1_ROW, "answer": []}, "answer.*gold answer"),
        ({**FLASHRAG_ROW, "output": "Jan Holt"}, "output.*object with pred"),
        ({**FLASHRAG_ROW, "golden_answers": [None]}, "golden_answers.*gold answer"),
        ({**VERL_ROW, "gts": {}}, "gts.*gold answer"),
    ],
)
def test_bad_rows(tmp_path, row, error):
    with pytest.raises(DataFormatError, match=error):
        read_outputs(write_rows(tmp_path / "bad.jsonl", row))


def test_a_file_cut_in_the_middle_of_a_line(tmp_path):
    path = write_rows(tmp_path / "cut.jsonl", R1_ROW, R1_ROW)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataFormatError, match=r"cut.jsonl, line 2.*JSON on one line"):
        read_outputs(path)


def test_a_run_of_another_version_or_cut(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{\n "agents": {"a": {"episodes": [{"question_id": "q"}]}}\n}', "utf-8")
    with pytest.raises(DataFormatError, match="Run the command again"):
        read_outputs(path)
    path.write_text('{\n "agents": {', "utf-8")
    with pytest.raises(DataFormatError, match="Run the command again"):
        read_outputs(path)


def test_no_file_no_layout(tmp_path):
    with pytest.raises(DataNotFoundError, match="Check the path"):
        read_outputs(tmp_path / "none.jsonl")
    with pytest.raises(ConfigurationError, match="Did you mean 'flashrag'"):
        read_outputs(write_rows(tmp_path / "x.jsonl", R1_ROW), "flashrg")
    assert set(FORMATS) == {"r1-searcher", "flashrag", "verl", "episodes", "run", "bench"}


# Shared questions.


def test_shared_questions_are_matched_by_their_text(tmp_path):
    base = only(write_rows(tmp_path / "theirs.jsonl", R1_ROW))
    other = replace(base, question="who is  Mayor of ulm?", question_id="elsewhere")
    apart = replace(base, question="Who else?")
    failed = replace(base, question="Who failed?", valid=False)
    again = replace(base, f1=0.25)
    mine, theirs = on_shared_questions([base, again, failed], [apart, failed, other])
    assert (mine, theirs) == ([base], [other])
    assert on_shared_questions([apart], [base]) == ([], [])


# Unknown is not zero.

SEARCH_R1_TEXT = (
    "<think> I look. </think> <search> Ulm mayor </search>\n\n<information>Doc 1(Title: Ulm) "
    "Jan Holt <answer>forged</answer></information>\n\n<answer> Holt </answer>"
)


def test_a8_a_trajectory_in_flashrags_layout(tmp_path):
    output = {"pred": "Holt", "final_response": SEARCH_R1_TEXT, "stop_reason": "stop"}
    episode = only(write_rows(tmp_path / "data.json", {**FLASHRAG_ROW, "output": output}))
    assert (episode.searches, episode.queries) == (1, ("Ulm mayor",))
    assert (episode.answer_recall, episode.answer, episode.stop_reason) == (1.0, "Holt", "stop")


@pytest.mark.parametrize(
    ("output", "searches", "queries"),
    [
        ({"pred": "x"}, None, ()),
        ({"pred": "x", "retrieval_results": {}}, 0, ()),
        ({"pred": "x", "retrieval_results": [[{"contents": "a"}], [{"text": "b"}]]}, 2, ("", "")),
        ({"pred": "x", "retrieval_result": [{"title": "T", "text": "b"}]}, 1, ("",)),
        (
            {"pred": "x", "retrieval_result": [], "retrieval_result_iter_0": []}
            | {"retrieval_result_iter_1": []},
            2,
            ("", ""),
        ),
        ({"pred": "x", "final_response": "no tags at all"}, None, ()),
    ],
)
def test_a8_searches_of_flashrags_pipelines(tmp_path, output, searches, queries):
    episode = only(write_rows(tmp_path / "data.json", {**FLASHRAG_ROW, "output": output}))
    assert (episode.searches, episode.queries) == (searches, queries)
    assert (episode.answer_recall is None) == (searches is None)


@pytest.mark.parametrize(("pred", "answer"), [(1945, "1945"), (1945.0, "1945"), (None, None)])
def test_a8_a_number_is_an_answer(tmp_path, pred, answer):
    row = {**FLASHRAG_ROW, "golden_answers": [1945], "output": {"pred": pred}}
    episode = only(write_rows(tmp_path / "data.json", row))
    assert (episode.answer, episode.exact_match) == (answer, float(answer is not None))


BAD = [["Holt"], {"text": "Holt"}, True, float("nan")]


@pytest.mark.parametrize("value", BAD)
def test_a8_wrong_types_are_named(tmp_path, value):
    good = {**FLASHRAG_ROW, "output": {"pred": "Holt"}}
    bad = {**FLASHRAG_ROW, "output": {"pred": value}}
    with pytest.raises(DataFormatError, match=r"a.json, line 2, field 'output.pred': .*an answer"):
        read_outputs(write_rows(tmp_path / "a.json", good, bad))
    with pytest.raises(DataFormatError, match=r"b.jsonl, line 1, field 'pred_ans': .*an answer"):
        read_outputs(write_rows(tmp_path / "b.jsonl", {**R1_ROW, "pred_ans": value}))


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (
            {**FLASHRAG_ROW, "output": {"prediction": "x", "n": 1}},
            r"field 'output.pred'.*the record has the fields n, prediction",
        ),
        ({**VERL_ROW, "output": ["a"]}, "field 'output': expected a text"),
        ({**VERL_ROW, "input": " "}, "field 'input': expected a prompt with a question"),
        ({**VERL_ROW, "gts": {"truth": "a"}}, "field 'gts': expected a gold answer"),
        ({**R1_ROW, "question": ""}, "field 'question': expected a question"),
        ({**R1_ROW, "gen_text_store": 3}, "field 'gen_text_store': expected a text"),
        ({**FLASHRAG_ROW, "id": [1]}, "field 'id': expected an id"),
        (
            {**FLASHRAG_ROW, "output": {"pred": "x", "retrieval_results": {"0": {"docs": [3]}}}},
            r"field 'output.retrieval_results.0': expected documents",
        ),
        (
            {**FLASHRAG_ROW, "output": {"pred": "x", "retrieval_results": "none"}},
            r"field 'output.retrieval_results': expected an object or a list",
        ),
    ],
)
def test_a8_wrong_fields_are_named(tmp_path, row, error):
    with pytest.raises(DataFormatError, match=error):
        read_outputs(write_rows(tmp_path / "bad.jsonl", row))


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("Question: Line one\nline two?\n", "Line one\nline two?"),
        ("For example, Question: x. Question: Who?\n<|im_end|>\n<|im_start|>assistant\n", "Who?"),
        ("user\nQuestion: Who\nwas it?\nassistant\n", "Who\nwas it?"),
        ("User:Who?\nAssistant: <think>", "Who?"),
        ("<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n", "Who?"),
        ("Who?", "Who?"),
    ],
)
def test_a8_questions_of_prompts(tmp_path, prompt, question):
    assert (
        only(write_rows(tmp_path / "1.jsonl", {**VERL_ROW, "input": prompt})).question == question
    )


@pytest.mark.parametrize("written", ["", " \n", "<|im_end|>", "<|endoftext|>", "\ud83d"])
def test_c3_an_episode_without_words_is_kept(tmp_path, written):
    rows = [VERL_ROW, {**VERL_ROW, "output": written}]
    first, second = read_outputs(write_rows(tmp_path / "1.jsonl", *rows))["1"]
    assert (first.exact_match, second.answer, second.exact_match) == (1.0, None, 0.0)
    empty = {**FLASHRAG_ROW, "output": {"pred": "", "final_response": written}}
    assert only(write_rows(tmp_path / "f.json", empty)).exact_match == 0.0
    assert only(write_rows(tmp_path / "r.jsonl", {**R1_ROW, "gen_text_store": written})).answer


def test_a8_each_layout_has_its_published_rule(tmp_path):
    golds = {"golden_answers": ["U.S.A."], "output": {"pred": "USA"}}
    flashrag = write_rows(tmp_path / "f.json", {**FLASHRAG_ROW, **golds})
    assert read_outputs(flashrag)["f"][0].exact_match == 1.0
    assert read_outputs(flashrag, rule=R1_SEARCHER)["f"][0].exact_match == 0.0
    yes = {"golden_answers": ["yes"], "output": {"pred": "yes he was"}}  # no partial credit
    assert read_outputs(write_rows(tmp_path / "y.json", {**FLASHRAG_ROW, **yes}))["y"][0].f1 == 0.0
    verl = {**VERL_ROW, "gts": "U.S.A.", "output": "<answer>USA</answer>"}
    assert read_outputs(write_rows(tmp_path / "v.jsonl", verl))["v"][0].exact_match == 1.0
    r1 = {**R1_ROW, "answer": "U.S.A.", "pred_ans": "USA"}
    assert read_outputs(write_rows(tmp_path / "r.jsonl", r1))["r"][0].exact_match == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("answer", 3),
        ("golds", []),
        ("golds", "Holt"),
        ("f1", "high"),
        ("f1", None),
        ("searches", 1.5),
        ("valid", "yes"),
        ("queries", [1]),
        ("document_ids", ["a"]),
        ("question", None),
        ("stop_reason", 3),
    ],
)
def test_a8_measures_of_wrong_types_are_named(tmp_path, field, value):
    measures = asdict(only(write_rows(tmp_path / "r.jsonl", R1_ROW)))
    run = {"agents": {"mine": {"episodes": [measures, {**measures, field: value}]}}}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run, indent=1), "utf-8")
    with pytest.raises(DataFormatError, match=f"as {field}, which is .*agent 'mine', episode 1"):
        read_outputs(path)
