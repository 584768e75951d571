"""Search episodes: the operators over an environment with real retrieval, and the guards."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from search_env.benchmarks.players.wasteful import OracleContinuation, Waste, wasteful_episode
from search_env.envs.search_qa import SearchQAEnv
from search_env.metrics.answers import exact_match
from search_env.protocols.grammar import format_violations
from search_env.recording.revise.guards import episode_verifier, is_grounded, what_is_wrong
from search_env.recording.revise.playback import Playback
from search_env.recording.revise.retro_search import RetroSearch, retro_search
from search_env.recording.revise.settings import RevisionSettings
from search_env.types import Source
from tests.recording.revise.episodes import TOY, world, write

LINES = RevisionSettings(separator="\n", rollouts=2, least_right=2)


def searcher(env, **changes):
    settings = LINES.changed(changes)
    return RetroSearch(env.tokenizer, settings, episode_verifier(settings))


def wasteful(env, seed=0):
    random = np.random.default_rng(seed)
    return [wasteful_episode(env, n, random, Waste()) for n in range(len(env.questions))]


@pytest.fixture(scope="module")
def env():
    return world()


@pytest.fixture(scope="module")
def episodes(env):
    return wasteful(env)


class Counting:
    """Passes searches on, and counts them."""

    def __init__(self, inner):
        self.inner, self.queries = inner, []

    def search(self, queries, k):
        self.queries += queries
        return self.inner.search(queries, k)


def test_the_oracles_continuation_brings_searches_down_to_the_hops(env, episodes):
    """The answer stays, the form is kept, every document is retrieved anew where it is new."""
    search, sample = searcher(env), OracleContinuation(env)
    revisions = [retro_search(search, episode, sample) for episode in episodes]
    hops = [len(episode.question.hops) for episode in episodes]
    assert sum(len(episode.searches) for episode in episodes) > 1.4 * sum(hops)
    assert [len(revision.after.searches) for revision in revisions] == hops
    for revision in revisions:
        after = revision.after
        assert exact_match(after.answer, after.question.answers) == 1.0
        assert not format_violations(after)
        assert search.steps.cost(after) <= search.steps.cost(revision.before)
        found = env.retriever.search([s.query for s in after.searches], env.protocol.top_k)
        assert [tuple(f) for f in found] == [s.documents for s in after.searches]
    taken = Counter(operator for revision in revisions for operator in revision.taken)
    assert taken["skip"] + taken["continue"] >= 5


def test_stop_alone_ends_searching_once_all_hops_are_known(env, episodes):
    search, sample, stopped = searcher(env, operators=["stop"]), OracleContinuation(env), 0
    for episode in episodes:
        revision = retro_search(search, episode, sample)
        queries = [s.query for s in episode.searches]
        last = max(queries.index(hop.query.replace('"', "")) for hop in episode.question.hops)
        assert [s.query for s in revision.after.searches] == queries[: last + 1]
        assert revision.taken == ("stop",) * (len(queries) > last + 1)
        stopped += len(revision.taken)
    assert stopped >= 3


def test_documents_of_roll_outs_are_retrieved_and_those_of_the_prefix_are_not(env, episodes):
    episode = next(e for e in episodes if len(e.searches) > len(e.question.hops) > 1)
    search, sample = searcher(env), OracleContinuation(env)
    counting = Counting(env.retriever)
    env.retriever, before = counting, env.retriever
    try:
        for branch in search.revise(episode):
            rollout = sample(branch, 1)[0]
            prefix = [s for s in episode.searches if s.position < branch.position]
            new = rollout.searches[len(prefix) :]
            assert counting.queries == [s.query for s in new]
            assert (
                rollout.tokens[: branch.position].tolist()
                == episode.tokens[: branch.position].tolist()
            )
            counting.queries.clear()
            break
    finally:
        env.retriever = before


def test_roll_outs_of_the_oracle_keep_the_bans(env, episodes):
    search, oracle, kept = searcher(env), OracleContinuation(env), Counter()

    def sample(branch, count):
        rollout, active = oracle(branch, 1)[0], search.active_ban(branch)
        written = rollout.sources[branch.position :] == Source.POLICY
        for token in rollout.tokens[branch.position :][written].tolist():
            assert active.is_over or token not in active.forbidden()
            active.advance(token)
        kept[branch.operator] += 1
        return [rollout] * count

    for episode in episodes[:6]:
        retro_search(search, episode, sample)
    assert min(kept[operator] for operator in ("continue", "skip", "stop")) >= 3


def test_operators_and_where_they_cut(env):
    """Branches of an episode with a repeated search, by operator."""
    query, text = "<|begin_of_query|> Ulm <|end_of_query|>", " x.\n"
    episode = write(f" Go.\n{query}{text}{query}{text}</think>\n\n<answer> y </answer>", env=env)
    first, second = episode.searches
    settings = LINES.changed({"rollouts": 1, "least_right": 1})
    search = RetroSearch(env.tokenizer, settings, lambda trace: False)
    seen = []

    def sample(branch, count):
        seen.append((branch.operator, env.tokenizer.decode(episode.tokens[: branch.position])))
        assert branch.cost == search.steps.cost(episode, branch.position)
        assert branch.ban.tags == ("<|begin_of_query|>",)
        assert bool(branch.ban.keywords) == (branch.operator == "continue")
        assert branch.ban.for_good == (branch.operator == "stop")
        return [episode] * count

    tried = retro_search(search, episode, sample).tried
    assert tried == {("continue", "wrong"): 2, ("skip", "wrong"): 2, ("stop", "wrong"): 1}
    decode = env.tokenizer.decode
    before_first = decode(episode.tokens[: first.start]).removesuffix(query)
    before_second = decode(episode.tokens[: second.start]).removesuffix(query)
    after_first = decode(episode.tokens[: first.end])
    assert seen == [
        ("continue", before_first),
        ("skip", before_first),
        ("stop", after_first),
        ("continue", before_second),
        ("skip", before_second),
    ]


def test_skip_cuts_before_the_announcement_or_before_the_query(env):
    query = "<|begin_of_query|> Ulm <|end_of_query|>"
    episode = write(f" Go.\n I ask: {query} x.\n</think>\n\n<answer> y </answer>", env=env)
    cuts = {}
    for cut in ("step", "query"):
        search = searcher(env, skip_from=cut, operators=["skip"], skip_bans=False)
        branch = next(search.revise(episode))
        assert branch.ban.is_empty
        assert search.active_ban(branch) is None
        cuts[cut] = env.tokenizer.decode(episode.tokens[: branch.position])
    assert cuts["step"].endswith(" Go.\n")
    assert cuts["query"].endswith(" I ask:") or cuts["query"].endswith(" I ask: ")


def test_states_of_every_position_go_on_as_the_episode_did(env, episodes):
    playback = Playback(env)
    episode = max(episodes[:6], key=lambda e: len(e.searches))
    policy = np.flatnonzero(episode.sources == Source.POLICY)
    for position in policy[:: max(1, len(policy) // 12)].tolist():
        env.set_state(playback.state(episode, position))
        assert env.transcript().tokens.tolist() == episode.tokens[:position].tolist()
        for place in policy[policy >= position].tolist():
            env.step(int(episode.tokens[place]))
        assert env.transcript().tokens.tolist() == episode.tokens.tolist()
        assert env.transcript().events == episode.events


def toy_pair(before, after, index=0):
    env = SearchQAEnv(**TOY)
    return write(before, index, env), write(after, index, env)


def gold(index=0):
    question = SearchQAEnv(**TOY).questions[index]
    return question.hops[0].query, question.answers[0]


def test_answers_must_stand_in_what_was_retrieved():
    query, answer = gold()
    before, memory = toy_pair(f"<q>{query} </q><a>{answer} </a>", f"<a>{answer} </a>")
    assert is_grounded(before, before, "either")
    for grounding in ("either", "answer", "supporting", "off"):
        assert not is_grounded(memory, before, grounding)
    other = "key1 key1" if query != "key1 key1" else "key2 key2"
    value = next(h.answer for q in SearchQAEnv(**TOY).questions for h in q.hops if h.query == other)
    lucky, _ = toy_pair(f"<q>{other} </q><a>{answer} </a>", "<a>value1 </a>")
    assert is_grounded(lucky, before, "answer") == (value == answer)
    assert not is_grounded(lucky, before, "supporting")
    # Nothing that was never there can be lost, but it holds nothing either.
    assert not is_grounded(memory, memory, "either")


def test_answers_from_memory_are_taken_only_with_the_check_off():
    query, answer = gold()
    before, memory = toy_pair(f"<q>{query} </q><a>{answer} </a>", f"<a>{answer} </a>")
    tokenizer = SearchQAEnv(**TOY).tokenizer
    outcomes = {}
    for grounding in ("either", "off"):
        settings = RevisionSettings(rollouts=1, least_right=1, grounding=grounding)
        search = RetroSearch(tokenizer, settings, episode_verifier(settings))
        revision = retro_search(search, before, lambda branch, count: [memory])
        outcomes[grounding] = revision
    assert outcomes["either"].after is before
    assert outcomes["either"].tried["continue", "ungrounded"] == 1
    assert outcomes["off"].after is memory
    assert outcomes["off"].taken == ("continue",)


def test_what_is_wrong_with_an_episode():
    query, answer = gold()
    settings = RevisionSettings()
    assert not what_is_wrong(write(f"<q>{query} </q><a>{answer} </a>"), settings)
    assert "answer None" in what_is_wrong(write(f"<q>{query} </q>", max_tokens=8), settings)
    wrong = "value1" if answer != "value1" else "value2"
    assert "exact_match 0" in what_is_wrong(write(f"<a>{wrong} </a>"), settings)
    assert "not well formed" in what_is_wrong(write(f"</q><a>{answer} </a>"), settings)
    assert "did not end" in what_is_wrong(write(f"<q>{query} </q>"), settings)
    failed = write(f"<q>{query} </q>", on_retrieval_error="truncate", retriever=_Down())
    assert "retrieval failed" in what_is_wrong(failed, settings)


class _Down:
    def search(self, queries, k):
        raise OSError("down")


def test_a_lower_score_may_count_as_right(env):
    question = env.questions[0]
    words = question.answers[0].split()
    episode = write(f"</think>\n\n<answer> {question.answers[0]} too </answer>", env=env)
    assert what_is_wrong(episode, RevisionSettings())
    assert len(words) > 1
    assert not what_is_wrong(episode, replace(RevisionSettings(), matcher="f1", least_score=0.6))


def test_a_branch_in_which_a_search_failed_decides_nothing():
    query, answer = gold()
    before = write(f"<q>{query} </q><q>{query} </q><a>{answer} </a>")
    failed = write(f"<q>{query} </q>", on_retrieval_error="truncate", retriever=_Down())
    right = write(f"<q>{query} </q><a>{answer} </a>")
    settings = RevisionSettings(rollouts=2, least_right=1)
    search = RetroSearch(SearchQAEnv(**TOY).tokenizer, settings, episode_verifier(settings))
    revision = retro_search(search, before, lambda branch, count: [right, failed])
    assert revision.after is before
    assert {why for _, why in revision.tried} == {"failed"}
