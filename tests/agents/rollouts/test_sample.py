"""Rejection sampling: which rollouts are kept, and files that can be gone on with."""

from __future__ import annotations

import json
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from search_env.agents.rollouts.collect import collect
from search_env.agents.rollouts.sample import sample_episodes
from search_env.agents.rollouts.sample_file import KeepRule, SampleFile
from search_env.errors import ConfigurationError, DataFormatError, RetrievalError, StorageError
from search_env.metrics.answers import exact_match
from search_env.protocols.grammar import format_violations
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.recording.files import read_episodes
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import get_reward
from search_env.types import Source
from tests.agents.scripted_engine import ScriptedEngine

EVERY = KeepRule(("all",))


def _envs(rows=6, **arguments):
    make = partial(gym.make_vec, "SearchQA-Toy-v0", autoreset_mode="Disabled")
    return make(num_envs=rows, on_retrieval_error="truncate", **arguments).unwrapped


class _PlansEngine(ScriptedEngine):
    """Writes one of some texts, drawn by the row's seed: right, wrong, with searches, unformed."""

    def __init__(self, envs):
        super().__init__(envs.num_envs, envs.components.size)
        protocol, question = envs.protocol, envs.questions[0]
        query = query_text(protocol, question.hops[0].query)
        answers = sorted({q.answers[0] for q in envs.questions})[:3]
        texts = [answer_text(protocol, answer) for answer in answers]
        texts += [query + text for text in texts] + [query + texts[0] * 2, "<a><a>"]
        self.plans = [envs.tokenizer.encode(text).tolist() for text in texts]
        self.left = {}

    def begin(self, rows, prompts, seeds):
        super().begin(rows, prompts, seeds)
        for row in rows:
            self.left[row] = list(self.plans[self.random[row].integers(len(self.plans))])

    def decode(self, rows):
        decoded = super().decode(rows)
        for i, row in enumerate(rows):
            decoded.ids[i] = self.left[row].pop(0) if self.left[row] else decoded.ids[i]
        return decoded


def _sample(path, rule=EVERY, *, rows=6, arguments=None, **options):
    envs = _envs(rows, **(arguments or {}))
    settings = {"rollouts": 5, "indices": range(9), **options}
    return sample_episodes(envs, _PlansEngine(envs), path, rule, **settings)


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """All rollouts of nine questions, by question."""
    path = tmp_path_factory.mktemp("sample") / "all.jsonl"
    counts = _sample(path)
    assert (counts.questions, counts.rollouts, counts.kept, counts.covered) == (9, 45, 45, 9)
    by_question = {}
    for episode in read_episodes(path):
        by_question.setdefault(episode.group, []).append(episode.transcript)
    assert [group.id for group in by_question] == [f"all/{index}" for index in range(9)]
    assert {group.size for group in by_question} == {5}
    return list(by_question.values())


def _short_plus_plus(path, rule, **arguments):
    """Sample rollouts under the protocol of R1-Searcher++: right, wrong, in a wrong form."""
    make = partial(gym.make_vec, "SearchQA-Toy-v0", autoreset_mode="Disabled")
    options = {"protocol": "r1-searcher++", "tokenizer": "byte", "max_tokens": 1500}
    envs = make(num_envs=4, **options).unwrapped
    engine = _PlansEngine(envs)
    engine.max_tokens = 1500
    protocol, gold = envs.protocol, envs.questions[0].answers[0]
    query = query_text(protocol, envs.questions[0].hops[0].query)
    texts = [
        f"<internal>so</internal>{answer_text(protocol, gold)}",
        query + answer_text(protocol, f"\\text {gold}"),
        query + answer_text(protocol, f"one of these many words is right here I think {gold}"),
        f"<document>{gold}</document>" + answer_text(protocol, gold),
        "<internal>" + answer_text(protocol, gold),
        query + answer_text(protocol, "wrong"),
        f"<answer>{gold}</answer><external></external>",
    ]
    engine.plans = [envs.tokenizer.encode(text).tolist() for text in texts]
    counts = sample_episodes(envs, engine, path, rule, rollouts=30, indices=[0])
    texts = {e.transcript.text(Source.POLICY) for e in read_episodes(path)}
    return counts, texts, engine


