from __future__ import annotations

import json

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from rich.console import Console

from search_env.agents.baselines.scripted import make_baseline
from search_env.evaluation.evaluate import Summary, evaluate, summarise
from search_env.evaluation.tables import describe_run, notes, run_record, summary_table, write_json
from search_env.metrics.statistics import Interval


def summary(**changes):
    some = Interval(0.53125, 0.4961, 0.999, 1000)
    fields = dict.fromkeys(Summary.__dataclass_fields__, some)
    counts = {"episodes": 1000, "invalid": 0, "stop_reasons": {"max_segment_tokens": 1000}}
    return Summary(**{**fields, **counts, "by_kind": {}, "by_hops": {}, **changes})


def printed(summaries, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(summaries))
    console.file.close()
    return console.export_text()


def test_the_widest_table_fits_100_columns_unbroken():
    text = printed({"question-as-query": summary(searches=Interval(12.34, 11.0, 13.0, 9))})
    assert max(map(len, text.splitlines())) <= 100
    rows = text.splitlines()
    assert rows[-2].split() == [
        *("question-as-query", *[".531"] * 6, "12.3", "max_segment_tokens", "1000")
    ]
    assert rows[-1].split() == [*[".50-1.0"] * 6, "11.0-13.0"]


def test_missing_measures_are_dashes():
    text = printed({"oracle": summary(supporting_recall=None, searches=None)})
    assert text.splitlines()[-2].split()[4] == "-"


def test_notes_report_episodes_that_were_left_out():
    lines = notes({"oracle": summary(episodes=9, invalid=3), "random": summary()})
    assert lines[1:] == [
        "oracle: 3 episodes left out because retrieval failed.",
        "oracle: 9 questions have no known hops and were asked as they are.",
    ]


@pytest.fixture
def run():
    env = gym.make("SearchQA-Toy-v0", split="test")
    episodes = {"oracle": evaluate(env, make_baseline("oracle"), range(3), seed=5)}
    summaries = {name: summarise(measures, seed=5) for name, measures in episodes.items()}
    return env, run_record(env, summaries, episodes, command="search-env eval", seed=5)


def test_the_record_repeats_the_run(run):
    _, record = run
    again = gym.make(EnvSpec.from_json(json.dumps(record["env_spec"])))
    episodes = evaluate(again, make_baseline("oracle"), range(3), seed=record["seed"])
    assert [episode.question_id for episode in episodes] == [
        episode["question_id"] for episode in record["agents"]["oracle"]["episodes"]
    ]
    assert again.unwrapped.tokenizer.digest == record["tokenizer"]["digest"]


def test_the_record_is_json(run, tmp_path):
    _, record = run
    write_json(tmp_path / "new" / "run.json", record)
    read = json.loads((tmp_path / "new" / "run.json").read_text("utf-8"))
    assert read["agents"]["oracle"]["summary"]["exact_match"] == {
        **{"mean": 1.0, "low": 1.0, "high": 1.0, "count": 3}
    }
    assert set(read["packages"]) >= {"search-env", "numpy", "gymnasium", "bm25s"}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["run.json"]


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "run.json", {"mean": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_digest_of_the_index_is_kept():
    env = gym.make("SearchQA-v0", tokenizer="byte", dataset_options={"questions": 1})
    record = run_record(env, {}, {}, command="", seed=0)
    assert record["retriever"]["digest"] == env.unwrapped.retriever.digest
    assert record["retriever"]["class"] == "BM25Retriever"


def test_describe_run(run):
    assert describe_run(run[0], 3, 5) == (
        "SearchQA-Toy-v0: 3 of 64 questions (test), protocol toy, tokenizer toy, top_k 1, seed 5"
    )
