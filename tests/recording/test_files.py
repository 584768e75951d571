"""Episode files: exact round trips, detection of damage, writers that are killed."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import json
import lzma
import operator
import pickle
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_env
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import (
    ConfigurationError,
    DataNotFoundError,
    EpisodeFileError,
    TokenizerError,
)
from search_env.evaluation.evaluate import answer_recall
from search_env.protocols.tagged_text import query_text
from search_env.recording.files import EpisodeWriter, read_episodes
from search_env.recording.record import _checksum
from search_env.recording.replay import replay_episodes
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import F1
from search_env.rewards.answer import COVER_EXACT_MATCH, EXACT_MATCH
from search_env.rewards.evidence import passages_seen
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document, Ended, Source
from tests.work import peak_bytes

SETTINGS = [
    ("r1-searcher", "byte", 2048),
    ("r1-searcher", "world-1k", 1024),
    ("search-r1", "byte", 4096),
    ("search-r1", "world-1k", 2048),
    ("toy", "toy", 64),
]


class Odd:
    """Returns documents whose text, id and score are hard to serialise, different per query."""

    def search(self, queries, k):
        return [
            [
                Document("é\n", f"T {query}", "\ud800 \x00 <answer>x</answer> \u2028", 0.1 + 0.2),
                Document(f"d{len(query)}", "", query[::-1], -1e-300),
            ][:k]
            for query in queries
        ]


search_env.register_retriever("odd", Odd)


def transcripts_are_equal(a, b) -> bool:
    assert a.tokens.dtype == b.tokens.dtype == np.int32
    assert a.sources.dtype == b.sources.dtype == np.int8
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.sources, b.sources)
    assert (a.question, a.protocol, a.events) == (b.question, b.protocol, b.events)
    assert list(a.documents.items()) == list(b.documents.items())
    assert a.segments() == b.segments()
    return True


def play(env, ids, **reset):
    """Send ids, then end-of-sequence ids until the episode is over; return what was sent."""
    env.reset(**reset)
    end = min(env.tokenizer.eos_ids)
    sent = []
    while env.transcript().stop_reason is None:
        sent.append(ids[len(sent)] if len(sent) < len(ids) else end)
        env.step(sent[-1])
    return sent


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda s: "-".join(map(str, s[:2])))
def odd_env(request):
    protocol, tokenizer, max_tokens = request.param
    return SearchQAEnv(
        dataset="toy",
        retriever="odd",
        protocol=protocol,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        max_policy_tokens=200,
    )


def random_texts(protocol) -> st.SearchStrategy[str]:
    words = ["a", " ", "key1 ", "value2 ", "<", "é", "\U0001f600"]
    pieces = [*protocol.tag_texts, *words, *(query_text(protocol, word) for word in words)]
    return st.lists(st.sampled_from(pieces), max_size=30).map("".join)


@given(data=st.data(), seed=st.none() | st.integers(0, 2**31))
def test_round_trip(odd_env, tmp_path_factory, data, seed):
    path = tmp_path_factory.mktemp("round") / "episodes.jsonl"
    writer = EpisodeWriter(path, odd_env)
    played = []
    for _ in range(data.draw(st.integers(1, 3))):
        ids = odd_env.tokenizer.encode(data.draw(random_texts(odd_env.protocol))).tolist()
        ids += data.draw(st.lists(st.integers(0, odd_env.tokenizer.size - 1), max_size=10))
        played.append((play(odd_env, ids, seed=seed), odd_env.transcript()))
        writer.write(played[-1][1], seed=seed)
    read = list(read_episodes(path))
    assert len(read) == len(played)
    for number, (episode, (sent, transcript)) in enumerate(zip(read, played, strict=True), 1):
        assert transcripts_are_equal(episode.transcript, transcript)
        assert episode.actions.tolist() == sent
        assert episode.seed == seed
        assert episode.place == f"{path}, line {number}"
        assert episode.score == F1(transcript)
        assert len(episode.digests) == len(transcript.searches)
        assert episode.tokenizer.load().token_bytes == odd_env.tokenizer.token_bytes


@pytest.fixture(scope="module")
def toy():
    return gym.make("SearchQA-Toy-v0", split="test").unwrapped


SEARCH_AND_ANSWER = "<q>key{0} key{1} </q><a>value{0} </a>"


def write_three(path, env) -> list:
    """Three finished episodes, and their transcripts."""
    writer, played = EpisodeWriter(path, env), []
    for number in range(3):
        text = SEARCH_AND_ANSWER.format(number, number + 1)
        play(env, env.tokenizer.encode(text).tolist(), options={"index": number})
        played.append(env.transcript())
        writer.write(played[-1], seed=number)
    return played


@pytest.fixture
def three(tmp_path, toy):
    path = tmp_path / "episodes.jsonl"
    write_three(path, toy)
    return path


def test_fields_of_a_line(three):
    row = json.loads(three.read_text("ascii").splitlines()[0])
    assert row["search_env_episode"] == 2
    assert row["spec"]["id"] == "SearchQA-Toy-v0"
    assert row["spec"]["kwargs"]["split"] == "test"
    assert "render_mode" not in row["spec"]["kwargs"]
    assert row["question"]["id"] == "toy-test-00"
    assert [source for source, _ in row["tokens"]] == [1, 2, 3, 2]
    kinds = [fields[0] for fields in row["events"]]
    assert kinds == ["tag", "tag", "search", "tag", "tag", "answer", "end"]
    assert row["reward"].keys() == {"name", "total", "parts"}
    assert set(row["versions"]) == {"search-env", "python", "numpy", "gymnasium", "tokenizers"}
    assert row["versions"]["search-env"] == search_env.__version__
    assert row["tokenizer"]["digest"] == load_tokenizer("toy").digest
    assert max(map(len, three.read_bytes().splitlines())) < 2000


def test_files_may_be_joined_sorted_and_reformatted(three, tmp_path):
    rows = [json.loads(line) for line in three.read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row, sort_keys=True) + "\r\n" for row in rows[::-1] + rows))
    assert [episode.seed for episode in read_episodes(other)] == [2, 1, 0, 0, 1, 2]


@given(data=st.data())
def test_a_flipped_bit_is_noticed_wherever_it_changes_content(data, tmp_path_factory, toy):
    folder = tmp_path_factory.mktemp("flip")
    whole, flipped = folder / "whole.jsonl", folder / "flipped.jsonl"
    write_three(whole, toy)
    content = bytearray(whole.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    flipped.write_bytes(content)
    try:
        read = list(read_episodes(flipped))
    except EpisodeFileError:
        return
    # For example the case of a hexadecimal digit in an escape.
    for episode, before in zip(read, read_episodes(whole), strict=True):
        assert transcripts_are_equal(episode.transcript, before.transcript)
        assert (episode.score, episode.arguments) == (before.score, before.arguments)


def test_a_changed_number_is_noticed(three):
    lines = three.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"seed":1', '"seed":7')
    three.write_text("".join(lines))
    episodes = read_episodes(three)
    assert next(episodes).seed == 0
    with pytest.raises(EpisodeFileError, match=r"line 2: expected checksum .* was changed"):
        next(episodes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\n", "expected a recorded episode, got b'"),
        (b"not json\n", "got b'not json"),
        (b"not json", "got b'not json"),
        (b"[1]\n", "expected a recorded episode"),
        (b'{"question": "Where?"}\n', "expected a recorded episode"),
        (b"[" * 100_000 + b"\n", "expected a recorded episode"),
        (b'{"search_env_episode":' + b"9" * 5000 + b"}\n", "expected a recorded episode"),
        (bytes(range(256)) * 50, "expected a recorded episode"),
        (b'{"search_env_episode":3}\n', "expected format version 1 or 2, got 3"),
        (b'{"search_env_episode":1}\n', "expected checksum .*, got None"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_lines_that_are_no_episode_are_reported_by_number(line, message, three):
    three.write_bytes(three.read_bytes() + line)
    with pytest.raises(EpisodeFileError, match=f"^{three}, line 4: .*{message}"):
        list(read_episodes(three))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["events", 0, 0], "tga"),
        (["events", 0, 2], "no_such_tag"),
        (["events", 2], ["search", 3]),
        (["events"], []),
        (["tokens", 0, 0], 9),
        (["tokens", 0, 1, 0], 2**40),
        (["tokens", 0, 1, 0], "x"),
        (["question", "id"], None),
        (["question", "color"], "red"),
        (["question", "answers"], "one text"),
        (["question", "text"], 7),
        (["question", "hops"], [{"query": "x"}]),
        (["reward"], None),
        (["reward", "total"], "much"),
        (["reward", "parts"], [1]),
        (["spec"], []),
        (["protocol"], ["toy"]),
        (["documents", 0, 2], 7),
        (["documents", 0, 0], 7),
        (["documents"], []),
        (["events", 2, 3, 0, 0], -1),
        (["events", 2, 3, 0, 1], "high"),
        (["events", 2, 3], "none"),
        (["events", 2, 1], 10**6),
        (["events", 2, 2], None),
        (["events", 2, 4], -3),
        (["events", 2, 5], True),
    ],
    ids=str,
)
def test_a_row_of_other_software_is_checked(path, value, three):
    """A right checksum does not prove that the writer knew the format."""
    row = json.loads(three.read_text().splitlines()[0])
    del row["sha256"]
    *parents, key = path
    container = functools.reduce(operator.getitem, parents, row)
    if value is None:
        del container[key]
    else:
        container[key] = value
    three.write_text(json.dumps({**row, "sha256": _checksum(row)}) + "\n")
    with pytest.raises(EpisodeFileError, match="line 1: expected the fields of a recorded episode"):
        list(read_episodes(three))


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DataNotFoundError, match="no such file"):
        read_episodes(tmp_path / "none.jsonl")
    with pytest.raises(DataNotFoundError, match="Expected a file"):
        read_episodes(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(EpisodeFileError, match="got an empty file"):
        list(read_episodes(tmp_path / "empty.jsonl"))


def test_options_are_checked(three):
    with pytest.raises(ConfigurationError, match="Did you mean 'skip'"):
        read_episodes(three, torn_tail="skp")


def test_a_writer_stopped_anywhere_in_a_line_loses_that_line_only(three):
    content = three.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    for cut in range(start + 1, len(content) - 1, 7):
        three.write_bytes(content[:cut])
        with pytest.raises(EpisodeFileError, match=r"line 3: expected a whole episode.*cut off"):
            list(read_episodes(three))
        assert [e.seed for e in read_episodes(three, torn_tail="skip")] == [0, 1]
    three.write_bytes(content[:-1])  # only the newline is missing
    assert [e.seed for e in read_episodes(three)] == [0, 1, 2]


def test_a_cut_within_the_file_is_damage_also_where_torn_tails_are_skipped(three):
    lines = three.read_bytes().splitlines(keepends=True)
    three.write_bytes(lines[0] + lines[1][:300] + b"\n" + lines[2])
    with pytest.raises(EpisodeFileError, match="line 2: expected a recorded episode"):
        list(read_episodes(three, torn_tail="skip"))


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_appending_after_a_torn_line(three, toy, kept):
    lines = three.read_bytes().splitlines(keepends=True)
    three.write_bytes(b"".join(lines[:kept]) + lines[kept][:100])
    with pytest.warns(UserWarning, match="got 100 bytes of one whose writer was stopped"):
        writer = EpisodeWriter(three, toy)
    assert three.read_bytes() == b"".join(lines[:kept])
    writer.write(next(iter(write_three(three.with_name("x"), toy))), seed=9)
    assert [episode.seed for episode in read_episodes(three)] == [*range(kept), 9]


def test_appending_after_a_missing_newline(three, toy):
    three.write_bytes(three.read_bytes()[:-1])
    write_three(three, toy)
    assert [episode.seed for episode in read_episodes(three)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "content", [b"my notes\n", b"my notes", b"\x00\xff" * 99, b'{"search_env_episode":3}\n']
)
def test_other_files_are_not_appended_to(content, tmp_path, toy):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(EpisodeFileError, match=r"Expected a new file .* choose another path"):
        EpisodeWriter(path, toy)
    assert path.read_bytes() == content


def test_other_content_after_episodes_is_not_touched(three, toy):
    three.write_bytes(three.read_bytes() + b"my notes")
    with pytest.raises(EpisodeFileError, match=r"last line: .*my notes"):
        EpisodeWriter(three, toy)
    assert three.read_bytes().endswith(b"my notes")


def test_folders_are_made_and_nothing_is_written_before_the_first_episode(tmp_path, toy):
    path = tmp_path / "a" / "b" / "episodes.jsonl"
    EpisodeWriter(path, toy)
    assert not path.exists()
    assert path.parent.is_dir()


def test_a_full_disk_leaves_whole_lines(three, toy):
    resource = pytest.importorskip("resource")
    size = three.stat().st_size
    writer = EpisodeWriter(three, toy)
    transcript = next(read_episodes(three)).transcript
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
    try:
        with pytest.raises(OSError, match="No space left on device"):
            writer.write(transcript)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert three.stat().st_size == size
    writer.write(transcript, seed=5)
    assert [episode.seed for episode in read_episodes(three)] == [0, 1, 2, 5]


def test_only_finished_episodes(toy, tmp_path):
    toy.reset(seed=0)
    with pytest.raises(ConfigurationError, match="still runs"):
        EpisodeWriter(tmp_path / "e.jsonl", toy).write(toy.transcript())


def test_objects_are_refused_with_advice(tmp_path):
    env = SearchQAEnv(dataset="toy", retriever=FakeRetriever())
    with pytest.raises(ConfigurationError, match=r"FakeRetriever. Register it with register_ret"):
        EpisodeWriter(tmp_path / "e.jsonl", env)
    env = SearchQAEnv(dataset="toy", reward=F1 + EXACT_MATCH)
    with pytest.raises(ConfigurationError, match=r"'f1 \+ exact-match'.*register_reward"):
        EpisodeWriter(tmp_path / "e.jsonl", env)
    env = SearchQAEnv(dataset="toy", reward=F1.renamed("exact-match"))
    with pytest.raises(ConfigurationError, match="register_reward"):
        EpisodeWriter(tmp_path / "e.jsonl", env)
    assert not list(tmp_path.iterdir())


def test_a_registered_reward_object_is_written_by_name(tmp_path):
    env = SearchQAEnv(dataset="toy", protocol="toy", tokenizer="toy", reward=EXACT_MATCH)
    play(env, [])
    EpisodeWriter(tmp_path / "e.jsonl", env).write(env.transcript())
    (episode,) = read_episodes(tmp_path / "e.jsonl")
    assert (episode.reward, episode.arguments["reward"]) == ("exact-match", "exact-match")
    assert episode.env_id is None


def test_the_reward_in_force_is_recorded(three, toy):
    path = three.with_name("other.jsonl")
    writer = EpisodeWriter(path, toy)
    (first, *_) = write_three(three, toy)
    answered = dataclasses.replace(
        first, question=dataclasses.replace(first.question, answers=(first.answer, "x"))
    )
    writer.write(answered)
    writer.write(answered, reward=COVER_EXACT_MATCH)
    a, b = read_episodes(path)
    assert (a.reward, a.score.total, a.score.parts) == ("f1", 1.0, {"f1": 1.0})
    assert (b.reward, b.score.parts) == ("cover-exact-match", {"cover_exact_match": 1.0})


def test_an_episode_in_which_retrieval_failed_is_recorded_unpaid(tmp_path):
    search_env.register_retriever("down", lambda: FakeRetriever(error=OSError("down")))
    env = gym.make("SearchQA-Toy-v0", retriever="down", on_retrieval_error="truncate").unwrapped
    play(env, env.tokenizer.encode("<q>key1 </q>").tolist(), seed=0)
    EpisodeWriter(tmp_path / "e.jsonl", env).write(env.transcript())
    (episode,) = read_episodes(tmp_path / "e.jsonl")
    assert not episode.valid
    assert (episode.score.total, episode.score.parts) == (0.0, {})
    assert isinstance(episode.transcript.events[-1], Ended)


def test_another_tokenizer_is_noticed_when_text_is_needed(three):
    episode = next(read_episodes(three))
    other = dataclasses.replace(episode.tokenizer, digest="0" * 64)
    with pytest.raises(TokenizerError, match="to have digest 000000000000"):
        other(episode.actions)
    missing = dataclasses.replace(episode.transcript, decode=dataclasses.replace(other, name="x/"))
    assert F1(missing).total in (0.0, 1.0)  # events need no tokenizer


def test_padded_vocabularies_come_back(tmp_path):
    env = SearchQAEnv(dataset="toy", tokenizer="byte", vocab_size=300, max_policy_tokens=3)
    play(env, [299, 299, 65])
    EpisodeWriter(tmp_path / "e.jsonl", env).write(env.transcript())
    (episode,) = read_episodes(tmp_path / "e.jsonl")
    assert episode.actions.tolist() == [299, 299, 65]
    assert episode.transcript.text(Source.POLICY) == "A"


def test_writers_and_episodes_survive_pickling(three, toy):
    episode = pickle.loads(pickle.dumps(next(read_episodes(three))))
    assert transcripts_are_equal(episode.transcript, next(read_episodes(three)).transcript)
    pickle.loads(pickle.dumps(EpisodeWriter(three, toy))).write(episode.transcript, seed=4)
    assert [e.seed for e in read_episodes(three)] == [0, 1, 2, 4]


def test_a_vector_environment_writes_the_same_lines(tmp_path, toy):
    envs = gym.make_vec("SearchQA-Toy-v0", num_envs=2, split="test")
    envs.reset(seed=0, options={"index": 3})
    writer = EpisodeWriter(tmp_path / "vector.jsonl", envs.unwrapped)
    single = EpisodeWriter(tmp_path / "single.jsonl", toy)
    ids = toy.tokenizer.encode(SEARCH_AND_ANSWER.format(3, 4)).tolist()
    play(toy, ids, options={"index": 3})
    single.write(toy.transcript())
    for token in ids:
        envs.step(np.array([token, token]))
    for transcript in envs.unwrapped.transcripts.values():
        writer.write(transcript)
    lines = (tmp_path / "vector.jsonl").read_bytes().splitlines()
    assert lines == 2 * (tmp_path / "single.jsonl").read_bytes().splitlines()


def test_checksums_can_be_checked_with_any_json_library(three):
    """SHA-256 of the row without it: keys sorted, no white space, ASCII."""
    for line in three.read_text().splitlines():
        row = json.loads(line)
        stated = row.pop("sha256")
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        assert stated == hashlib.sha256(text.encode()).hexdigest()


def test_the_page_on_replay_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "replay.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(code, names)
    (episode,) = read_episodes("episodes.jsonl")
    assert (
        episode.actions.tolist()
        == names["env"].unwrapped.tokenizer.encode("<q>key1 key2 </q><a>value3 </a>").tolist()
    )
    rollouts = list(read_episodes("rollouts.jsonl"))
    assert len(list(replay_episodes(rollouts))) == len(rollouts) > 0


# Several texts under one id.


class Twins:
    """Answers each query with its own text, always under the same id."""

    def search(self, queries, k):
        return [[Document("same", "", f"{query} ", float(len(query)))] for query in queries]


search_env.register_retriever("twins", Twins)


def played_with_twins():
    env = SearchQAEnv(dataset="toy", retriever="twins", protocol="toy", tokenizer="toy")
    play(env, env.tokenizer.encode("<q>key0 </q><q>key1 </q><a>value0 </a>").tolist(), seed=0)
    return env


def test_a10_texts_under_one_id_are_kept_apart(tmp_path):
    env = played_with_twins()
    texts = ["key0 ", "key1 "]
    assert [s.documents[0].text for s in env.transcript().searches] == texts
    assert env.transcript().documents["same"].text == "key0 "  # by id: the first
    EpisodeWriter(tmp_path / "twins.jsonl", env).write(env.transcript(), seed=0)
    (episode,) = read_episodes(tmp_path / "twins.jsonl")
    assert [s.documents[0].text for s in episode.transcript.searches] == texts
    assert [s.documents[0].score for s in episode.transcript.searches] == [4.0, 4.0]
    assert len(set(episode.digests)) == 2
    assert transcripts_are_equal(episode.transcript, env.transcript())
    (replayed,) = replay_episodes([episode])
    assert replayed.searches == 2


def test_a10_rewards_and_pages_read_each_text(tmp_path):
    transcript = played_with_twins().transcript()
    assert [text.strip() for text in passages_seen(transcript)] == ["key0", "key1"]
    question = dataclasses.replace(transcript.question, answers=("key0",))
    assert answer_recall(dataclasses.replace(transcript, question=question)) == 1.0


def test_b5_recorded_arguments_hold_no_credentials(tmp_path):
    search_env.register_retriever_scheme("with-secrets", lambda rest: Twins(), replace=True)
    url = "with-secrets:http://me:pa55word@host/search?key=k3y"
    env = SearchQAEnv(dataset="toy", retriever=url, protocol="toy", tokenizer="toy")
    play(env, env.tokenizer.encode("<a>value0 </a>").tolist(), seed=0)
    EpisodeWriter(tmp_path / "e.jsonl", env).write(env.transcript(), seed=0)
    (episode,) = read_episodes(tmp_path / "e.jsonl")
    assert episode.arguments["retriever"] == "with-secrets:http://***@host/search?***"


def test_a_file_of_version_1_is_read(three):
    """It named documents by id and held their last scores."""
    row = json.loads(three.read_text().splitlines()[0])
    del row["sha256"]
    searches = [fields for fields in row["events"] if fields[0] == "search"]
    scores = {place: score for fields in searches for place, score in fields[3]}
    documents = {id: [*rest, scores[n]] for n, (id, *rest) in enumerate(row["documents"])}
    for fields in searches:
        fields[3] = [row["documents"][place][0] for place, _ in fields[3]]
    row |= {"search_env_episode": 1, "documents": documents}
    now = next(read_episodes(three))
    three.write_text(json.dumps({**row, "sha256": _checksum(row)}) + "\n")
    (before,) = read_episodes(three)
    assert transcripts_are_equal(before.transcript, now.transcript)
    assert before.digests == now.digests


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_compressed_files_are_read(three, tmp_path, pack):
    packed = tmp_path / "episodes.jsonl.packed"
    packed.write_bytes(pack(three.read_bytes()))
    assert [episode.seed for episode in read_episodes(packed)] == [0, 1, 2]
    packed.write_bytes(pack(three.read_bytes())[:-30])
    with pytest.raises(EpisodeFileError, match=r"an intact archive|cut off"):
        list(read_episodes(packed))


@pytest.mark.parametrize("start", [b"", b'{"search_env_episode":2,"x":"'])
def test_a_line_that_unpacks_to_very_much_is_refused(tmp_path, start, monkeypatch):
    monkeypatch.setattr("search_env.recording.files._LONGEST_LINE", 1 << 20)
    bomb = tmp_path / "bomb.jsonl.xz"
    with lzma.open(bomb, "wb", preset=0) as file:
        file.write(start)
        for _ in range(64):
            file.write(bytes(1 << 20))

    def read():
        with pytest.raises(EpisodeFileError, match=r"line 1: expected an episode of at most 1 MiB"):
            list(read_episodes(bomb))

    assert peak_bytes(read) < 12 << 20  # of 64 MiB


@pytest.mark.parametrize("depth", [500, 990, 1100, 100_000])
def test_values_inside_values(three, depth):
    row = json.loads(three.read_text().splitlines()[0])
    deep = json.dumps(row)[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}\n"
    three.write_text(deep)
    with pytest.raises(EpisodeFileError, match=r"line 1: expected"):
        list(read_episodes(three))
