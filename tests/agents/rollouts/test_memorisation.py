"""Memorisation: what is rewritten, by whom, and which paths are kept."""

from __future__ import annotations

import json
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from search_env.agents.errors import RewriterError
from search_env.agents.inference.engine import Engine
from search_env.agents.rollouts.memorisation import (
    MemorisationConfig,
    RightRollout,
    RightRollouts,
    memorise,
    search_free_episode,
)
from search_env.agents.rollouts.rewriters import Model, Oracle, RewritingTask, oracle_path
from search_env.agents.rollouts.rewriting_endpoint import Endpoint
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError
from search_env.protocols.grammar import format_violations, open_thoughts
from search_env.protocols.registry import get_protocol
from search_env.protocols.tagged_text import answer_text, close_thoughts, query_text
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Hop, Question, Source
from tests.agents.scripted_engine import ScriptedEngine
from tests.agents.toy_runs import tiny_model
from tests.benchmarks.players.endpoint_server import chat_reply, serving

PLUS = {"dataset": "toy", "protocol": "r1-searcher++", "tokenizer": "byte", "max_tokens": 1500}
ON = MemorisationConfig(weight=0.1)


def rollout(*searches, answer=None, index=9, before="", **arguments):
    """Return the transcript of an episode that searches for these and answers, rightly if None."""
    env = SearchQAEnv(**{**PLUS, **arguments})
    env.reset(seed=0, options={"index": index})
    transcript = env.transcript()
    gold = transcript.question.answers[0]
    text = before + "".join(query_text(env.protocol, query) for query in searches)
    thoughts = open_thoughts(transcript)
    text += answer_text(env.protocol, gold if answer is None else answer, thoughts=thoughts)
    for token in env.tokenizer.encode(text):
        env.step(int(token))
    return env.transcript()


def numbered(*transcripts):
    return [RightRollout(0, member, transcript) for member, transcript in enumerate(transcripts)]


@pytest.fixture(scope="module")
def searched():
    return rollout("key1 key1")


@pytest.fixture(scope="module")
def dynamics():
    return SearchQAEnv(**PLUS).components.dynamics(1)


# Settings.


@pytest.mark.parametrize(
    ("config", "due"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"weight": 0.0}, []),
        ({"first_step": 2}, [2, 3, 4, 5]),
        ({"first_step": 1, "every": 2}, [1, 3, 5]),
        ({"last_step": 3, "every": 3}, [0, 3]),
    ],
)
def test_the_schedule(config, due):
    config = MemorisationConfig(**{"weight": 0.1, **config})
    assert [step for step in range(6) if config.is_due(step)] == due


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"weight": -0.1}, "weight of the memorisation"),
        ({"source": "modle"}, "Did you mean 'model'"),
        ({"source": "http://host/v1"}, "endpoint_model"),
        ({"endpoint_model": "m"}, "endpoint_model"),
        ({"keep": ("rihgt",)}, "Did you mean 'right'"),
        ({"share": 0.0}, "share of the memorisation"),
        ({"share": 1.5}, "share of the memorisation"),
        ({"per_question": 0}, "per_question"),
        ({"every": 0}, "every"),
        ({"last_step": -1}, "last_step"),
        ({"tries": True}, "tries"),
        ({"prompt": "Rewrite {question}"}, "{documents} and {question}"),
        ({"statement": "{query}"}, "{answer}"),
        ({"max_tokens": "256"}, "max_tokens"),
    ],
)
def test_bad_settings(bad, message):
    with pytest.raises(ConfigurationError, match=message):
        MemorisationConfig(**bad)


# Which rollouts.


class Played:
    """The part of a trajectory that the collector reads."""

    def __init__(self, group, member, valid=True):
        self.group, self.member, self.valid = group, member, valid


def collected(config, episodes):
    right = RightRollouts(config)
    for group, member, transcript in episodes:
        right.played(0, transcript, Played(group, member))
    return right


def test_right_rollouts_are_chosen_by_their_searches_whatever_their_order(searched):
    free, twice = rollout(), rollout("key1 key1", "key1 key2")
    wrong, unformed = rollout(answer="key1"), rollout("key1 key1", before="<internal>")
    episodes = [
        *((0, 0, wrong), (0, 1, free), (0, 2, twice), (0, 3, searched), (0, 4, searched)),
        *((1, 0, unformed), (2, 0, free), (2, 1, wrong)),
    ]
    for order in (episodes, episodes[::-1]):
        right = collected(ON, order)
        assert right.count == 5
        assert [(r.group, r.member) for r in right.chosen(0)] == [(0, 3), (2, 0)]
    more = MemorisationConfig(weight=0.1, per_question=3, min_searches=1)
    chosen = collected(more, episodes).chosen(0)
    assert [(r.group, r.member) for r in chosen] == [(0, 3), (0, 4), (0, 2)]
    failed = RightRollouts(ON)
    failed.played(0, searched, Played(0, 0, valid=False))
    assert failed.chosen(0) == []


