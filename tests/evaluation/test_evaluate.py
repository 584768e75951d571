from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from search_env import (
    Answered,
    Document,
    Ended,
    FakeRetriever,
    FaultKind,
    FormatFault,
    Hop,
    Question,
    Searched,
    SearchQAEnv,
    Source,
    StopReason,
    Transcript,
)
from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError, RetrievalError
from search_env.evaluation.evaluate import (
    EpisodeMeasures,
    Means,
    evaluate,
    measure_episode,
    summarise,
)
from search_env.metrics.answers import contains_words
from search_env.metrics.statistics import Interval

HOPS = (Hop("Ulm mayor", "Jan Holt", "a"), Hop("Jan Holt born", "New York", "b"))
QUESTION = Question(
    "q1", "Where was Ulm's mayor born?", ("New York", "NYC"), "d", "dev", "2hop", ("a", "b"), HOPS
)


def transcript(question=QUESTION, answer=None, searches=(), documents=(), faults=(), stop=None):
    """Three prompt tokens, four policy tokens, two retrieved ones; events as given.

    Documents that no search names are those of one more search.
    """
    by_id = {document.id: document for document in documents}
    rest = tuple(d for d in documents if not any(d.id in ids for _, ids in searches))
    events = [Searched(3, query, tuple(by_id[i] for i in ids), 4, 6) for query, ids in searches]
    events += [Searched(3, "rest", rest, 4, 6)] if rest else []
    events += [FormatFault(6, kind) for kind in faults]
    events += [Answered(8, answer)] if answer is not None else []
    events += [Ended(8, stop or (StopReason.ANSWERED if answer else StopReason.MAX_TOKENS))]
    return Transcript(
        question=question,
        protocol="any",
        tokens=np.arange(9, dtype=np.int32),
        sources=np.array(
            [Source.PROMPT] * 3 + [Source.POLICY] * 4 + [Source.RETRIEVED] * 2, np.int8
        ),
        events=tuple(events),
    )


def test_every_field():
    documents = [
        Document("c", "Rome", "A city."),
        Document("b", "Holt", "He was born in New-York."),
    ]
    episode = measure_episode(
        transcript(
            answer="The city of New York",
            searches=[("mayor", ("c",)), ("born", ("b", "c"))],
            documents=documents,
            faults=[FaultKind.NESTED_OPEN],
        ),
        0.25,
    )
    assert episode == EpisodeMeasures(
        question_id="q1",
        question=QUESTION.text,
        kind="2hop",
        hops=2,
        answer="The city of New York",
        golds=("New York", "NYC"),
        exact_match=0.0,
        f1=pytest.approx(2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2)),  # city of new york, new york
        cover_exact_match=1.0,
        contiguous_cover_exact_match=1.0,
        episode_return=0.25,
        searches=2,
        policy_tokens=4,
        stop_reason="answered",
        valid=True,
        format_faults=("nested_open",),
        queries=("mayor", "born"),
        document_ids=(("c",), ("b", "c")),
        supporting_recall=0.5,  # b of a and b
        all_supports=0.0,
        answer_recall=1.0,  # "new york" stands in "... born in new york"
    )


def test_unknown_and_missing_values():
    episode = measure_episode(transcript(Question("q", "Who?", ("Nero",))), 0.0)
    assert (episode.hops, episode.supporting_recall, episode.all_supports) == (None, None, None)
    assert (episode.answer, episode.f1, episode.searches, episode.answer_recall) == (
        None,
        0.0,
        0,
        0.0,
    )
    assert measure_episode(transcript(), 0.0).supporting_recall == 0.0


@pytest.mark.parametrize(
    ("golds", "text", "expected"),
    [
        (("art",), "smart people", 0.0),
        (("The Art",), "people of art.", 1.0),
        (("art of war",), "art war of", 0.0),
        (("yes",), "yes", None),
        (("no", "Norway"), "no", 0.0),  # an alias that is no closed answer is looked for
        (("The",), "the", None),
        (("x", "Rome"), "", 1.0),  # stands in the title
    ],
)
def test_answer_recall(golds, text, expected):
    episode = transcript(Question("q", "?", golds), documents=[Document("c", "Rome", text)])
    assert measure_episode(episode, 0.0).answer_recall == expected


def test_words_do_not_join_two_documents():
    documents = [Document("c", "", "in New"), Document("d", "", "York City")]
    assert measure_episode(transcript(documents=documents), 0.0).answer_recall == 0.0
    assert contains_words("in new york", "new york")


def test_all_supports():
    documents = [Document("b", "", ""), Document("z", "", ""), Document("a", "", "")]
    episode = measure_episode(transcript(documents=documents), 0.0)
    assert (episode.supporting_recall, episode.all_supports) == (1.0, 1.0)


def test_a_running_episode_is_refused():
    env = SearchQAEnv(dataset="toy", protocol="toy", tokenizer="toy")
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="still runs"):
        measure_episode(env.transcript(), 0.0)


def some_episodes():
    """Two kinds; the third episode is not valid."""
    near = [Document("a", "", "New York")]
    both = [*near, Document("b", "", "")]
    bare = Question("q2", "?", ("New York",), kind="other")
    return [
        measure_episode(transcript(answer="New York", documents=both, searches=[("x", ())]), 1.0),
        measure_episode(transcript(answer="Rome", documents=near), 0.0),
        measure_episode(transcript(stop=StopReason.RETRIEVAL_ERROR), 0.0),
        measure_episode(transcript(bare, answer="york"), 0.5),
    ]


