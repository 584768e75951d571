"""Files of results: whole lines, nothing twice, nothing of another run."""

from __future__ import annotations

import gzip
import json
import os

import gymnasium as gym
import pytest

from search_env.agents.baselines.scripted import make_baseline
from search_env.benchmarks.harness.errors import ResultsError, ResultsMismatchError
from search_env.benchmarks.harness.results_file import EpisodeResult, ResultsWriter, read_results
from search_env.benchmarks.harness.rules import FORMER_RULES_DIGESTS
from search_env.errors import DataNotFoundError
from search_env.evaluation.evaluate import evaluate

HEADER = {
    "protocol": "p/q/r/v1",
    "digests": {"questions": "a"},
    "agent": {"name": "x"},
    "decoding": {},
    "ablation": None,
    "seed": 0,
    "date": "today",
}


@pytest.fixture(scope="module")
def records():
    env = gym.make("SearchQA-Toy-v0", split="test")
    return evaluate(env, make_baseline("oracle"), range(4))


def played(records, *keys):
    return [EpisodeResult(i, s, records[i], 0.5, {"prompt": 3}) for i, s in keys]


def test_what_is_written_is_read_in_order(tmp_path, records):
    path = tmp_path / "deep" / "r.jsonl"
    episodes = played(records, (2, 1), (0, 0), (2, 0), (1, 0))
    with ResultsWriter(path, HEADER) as writer:
        for episode in episodes:
            writer.write(episode)
        assert writer.done == {(2, 1), (0, 0), (2, 0), (1, 0)}
    found = read_results(path)
    assert found.episodes == tuple(sorted(episodes, key=lambda p: (p.index, p.sample)))
    assert HEADER.items() <= found.header.items()
    assert found.records[0] == records[0]


def test_a_run_goes_on_and_writes_nothing_twice(tmp_path, records):
    path = tmp_path / "r.jsonl"
    with ResultsWriter(path, HEADER) as writer:
        writer.write(played(records, (0, 0))[0])
    with ResultsWriter(path, {**HEADER, "date": "tomorrow"}) as writer:
        assert writer.done == {(0, 0)}
        with pytest.raises(ResultsError, match="question 0, sample 0 again"):
            writer.write(played(records, (0, 0))[0])
        writer.write(played(records, (1, 0))[0])
    assert read_results(path).header["date"] == "today"
    assert len(path.read_text("utf-8").splitlines()) == 3


@pytest.mark.parametrize("cut", [1, 30])
def test_a_line_that_was_cut_off_is_played_again(tmp_path, records, cut):
    path = tmp_path / "r.jsonl"
    with ResultsWriter(path, HEADER) as writer:
        for episode in played(records, (0, 0), (1, 0)):
            writer.write(episode)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match="run the same command again"):
        assert [p.index for p in read_results(path).episodes] == [0]
    with pytest.warns(UserWarning, match="that episode is played again"):
        writer = ResultsWriter(path, HEADER)
    with writer:
        assert writer.done == {(0, 0)}
        writer.write(played(records, (1, 0))[0])
    assert [p.index for p in read_results(path).episodes] == [0, 1]


def test_a_header_that_was_cut_off_is_written_again(tmp_path, records):
    path = tmp_path / "r.jsonl"
    ResultsWriter(path, HEADER).close()
    path.write_bytes(path.read_bytes()[:9])
    with pytest.warns(UserWarning, match="were removed"):
        writer = ResultsWriter(path, HEADER)
    with writer:
        writer.write(played(records, (0, 0))[0])
    assert len(read_results(path).episodes) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "p/q/r/v2"},
        {"digests": {"questions": "b"}},
        {"agent": {"name": "y"}},
        {"decoding": {"temperature": 1.0}},
        {"ablation": "no-documents"},
        {"seed": 1},
    ],
)
def test_results_of_another_run(tmp_path, change):
    path = tmp_path / "r.jsonl"
    ResultsWriter(path, HEADER).close()
    (name,) = change
    with pytest.raises(ResultsMismatchError, match=f"results of {name} .*Choose another file"):
        ResultsWriter(path, {**HEADER, **change})


def test_files_that_are_none_of_results(tmp_path, records):
    path = tmp_path / "r.jsonl"
    path.write_text('{"question": "Who?"}\n', "utf-8")
    with pytest.raises(ResultsError, match="another kind of file"):
        read_results(path)
    with pytest.raises(ResultsError, match="another kind of file"):
        ResultsWriter(path, HEADER)
    assert path.read_text("utf-8") == '{"question": "Who?"}\n'  # untouched
    with pytest.raises(DataNotFoundError):
        read_results(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"index": 0, "sam\n', "line 2: expected JSON"),
        (b"[]\n", "line 2: expected an object"),
        (b'{"index": 0, "sample": 0, "seconds": 1}\n', "line 2: .*without question_id"),
    ],
)
def test_damage_before_the_last_line(tmp_path, records, line, message):
    path = tmp_path / "r.jsonl"
    with ResultsWriter(path, HEADER) as writer:
        writer.write(played(records, (0, 0))[0])
    first, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + last)
    with pytest.raises(ResultsError, match=message):
        read_results(path)


def test_an_episode_twice(tmp_path, records):
    path = tmp_path / "r.jsonl"
    with ResultsWriter(path, HEADER) as writer:
        writer.write(played(records, (0, 0))[0])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(ResultsError, match="2 lines of 1 episodes"):
        read_results(path)