def get_text(transcript):
    return transcript.text(Source.POLICY)


def test_a_share_is_of_questions_and_drawn_by_the_seed(searched):
    half = MemorisationConfig(weight=0.1, share=0.5)
    right = collected(half, [(group, 0, searched) for group in range(400)])
    first, second = ({r.group for r in right.chosen(seed)} for seed in (1, 2))
    assert 150 < len(first) < 250
    assert first != second
    assert first == {r.group for r in right.chosen(1)}


# Which paths.


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<internal>so</internal> \\boxed{value1} and more", "value1"),
        ("\\boxed{value1}", "value1"),
        ("<external>key1 key1</external>\\boxed{value1}", None),
        ("<external>key1 \\boxed{value1}", None),
        ("<internal>so</internal> value1", None),
        ("", None),
    ],
)
def test_a_path_answers_and_does_not_try_to_search(dynamics, searched, text, answer):
    ids = load_tokenizer("byte").encode(text)
    episode = search_free_episode(dynamics, searched.question, ids)
    assert (None if episode is None else episode.answer) == answer
    if episode is not None:
        assert get_text(episode) == text.partition("}")[0] + "}"
        prompt = episode.tokens[episode.sources == Source.PROMPT]
        np.testing.assert_array_equal(prompt, searched.tokens[: len(prompt)])


class Written:
    """A rewriter that writes these texts, one after the other, for each rollout."""

    varies = True

    def __init__(self, *texts):
        self.texts, self.seeds = list(texts), []

    def rewrite(self, rollouts, seeds):
        self.seeds += seeds
        text = self.texts.pop(0)
        ids = None if text is None else load_tokenizer("byte").encode(text)
        return [ids for _ in rollouts]


def test_paths_are_kept_if_right_and_learnt_from_the_prompt_on(dynamics, searched):
    gold = searched.question.answers[0]
    rewriter = Written(f"<internal>It is {gold}.</internal> \\boxed{{{gold}}}tail")
    (example,), chosen, written = memorise(dynamics, rewriter, numbered(searched), ON, 0)
    assert (chosen, written) == (1, 1)
    text = load_tokenizer("byte").decode
    assert text(example.tokens[example.weights == 0]) == searched.text(Source.PROMPT)
    kept = text(example.tokens[example.weights > 0])
    assert kept == f"<internal>It is {gold}.</internal> \\boxed{{{gold}}}"
    assert example.weights.dtype == np.float32


def test_tries_go_on_until_a_path_is_kept(dynamics, searched):
    gold = searched.question.answers[0]
    boxed = f"\\boxed{{{gold}}}"
    texts = ["\\boxed{key7}", None, f"<internal>{boxed}", boxed, "x"]
    config = MemorisationConfig(weight=0.1, tries=5)
    rewriter = Written(*texts)
    found = memorise(dynamics, rewriter, numbered(searched, searched), config, 3)
    assert (len(found.examples), found.chosen, found.written) == (2, 2, 6)
    assert rewriter.texts == ["x"]
    assert len(set(rewriter.seeds)) == len(rewriter.seeds) == 8
    again = Written(*texts)
    memorise(dynamics, again, numbered(searched, searched), config, 3)
    assert again.seeds == rewriter.seeds
    loose = MemorisationConfig(weight=0.1, keep=("cover-right",), tries=3)
    assert len(memorise(dynamics, Written(*texts), numbered(searched), loose, 0).examples) == 1
    assert memorise(dynamics, Written(), [], config, 0).examples == []


# The oracle.

TWO_HOPS = Question(
    "q", "Where was its author born?", ("Ulm",), hops=(Hop("author", "Ada }"), Hop("Ada", "Ulm"))
)


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        (
            "r1-searcher++",
            "<internal> author: Ada. </internal>\n<internal> Ada: Ulm. </internal>\n\\boxed{ Ulm }",
        ),
        ("r1-searcher", " author: Ada }.\n Ada: Ulm.\n</think>\n\n<answer> Ulm </answer>"),
        (
            "search-r1",
            "<think> author: Ada }. </think>\n<think> Ada: Ulm. </think>\n<answer> Ulm </answer>",
        ),
        ("toy", "<a> Ulm </a>"),
    ],
)
def test_the_oracle_states_what_is_known_in_each_protocol(protocol, text):
    rules = get_protocol(protocol)
    thoughts = ("think",) if protocol == "r1-searcher" else ()
    path = oracle_path(rules, TWO_HOPS, thoughts, "{query}: {answer}.")
    assert path.replace(" .", ".") == text
    arguments = {"dataset": "toy", "protocol": protocol, "tokenizer": "byte", "max_tokens": 3000}
    dynamics = SearchQAEnv(**arguments).components.dynamics(1)
    ids = load_tokenizer("byte").encode(path)
    episode = search_free_episode(dynamics, TWO_HOPS, ids)
    assert episode.answer == "Ulm"
    assert not format_violations(episode)


