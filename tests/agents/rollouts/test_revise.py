"""Revision by an engine: as the algorithm alone, whatever the rows, and after any kill."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from search_env.agents.errors import ContextLengthError
from search_env.agents.inference.rollout_engine import Decoded
from search_env.agents.rollouts.episode_queue import draw_seed
from search_env.agents.rollouts.revise import count_revisions, revise_episodes
from search_env.agents.rollouts.revision_file import RevisionFile
from search_env.envs.search_qa import SearchQAEnv
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import ConfigurationError, DataFormatError, StorageError
from search_env.metrics.answers import exact_match
from search_env.recording.files import EpisodeWriter, read_episodes
from search_env.recording.replay import replay_episodes
from search_env.recording.revise.guards import episode_verifier
from search_env.recording.revise.playback import Playback
from search_env.recording.revise.retro_search import RetroSearch, retro_search
from search_env.recording.revise.settings import RevisionSettings
from search_env.types import Source
from tests.agents.scripted_engine import ScriptedEngine
from tests.recording.revise.episodes import TOY, write

SETTINGS = RevisionSettings(rollouts=3, least_right=2)


class Reviser(ScriptedEngine):
    """Knows the toy's answers: it answers, mostly rightly, or searches first, by its row's seed."""

    def __init__(self, envs, rows=None, **options):
        super().__init__(rows or envs.num_envs, envs.components.size, max_tokens=64, **options)
        self.tokenizer = envs.tokenizer
        self.open = envs.tokenizer.encode("<q>")[0]
        self.known = {q.text: (q.hops[0].query, q.answers[0]) for q in envs.questions}
        self.writing, self.text, self.began = {}, {}, []

    def begin(self, rows, prompts, seeds):
        super().begin(rows, prompts, seeds)
        self.began += [(tuple(p.tolist()), int(s)) for p, s in zip(prompts, seeds, strict=True)]
        for row, prompt in zip(rows, prompts, strict=True):
            self.writing[row] = []
            self.text[row] = self.tokenizer.decode(prompt)

    def decode(self, rows, forbidden=None):
        ids = []
        for place, row in enumerate(rows):
            if not self.writing[row]:
                banned = () if forbidden is None else forbidden[place]
                self.writing[row] = self.tokenizer.encode(self.plan(row, banned)).tolist()
            ids.append(self.writing[row].pop(0))
            assert forbidden is None or ids[-1] not in forbidden[place]
        self.lengths[rows] += 1
        return Decoded(np.array(ids), np.zeros(len(ids), np.float32), None)

    def plan(self, row, banned):
        text = next(text for text in self.known if text in self.text[row])
        query, answer = self.known[text]
        draw = self.random[row].random()
        if draw < 0.3 and self.open not in banned:
            return f"<q>{query if draw < 0.15 else 'key1 key1'} </q>"
        return f"<a>{answer if draw < 0.9 else 'key1'} </a>"


def toy_envs(rows=6, **arguments):
    options = {**TOY, **arguments, "on_retrieval_error": "truncate"}
    return SearchQAVectorEnv(rows, autoreset_mode="Disabled", copy=False, **options)


def wasteful_texts(env, index):
    question = env.questions[index]
    query, answer = question.hops[0].query, question.answers[0]
    good, other = f"<q>{query} </q>", "<q>key5 key5 </q>"
    middle = [good, good + good, other + good, good + other, other + good + other + good]
    return middle[index % len(middle)] + f"<a>{answer} </a>"


EPISODES = 9


@pytest.fixture(scope="module")
def episodes():
    env = SearchQAEnv(**TOY)
    return [write(wasteful_texts(env, index), index, env) for index in range(EPISODES)]


def searcher(envs, settings=SETTINGS):
    return RetroSearch(envs.tokenizer, settings, episode_verifier(settings))


def revise(path, episodes, *, rows=6, settings=SETTINGS, arguments=None, **options):
    envs = toy_envs(rows, **(arguments or {}))
    engine = Reviser(envs)
    played = revise_episodes(
        *(envs, engine, searcher(envs, settings), episodes, path),
        **{"reviser": "script", "seed": 5, **options},
    )
    return played, engine


def files_of(folder, name="out.jsonl"):
    stem = name.removesuffix(".jsonl")
    names = (name, f"{name}.progress", f"{stem}.control.jsonl")
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    return [(folder / each).read_bytes() for each in names]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, episodes):
    folder = tmp_path_factory.mktemp("whole")
    played, engine = revise(folder / "out.jsonl", episodes)
    return files_of(folder), played, engine


def one_by_one(episodes, seed=5):
    """The same revisions by the algorithm alone, each roll-out in an environment of its own."""
    env, envs = SearchQAEnv(**TOY), toy_envs(1)
    search, playback = searcher(env), Playback(env)
    for number, episode in enumerate(episodes):

        def sample(branch, count, number=number):
            rollouts = []
            for member in range(count):
                engine = Reviser(envs, rows=1)
                state = playback.state(branch.trace, branch.position)
                env.set_state(state)
                drawn = draw_seed((seed, number, branch.number, member))
                engine.begin([0], [state.episode.tokens], [drawn])
                ban, over = search.active_ban(branch), False
                while not over:
                    banned = ban is not None and not ban.is_over
                    token = int(engine.decode([0], [ban.forbidden()] if banned else None).ids[0])
                    _, _, terminated, truncated, _ = env.step(token)
                    over = terminated or truncated
                    if banned:
                        ban.advance(token)
                rollouts.append(env.transcript())
            return rollouts

        yield retro_search(search, episode, sample, (seed, number))


def test_it_is_the_algorithm_alone(episodes, whole, tmp_path):
    expected = list(one_by_one(episodes))
    (tmp_path / "out.jsonl").write_bytes(whole[0][0])
    written = list(read_episodes(tmp_path / "out.jsonl"))
    assert len(written) == EPISODES
    taken = set()
    for episode, revision, before in zip(written, expected, episodes, strict=True):
        assert episode.transcript.tokens.tolist() == revision.after.tokens.tolist()
        assert episode.transcript.events == revision.after.events
        record = episode.revision
        assert record.ops_accepted == revision.taken
        assert sum(record.tried.values()) == sum(revision.tried.values())
        assert record.n_search_before == len(before.searches)
        assert (
            record.n_search_after
            == len(revision.after.searches)
            == len(episode.transcript.searches)
        )
        assert record.tokens_after == np.count_nonzero(revision.after.sources == Source.POLICY)
        assert record.grounded
        taken |= set(revision.taken)
    assert len(taken) >= 2
    assert whole[1].branches == sum(sum(r.tried.values()) for r in expected)


def test_revised_episodes_are_right_shorter_and_replay(whole, tmp_path, episodes):
    path = tmp_path / "out.jsonl"
    path.write_bytes(whole[0][0])
    counts = count_revisions(path)
    assert counts.episodes == EPISODES
    assert counts.searches[0] == sum(len(e.searches) for e in episodes)
    assert counts.searches[1] < counts.searches[0]
    assert counts.steps[1] < counts.steps[0]
    assert counts.revised >= 4
    assert (counts.from_memory, counts.failed) == (0, 0)
    assert sum(n for name, n in counts.tried.items() if name.endswith(" taken")) >= counts.revised
    for episode in read_episodes(path):
        transcript = episode.transcript
        assert exact_match(transcript.answer, transcript.question.answers) == 1.0
    assert sum(r.searches for r in replay_episodes(read_episodes(path))) == counts.searches[1]


def test_the_control_has_the_same_episodes_as_they_were(whole, tmp_path, episodes):
    path = tmp_path / "control.jsonl"
    path.write_bytes(whole[0][2])
    control = list(read_episodes(path))
    assert [e.transcript.tokens.tolist() for e in control] == [e.tokens.tolist() for e in episodes]
    assert all(e.revision is None for e in control)


@pytest.mark.parametrize("rows", [3, 4, 16])
def test_rows_change_nothing(tmp_path, episodes, whole, rows):
    revise(tmp_path / "out.jsonl", episodes, rows=rows)
    assert files_of(tmp_path) == whole[0]


def test_only_revised_ones_with_as_many_unrevised_ones(tmp_path, episodes, whole):
    revise(tmp_path / "out.jsonl", episodes, keep="revised")
    written = list(read_episodes(tmp_path / "out.jsonl"))
    assert 0 < len(written) < EPISODES
    assert all(e.revision.ops_accepted for e in written)
    control = list(read_episodes(tmp_path / "out.control.jsonl"))
    numbers = [e.revision.trajectory for e in written]
    assert [e.transcript.tokens.tolist() for e in control] == [
        episodes[number].tokens.tolist() for number in numbers
    ]


def test_a_roll_out_that_is_too_long_is_cut_off_and_wrong(tmp_path, episodes):
    class Endless(Reviser):
        def plan(self, row, banned):
            return "key1 "

    envs = toy_envs()
    settings = replace(SETTINGS, longest=0.1, operators=("continue",))
    search = searcher(envs, settings)
    engine = Endless(envs)
    limited = episodes[:1]
    revise_episodes(envs, engine, search, limited, tmp_path / "out.jsonl", reviser="endless")
    (episode,) = read_episodes(tmp_path / "out.jsonl")
    assert episode.revision.tried == {"continue wrong": 1}


# Going on.


def interrupt_after(count):
    calls = []

    def progress(done, total):
        calls.append((done, total))
        if done == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("stop", [0, 1, 4, EPISODES - 1])
def test_an_interrupted_run_goes_on_to_the_same_files(tmp_path, episodes, whole, stop):
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        revise(path, episodes, progress=interrupt_after(stop))
    told = []
    revise(path, episodes, rows=4, progress=lambda *seen: told.append(seen))
    assert files_of(tmp_path) == whole[0]
    assert told == [(done, EPISODES) for done in range(stop, EPISODES + 1)]
    played, _ = revise(path, episodes)  # nothing is left
    assert played.branches == played.policy_tokens == 0
    assert files_of(tmp_path) == whole[0]


def test_no_branch_that_was_judged_is_sampled_again(tmp_path, episodes, whole, monkeypatch):
    """Stopped after each branch in turn: what is left is what was not played."""
    add, total = RevisionFile.add_outcome, whole[1].branches
    for stop in range(1, total, 5):
        path, added = tmp_path / str(stop) / "out.jsonl", []

        def add_and_stop(self, number, branch, outcome, added=added, stop=stop):
            add(self, number, branch, outcome)
            added.append((number, branch.number))
            if len(added) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(RevisionFile, "add_outcome", add_and_stop)
        with pytest.raises(KeyboardInterrupt):
            revise(path, episodes)
        monkeypatch.setattr(RevisionFile, "add_outcome", add)
        played, engine = revise(path, episodes, rows=5)
        assert played.branches == total - stop
        seeds = {seed for _, seed in engine.began}
        judged = {draw_seed((5, *numbers, 0)) for numbers in added}
        assert not seeds & judged
        assert files_of(path.parent) == whole[0]


def test_whatever_a_kill_leaves_is_gone_on_with(tmp_path, episodes, whole):
    """The progress cut after each byte of some lines, with all or part of the next episode."""
    path = tmp_path / "whole" / "out.jsonl"
    path.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        revise(path, episodes, progress=interrupt_after(5))
    results, progress = path.read_bytes(), (path.parent / "out.jsonl.progress").read_bytes()
    lines = progress.splitlines(keepends=True)
    for number in range(1, len(lines), 4):
        begun = b"".join(lines[:number])
        rows = [json.loads(line) for line in lines[1:number]]
        size = max((row["size"] for row in rows if "size" in row), default=0)
        following = results[size:].partition(b"\n")[0] + b"\n" if size < len(results) else b""
        for extra, torn in ((b"", b""), (following[:-9], lines[number][:20]), (following, b"")):
            out = tmp_path / "out.jsonl"
            out.write_bytes(results[:size] + extra)
            (tmp_path / "out.jsonl.progress").write_bytes(begun + torn)
            (tmp_path / "out.control.jsonl").unlink(missing_ok=True)
            revise(out, episodes)
            names = ("out.jsonl", "out.jsonl.progress", "out.control.jsonl")
            assert [(tmp_path / name).read_bytes() for name in names] == whole[0]


def test_more_episodes_may_follow_but_no_other_settings(tmp_path, episodes, whole):
    path = tmp_path / "out.jsonl"
    revise(path, episodes[:4])
    revise(path, episodes)
    assert files_of(tmp_path) == whole[0]
    others = [
        ({"seed": 6}, "with seed 5, got 6"),
        ({"reviser": "m"}, 'with reviser "script", got "m"'),
        ({"keep": "revised"}, 'with keep "all", got "revised"'),
        ({"settings": replace(SETTINGS, gamma=0.5)}, "revision.gamma 0.9, got 0.5"),
        ({"arguments": {"top_k": 2}}, "with arguments.top_k null, got 2"),
    ]
    for changes, message in others:
        with pytest.raises(ConfigurationError, match=message):
            revise(path, episodes, **changes)
    with pytest.raises(ConfigurationError, match="Expected episode 0 to be the one with digest"):
        revise(path, episodes[::-1])
    assert files_of(tmp_path) == whole[0]


def test_files_of_others_stay(tmp_path, episodes, whole):
    path, progress = tmp_path / "out.jsonl", tmp_path / "out.jsonl.progress"
    control = tmp_path / "out.control.jsonl"
    for content, record, error, message in (
        (b"something else\n", None, ConfigurationError, "with other content after byte 0"),
        (whole[0][0], None, ConfigurationError, "with other content after byte 0"),
        (whole[0][0][:50], whole[0][1], ConfigurationError, "got 50. Restore it"),
        (b"", b"[]\n", DataFormatError, "the settings of a revision"),
        (b"", whole[0][1] + b"{}\n", DataFormatError, "an episode that is done"),
    ):
        path.write_bytes(content)
        progress.unlink(missing_ok=True)
        if record is not None:
            progress.write_bytes(record)
        with pytest.raises(error, match=message):
            revise(path, episodes)
        assert path.read_bytes() == content
        assert (progress.read_bytes() if progress.exists() else None) == record
    path.unlink()
    progress.unlink()
    control.write_bytes(b"mine\n")
    with pytest.raises(ConfigurationError, match="no file yet where the unrevised episodes go"):
        revise(path, episodes)
    assert [p.name for p in tmp_path.iterdir()] == ["out.control.jsonl"]


def test_a_file_that_another_process_writes_is_refused(tmp_path, episodes):
    envs = toy_envs()
    options = {"reviser": "script", "settings": {}}
    path = tmp_path / "out.jsonl"
    refused = pytest.raises(StorageError, match="another process")
    with RevisionFile(path, envs, searcher(envs), episodes, **options), refused:
        RevisionFile(path, envs, searcher(envs), episodes, **options)
    assert not list(tmp_path.iterdir())


def test_rows_and_contexts_that_do_not_suffice_are_named(tmp_path, episodes):
    with pytest.raises(ConfigurationError, match="as many rows as roll-outs of a branch, 3, got 2"):
        revise(tmp_path / "out.jsonl", episodes, rows=2)
    with pytest.raises(ContextLengthError, match="at most max_tokens=20 tokens"):
        revise(tmp_path / "out.jsonl", episodes, arguments={"max_tokens": 20})
    assert not list(tmp_path.iterdir())


def test_counts_are_of_revised_episodes_only(tmp_path, episodes):
    path = tmp_path / "a.jsonl"
    EpisodeWriter(path, SearchQAEnv(**TOY)).write(episodes[0])
    with pytest.raises(ConfigurationError, match="an episode that was revised"):
        count_revisions(path)