def test_a_cold_start_keeps_what_is_right_in_answer_tags_and_form(tmp_path):
    counts, written, engine = _short_plus_plus(tmp_path / "all.jsonl", EVERY)
    assert (counts.kept, len(written)) == (30, len(engine.plans))
    kept, texts, _ = _short_plus_plus(tmp_path / "kept.jsonl", KeepRule(("r1-searcher++",)))
    assert len(texts) == 2
    assert 0 < kept.kept < 30
    assert all("<document>" not in text and "many words" not in text for text in texts)


def _right(episode):
    return exact_match(episode.answer, episode.question.answers) == 1.0


def _formed(episode):
    return not format_violations(episode)


@pytest.mark.parametrize(
    ("rule", "keeps"),
    [
        (KeepRule(), _right),
        (KeepRule(("cover-right",)), _right),  # the toy's answers are single symbols
        (KeepRule(("well-formed",)), _formed),
        (KeepRule(("right", "well-formed")), lambda e: _right(e) and _formed(e)),
        (KeepRule(("all",), least=1.0), _right),
        (KeepRule(("well-formed",), least=0.5), lambda e: _right(e) and _formed(e)),
    ],
)
def test_rules_and_their_conjunctions(rollouts, rule, keeps, tmp_path):
    f1 = get_reward("f1")
    kept = [episode for group in rollouts for episode in rule.select(group, f1)]
    everything = [episode for group in rollouts for episode in group]
    assert kept == [episode for episode in everything if keeps(episode)]
    assert 0 < len(kept) < len(everything)
    _sample(tmp_path / "all.jsonl", rule)
    written = [episode.transcript for episode in read_episodes(tmp_path / "all.jsonl")]
    assert [e.tokens.tolist() for e in written] == [e.tokens.tolist() for e in kept]


def test_the_fewest_searches_then_the_fewest_tokens_then_the_first_are_kept(rollouts):
    f1, ties = get_reward("f1"), 0
    for group in rollouts:
        order = sorted(group, key=lambda e: (len(e.searches), e.num_policy_tokens))  # stable
        kept = KeepRule(("all",), most=2).select(group, f1)
        assert [e for e in group if any(e is chosen for chosen in order[:2])] == kept
        assert len(kept) == 2
        ties += len({(len(e.searches), e.num_policy_tokens) for e in group}) < len(group)
    assert ties
    assert len(KeepRule(("all",), most=9).select(rollouts[0], f1)) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": ("rihgt",)}, "Did you mean 'right'"),
        ({"keep": ()}, "a rule to keep by, got none"),
        ({"least": float("nan")}, "least to be a finite number"),
        ({"most": 0}, "most"),
    ],
)
def test_bad_rules(values, message):
    with pytest.raises(ConfigurationError, match=message):
        KeepRule(**values)


def _files(folder, name="kept.jsonl"):
    return [(folder / each).read_bytes() for each in (name, f"{name}.progress")]