def test_a_former_rules_digest_is_read_as_todays_with_a_warning(tmp_path, records):
    former, current = next(iter(FORMER_RULES_DIGESTS.items()))
    old = {**HEADER, "digests": {"questions": "a", "rules": former}}
    new = {**HEADER, "digests": {"questions": "a", "rules": current}}
    path = tmp_path / "r.jsonl"
    ResultsWriter(path, old).close()
    with pytest.warns(UserWarning, match=f"{former[:12]}.*{current[:12]}"):
        header = read_results(path).header
    assert (header["digests"], header["formerly"]) == (new["digests"], {"rules": former})
    with pytest.warns(UserWarning, match="former digest"):
        writer = ResultsWriter(path, new)
    with writer:
        writer.write(played(records, (0, 0))[0])
    with pytest.warns(UserWarning, match="former digest"):
        assert len(read_results(path).episodes) == 1


def test_an_unknown_rules_digest_is_another_runs(tmp_path):
    path = tmp_path / "r.jsonl"
    ResultsWriter(path, {**HEADER, "digests": {"rules": "0" * 64}}).close()
    assert "formerly" not in read_results(path).header
    current = next(iter(FORMER_RULES_DIGESTS.values()))
    with pytest.raises(ResultsMismatchError, match="results of digests"):
        ResultsWriter(path, {**HEADER, "digests": {"rules": current}})


@pytest.mark.skipif(os.name == "nt", reason="no flock")
def test_two_writers_at_once(tmp_path):
    path = tmp_path / "r.jsonl"
    with ResultsWriter(path, HEADER), pytest.raises(ResultsError, match="another process writes"):
        ResultsWriter(path, HEADER)
    ResultsWriter(path, HEADER).close()


def test_lines_are_json_without_nan(tmp_path, records):
    path = tmp_path / "r.jsonl"
    with ResultsWriter(path, HEADER) as writer:
        writer.write(played(records, (0, 0))[0])
    for line in path.read_text("utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


# Files that others wrote: named errors with file, line and field.


def lines_of(path, records):
    with ResultsWriter(path, HEADER) as writer:
        for episode in played(records, (0, 0), (1, 0)):
            writer.write(episode)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


ODD = [[], {}, 3, "x", None, True, float("nan"), [[[]]], -1, 1.5, {"a": []}, ["a"], "\ud800"]
READ = {  # the values of each field that are right although they are odd
    **{key: [3] for key in ("index", "sample")},
    **{key: [3, None] for key in ("hops", "searches", "policy_tokens")},
    **{key: ["x", "\ud800"] for key in ("question_id", "question", "kind", "stop_reason")},
    **{key: [3, -1, 1.5] for key in ("exact_match", "f1", "cover_exact_match", "seconds")},
    "contiguous_cover_exact_match": [3, -1, 1.5],
    **{key: [3, -1, 1.5, None] for key in ("episode_return", "supporting_recall", "all_supports")},
    **{key: [3, -1, 1.5, None] for key in ("answer_recall", "judged")},
    "answer": ["x", "\ud800", None],
    "golds": [["a"]],
    **{key: [[], ["a"]] for key in ("format_faults", "queries")},
    "document_ids": [[], [["a"]]],
    "valid": [True],
    "cost": [{}],
}


def is_among(value, values):
    return any(type(value) is type(each) and value == each for each in values)


@pytest.mark.parametrize("field", READ)
def test_c7_fields_of_wrong_types_are_named(tmp_path, records, field):
    path = tmp_path / "r.jsonl"
    header, first, second = lines_of(path, records)
    for odd in ODD:
        rows = [header, first, {**second, field: odd}]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        if is_among(odd, READ[field]) or (field == "document_ids" and odd == [[[]]]):
            continue
        with pytest.raises(ResultsError, match=r"r.jsonl, line 3: expected ") as caught:
            read_results(path)
        assert "Delete the line" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", 3),
        ("protocol", None),
        ("digests", None),
        ("digests", {"rules": 3}),
        ("digests", ["a"]),
        ("agent", "oracle"),
        ("agent", {}),
        ("agent", {"name": ["x"]}),
        ("ablation", 3),
        ("command", ["a"]),
        ("judge", {"model": 3}),
        ("judge", "gpt"),
        ("formerly", {"rules": 1}),
        ("date", 20261130),
    ],
)
def test_c7_headers_of_wrong_types_are_named(tmp_path, records, field, value):
    path = tmp_path / "r.jsonl"
    header, *rows = lines_of(path, records)
    rows = [{**header, field: value}, *rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(ResultsError, match=rf"r.jsonl, line 1, field '{field}': expected "):
        read_results(path)


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b"null", b"[]", b"\xff", b"{'a': 1}", b"{}", b'{"index": 1e999}']
)
def test_c7_lines_that_are_no_episode_are_numbered(tmp_path, records, line):
    path = tmp_path / "r.jsonl"
    lines_of(path, records)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ResultsError, match=r"r.jsonl, line 4: expected"):
        read_results(path)


@pytest.mark.parametrize("start", [b"", b'{"search_env_results": 1, "x": "'])
def test_c7_a_compressed_file_is_not_unpacked_at_once(tmp_path, start):
    bomb = tmp_path / "r.jsonl.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(96):
            file.write(bytes(1 << 20))
    with pytest.raises(ResultsError, match=r"at most 64 MiB|another kind of file"):
        read_results(bomb)