def test_summary_by_hand():
    summary = summarise(some_episodes())
    assert (summary.episodes, summary.invalid) == (3, 1)
    assert summary.exact_match is not None
    assert summary.exact_match.mean == pytest.approx(1 / 3)
    assert summary.exact_match.count == 3
    assert summary.f1 is not None
    assert summary.f1.mean == pytest.approx((1 + 0 + 2 / 3) / 3)  # "york": P 1, R 1/2
    assert summary.cover_exact_match.mean == pytest.approx(1 / 3)
    assert summary.episode_return.mean == pytest.approx(0.5)
    assert summary.supporting_recall == Interval(0.75, 0.5, 1.0, 2)
    assert summary.all_supports == Interval(0.5, 0.0, 1.0, 2)
    assert summary.answer_recall.mean == pytest.approx(2 / 3)
    assert summary.searches.mean == 1.0  # 2, 1 and 0
    assert summary.policy_tokens == Interval(4.0, 4.0, 4.0, 3)
    assert summary.stop_reasons == {"answered": 3, "retrieval_error": 1}
    assert summary.by_kind == {
        "2hop": Means(2, 0.5, 0.5, 0.5, 0.75, 0.5, 1.0, 1.5),
        "other": Means(1, 0.0, pytest.approx(2 / 3), 0.0, None, None, 0.0, 0.0),
    }
    assert summary.by_hops == {2: summary.by_kind["2hop"]}
    assert summary.judged is None


def test_summary_of_nothing():
    summary = summarise([])
    assert (summary.episodes, summary.exact_match, summary.stop_reasons) == (0, None, {})


def test_intervals_are_seeded():
    episodes = some_episodes()
    assert summarise(episodes, seed=1) == summarise(episodes, seed=1)
    assert summarise(episodes, resamples=9, seed=1) != summarise(episodes, resamples=9, seed=2)


class Copyist:
    """Searches for the two keys and answers with the value; records the episodes begun."""

    def __init__(self):
        self.begun = []

    def begin(self, env, observation):
        tokens = observation["tokens"][: observation["length"]].tolist()
        self.begun.append((env, env.transcript().question.id))
        self.plan = [1, tokens[1], tokens[2], 2]

    def act(self, observation):
        if not self.plan:
            value = int(observation["tokens"][observation["length"] - 2])
            self.plan = [3, value, 4]
        return self.plan.pop(0)


def test_each_question_once_in_order():
    env, agent, seen = gym.make("SearchQA-Toy-v0"), Copyist(), []
    episodes = evaluate(env, agent, progress=seen.append)
    ids = [question.id for question in bare_env(env).questions]
    assert [r.question_id for r in episodes] == ids == [i for _, i in agent.begun]
    assert seen == episodes
    assert all(e is env.unwrapped for e, _ in agent.begun)
    assert {(r.f1, r.episode_return, r.stop_reason) for r in episodes} == {(1.0, 1.0, "answered")}


def test_chosen_questions_in_the_order_given():
    episodes = evaluate(gym.make("SearchQA-Toy-v0"), Copyist(), iter([5, 2]))
    assert [r.question_id for r in episodes] == ["toy-train-05", "toy-train-02"]
    with pytest.raises(ConfigurationError, match="index from 0 to 63"):
        evaluate(gym.make("SearchQA-Toy-v0"), Copyist(), [64])


def test_rewards_of_wrappers_are_added_up():
    env = gym.wrappers.TransformReward(gym.make("SearchQA-Toy-v0"), lambda reward: reward - 1.0)
    (episode,) = evaluate(env, Copyist(), [0])
    assert (episode.f1, episode.policy_tokens, episode.episode_return) == (1.0, 7, 1.0 - 7)


def test_episodes_do_not_depend_on_those_before():
    class Noisy(Copyist):
        def begin(self, env, observation):
            super().begin(env, observation)
            self.plan = [int(env.np_random.integers(1, 23)) for _ in range(40)]

    env = gym.make("SearchQA-Toy-v0")
    both = evaluate(env, Noisy(), [3, 7], seed=4)
    assert both[1:] == evaluate(env, Noisy(), [7], seed=4)


def test_failed_retrievals_are_left_out_or_raised():
    broken = FakeRetriever(error=RetrievalError("down"))
    arguments = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy", "retriever": broken}
    episodes = evaluate(SearchQAEnv(**arguments, on_retrieval_error="truncate"), Copyist(), [0, 1])
    assert [r.valid for r in episodes] == [False, False]
    assert summarise(episodes).episodes == 0
    with pytest.raises(RetrievalError, match="down"):
        evaluate(SearchQAEnv(**arguments), Copyist(), [0])


def test_other_environments_are_refused():
    with pytest.raises(ConfigurationError, match="CartPole"):
        evaluate(gym.make("CartPole-v1"), Copyist())


def test_recall_of_the_raw_question_on_real_data(data_dir):
    """2WikiMultiHopQA dev among 6,119 passages of its own: independent of any agent's rules."""
    from search_env.agents.baselines.scripted import make_baseline

    corpus = data_dir / "official" / "2wikimultihopqa_corpus.json.xz"
    env = gym.make("SearchQA-2Wiki-v0", corpus=str(corpus), tokenizer="byte", split="train")
    episodes = evaluate(env, make_baseline("question-as-query"), range(40))
    for episode, question in zip(episodes, bare_env(env).questions, strict=False):
        (documents,) = bare_env(env).retriever.search([episode.queries[0]], 5)
        assert episode.document_ids == (tuple(d.id for d in documents),)
        share = sum(d.id in question.supporting for d in documents) / len(question.supporting)
        assert episode.supporting_recall == share