KEEP = KeepRule(("well-formed",), most=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    _sample(folder / "kept.jsonl", KEEP)
    return _files(folder)


@pytest.mark.parametrize("stop", [0, 1, 4, 8])
@pytest.mark.parametrize("rows", [2, 6])
def test_an_interrupted_run_goes_on_to_the_same_files(tmp_path, whole, stop, rows):
    def interrupt(done, total):
        assert total == 9
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _sample(tmp_path / "kept.jsonl", KEEP, progress=interrupt)
    assert (tmp_path / "kept.jsonl.progress").exists() == (stop > 0)
    told = []
    _sample(tmp_path / "kept.jsonl", KEEP, rows=rows, progress=lambda *seen: told.append(seen))
    assert _files(tmp_path) == whole
    assert told == [(done, 9) for done in range(stop, 10)]
    _sample(tmp_path / "kept.jsonl", KEEP)  # nothing is left
    assert _files(tmp_path) == whole


def test_what_was_written_of_a_question_before_a_kill_is_removed(tmp_path, whole):
    """Cut at every line of the progress, with all or part of the next question's episodes."""
    episodes, progress = whole
    lines = progress.splitlines(keepends=True)
    sizes = [0, *(json.loads(line)["size"] for line in lines[1:])]
    for done in (0, 1, 5, 8):
        begun = b"".join(lines[: done + 1]) if done else b""
        for end in (sizes[done] + 30, sizes[done + 1] - 9, sizes[done + 1]):
            for torn in (b"", lines[done + 1][:20]):
                (tmp_path / "kept.jsonl").write_bytes(episodes[: max(sizes[done], end)])
                (tmp_path / "kept.jsonl.progress").write_bytes(begun + torn)
                _sample(tmp_path / "kept.jsonl", KEEP)
                assert _files(tmp_path) == whole


def test_more_questions_may_follow_but_no_other_settings(tmp_path, whole):
    path = tmp_path / "kept.jsonl"
    _sample(path, KEEP, indices=range(4))
    counts = _sample(path, KEEP, indices=np.array([3, 3, 4, 5, 6, 7, 8]))
    assert _files(tmp_path) == whole
    assert counts.questions == 9
    others = [
        ({"seed": 1}, "with seed 0, got 1"),
        ({"rollouts": 6}, "with rollouts 5, got 6"),
        ({"settings": {"model": "m"}}, 'with model null, got "m"'),
        ({"arguments": {"top_k": 2}}, "with arguments.top_k null, got 2"),
        ({"rule": KeepRule(("right",), most=2)}, r'with keep \["well-formed"\], got \["right"\]'),
        ({"rule": KeepRule(("well-formed",), most=3)}, "with most 2, got 3"),
        ({"rule": KeepRule(("well-formed",), 0.5, 2)}, "with least null, got 0.5"),
    ]
    for changes, message in others:
        with pytest.raises(ConfigurationError, match=message):
            _sample(path, **{"rule": KEEP, **changes})
    assert _files(tmp_path) == whole


def test_files_that_cannot_be_gone_on_with_stay(tmp_path, whole):
    path, progress = tmp_path / "kept.jsonl", tmp_path / "kept.jsonl.progress"
    episodes, lines = whole[0], whole[1].splitlines(keepends=True)
    others = [
        (b"something else\n", None, ConfigurationError, "with other content after byte 0"),
        (episodes, None, ConfigurationError, "a new file or one that was begun"),
        (episodes + episodes, whole[1], ConfigurationError, "other content after byte"),
        (episodes[:50], whole[1], ConfigurationError, "got 50. Restore it"),
        (b"", b"[]\n", DataFormatError, "line 1"),
        (episodes, lines[0] + b"{}\n", DataFormatError, "line 2"),
        (episodes, whole[1].replace(b"train-03", b"train-93"), ConfigurationError, "question 3"),
    ]
    for content, record, error, message in others:
        path.write_bytes(content)
        progress.unlink(missing_ok=True)
        if record is not None:
            progress.write_bytes(record)
        with pytest.raises(error, match=message):
            _sample(path, KEEP)
        assert path.read_bytes() == content
        assert (progress.read_bytes() if progress.exists() else None) == record


def test_a_file_that_another_process_writes_is_refused(tmp_path):
    envs = _envs()
    path, refused = tmp_path / "kept.jsonl", pytest.raises(StorageError, match="another process")
    with SampleFile(path, envs, KEEP, rollouts=5), refused:
        SampleFile(path, envs, KEEP, rollouts=5)
    assert not list(tmp_path.iterdir())


def test_rollouts_whose_retrieval_failed_are_kept_by_all_alone(tmp_path):
    down = {"retriever": FakeRetriever(error=RetrievalError("down"))}
    envs = _envs(**down)
    rollouts = []
    collect(
        envs,
        _PlansEngine(envs),
        range(9),
        on_episode=lambda _, transcript, __: rollouts.append(transcript),
    )
    failed = [episode for episode in rollouts if not episode.stop_reason.valid]
    f1 = get_reward("f1")
    assert 0 < len(failed) < 9
    assert EVERY.select(rollouts, f1) == rollouts
    assert not any(e in failed for e in KeepRule(("all",), least=0.0).select(rollouts, f1))
    assert KeepRule(("well-formed",)).select(failed, f1) == []