def test_the_oracle_rewrites_questions_with_known_steps_alone(dynamics, searched):
    oracle = Oracle(get_protocol("r1-searcher++"), load_tokenizer("byte"), "{answer}")
    assert not oracle.varies
    unknown = searched.__class__(
        Question("q", "Who?", ("Ada",)), "toy", searched.tokens, searched.sources, ()
    )
    first, second = oracle.rewrite([searched, unknown], [0, 0])
    assert second is None
    gold = searched.question.answers[0]
    expected = f"<internal> {gold} </internal>\n\\boxed{{ {gold} }}"
    assert load_tokenizer("byte").decode(first) == expected
    found = memorise(dynamics, oracle, numbered(searched), MemorisationConfig(weight=1, tries=9), 0)
    assert (len(found.examples), found.written) == (1, 1)


# The model.


def test_the_task_names_documents_question_and_tags(searched):
    task = RewritingTask(get_protocol("r1-searcher++"))
    protocol, question = task.protocol(50), task.of(searched)
    prompt = protocol.prompt_pieces(question.text, "base")[0][0]
    gold = searched.question.answers[0]
    assert prompt.endswith(f"Found:\n{gold}\n\nQuestion:{searched.question.text}\nAssistant:")
    for part in ("<internal>", "</internal>", "\\boxed{", "Do not search"):
        assert part in prompt
    assert "<external>" not in prompt
    assert (protocol.max_searches, protocol.max_policy_tokens) == (0, 50)
    none = task.of(rollout())
    assert none.text.startswith("Found:\nNone\n\n")
    own = RewritingTask(get_protocol("r1-searcher++"), "{question} <- {documents}")
    assert own.of(searched).text == f"{searched.question.text} <- {gold}"
    assert own.protocol(5).prompt_pieces("x", "base")[0][0] == "x\nAssistant:"


def test_the_task_keeps_the_thoughts_of_the_policys_prompt_open():
    found = rollout("key1 key1", protocol="r1-searcher", max_tokens=3000)
    task = RewritingTask(get_protocol("r1-searcher"))
    prompt = task.protocol(50).prompt_pieces(task.of(found).text, "base")[0][0]
    assert prompt.endswith("<think>")
    messages = task.protocol(50).chat_messages(task.of(found).text)
    assert [message["role"] for message in messages] == ["system", "user"]
    assert close_thoughts(get_protocol("r1-searcher"), ("think",)) == "</think>\n\n"


class Typist(ScriptedEngine):
    """Writes a text in every row, and keeps the prompts and seeds that it was given."""

    def __init__(self, rows, text, max_tokens=1500):
        super().__init__(rows, 257, max_tokens=max_tokens)
        self.ids = load_tokenizer("byte").encode(text).tolist()
        self.at, self.prompts, self.seeds = {}, [], []

    def begin(self, rows, prompts, seeds):
        super().begin(rows, prompts, seeds)
        self.prompts += [load_tokenizer("byte").decode(prompt) for prompt in prompts]
        self.seeds += seeds
        self.at |= dict.fromkeys(rows, 0)

    def decode(self, rows):
        decoded = super().decode(rows)
        for i, row in enumerate(rows):
            decoded.ids[i] = self.ids[self.at[row] % len(self.ids)]
            self.at[row] += 1
        return decoded


def model_of(engine, **options):
    task = RewritingTask(get_protocol("r1-searcher++"))
    return Model(engine, task, load_tokenizer("byte"), **{"max_tokens": 60, **options})


def test_the_model_is_asked_in_as_many_rows_as_there_are(searched):
    engine = Typist(2, "<internal>so</internal>\\boxed{a}tail")
    paths = model_of(engine).rewrite([searched] * 5, [5, 6, 7, 8, 9])
    assert engine.seeds == [5, 6, 7, 8, 9]
    assert engine.released == {0, 1}
    assert all("Found:\n" + searched.question.answers[0] in p for p in engine.prompts)
    texts = {load_tokenizer("byte").decode(path) for path in paths}
    assert texts == {"<internal>so</internal>\\boxed{a}"}


def test_what_the_model_may_write(searched):
    """A query ends a path, which is then dropped; a limit does, too."""
    for text, written in (("<external>x</external>y", 22), ("abc", 60), ("}" * 9, 60)):
        (path,) = model_of(Typist(1, text)).rewrite([searched], [0])
        assert len(path) == written
    short = model_of(Typist(1, "x", max_tokens=100))
    assert short.rewrite([searched, searched], [0, 1]) == [None, None]


def test_the_models_paths_do_not_depend_on_the_rows(searched):
    envs = partial(gym.make_vec, "SearchQA-Toy-v0", autoreset_mode="Disabled")
    task = RewritingTask(get_protocol("toy"), "{question} {documents} ")
    paths = []
    for rows in (2, 5):
        engine = Engine(tiny_model(), rows=rows, max_tokens=16)
        tokenizer = envs(num_envs=1).unwrapped.tokenizer
        found = rollout("key1 key1", protocol="toy", tokenizer="toy", max_tokens=16)
        model = Model(engine, task, tokenizer, max_tokens=8)
        paths.append([path.tolist() for path in model.rewrite([found] * 6, range(6))])
    assert paths[0] == paths[1]
    assert len(set(map(tuple, paths[0]))) > 1


# An endpoint.


def endpoint(url, path, **options):
    task = RewritingTask(get_protocol("r1-searcher++"))
    options = {"max_tokens": 77, "retries": 0, **options}
    return Endpoint(url, "m", task, load_tokenizer("byte"), path, **options)


def test_an_endpoint_is_asked_once_and_its_replies_are_kept(tmp_path, searched):
    pytest.importorskip("openai")
    other, path = rollout("key1 key2", index=10), tmp_path / "run" / "rewrites.jsonl"
    with serving(lambda *_: chat_reply("\\boxed{é}")) as (url, requests):
        rewriter = endpoint(url, path)
        assert not rewriter.varies
        ids = rewriter.rewrite([searched, other, searched], [1, 2, 3])
        assert [load_tokenizer("byte").decode(i) for i in ids] == ["\\boxed{é}"] * 3
        assert len(requests) == 2
        request = requests[0]
        assert {k: request[k] for k in ("model", "max_tokens", "temperature")} == {
            "model": "m",
            "max_tokens": 77,
            "temperature": 0.0,
        }
        assert "seed" not in request
        assert [message["role"] for message in request["messages"]] == ["system", "user"]
        path.write_bytes(path.read_bytes() + b'{"key": "half a li')
        again = endpoint(url, path).rewrite([other, searched], [7, 8])
        assert len(requests) == 2
        assert [i.tolist() for i in again] == [i.tolist() for i in ids[:2]]
        endpoint(url, path).rewrite([rollout("key1 key3", index=11)], [0])
        assert len(requests) == 3
        assert len(endpoint(url, path)._replies) == 3
        warm = endpoint(url, path, temperature=0.5)
        warm.rewrite([searched, searched], [1, 2])
        assert sorted(r["seed"] for r in requests[3:]) == [1, 2]


def test_a_failing_endpoint_is_named_without_its_credentials(tmp_path, searched, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    path = tmp_path / "rewrites.jsonl"

    def reply(_, request):
        if "key1 key2" in request["messages"][-1]["content"]:
            return 401, {"error": {"message": "no entry for sk-secret-key and pa55word"}}
        return chat_reply("x")

    other = rollout("key1 key2", index=10)
    with serving(reply) as (url, _):
        secret = url.replace("http://", "http://me:pa55word@")
        with pytest.raises(RewriterError, match="got AuthenticationError") as caught:
            endpoint(secret, path, concurrency=1).rewrite([searched, other], [0, 1])
    told = f"{caught.value}{caught.value.__context__}{path.read_text()}"
    assert "pa55word" not in told
    assert "sk-secret" not in told
    assert len(path.read_text().splitlines()) == 1  # what came is kept
    for odd in (chat_reply(None), {"choices": []}, {"no": "choices"}, b"no JSON"):
        refused = pytest.raises(RewriterError, match="Expected a path from http")
        with serving(lambda *_, odd=odd: odd) as (url, _), refused:
            endpoint(url, tmp_path / "odd.jsonl").rewrite([other], [0])
    with pytest.raises(RewriterError, match="resume the run"):
        endpoint(url, path, timeout=0.5).rewrite([other], [0])  # it has gone
    assert json.loads(path.read_text().splitlines()[0])["path"] == "x"
