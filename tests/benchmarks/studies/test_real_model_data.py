"""Questions made of passages, and episodes that quote: by hand, and played in an environment."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torch")

from search_env.benchmarks.studies.real_model_data import (
    UNKNOWN,
    chains,
    closed_book,
    corpus_of,
    facts,
    hops_of,
    names,
    play_script,
    quotation,
    quoting,
    single_facts,
    steps_of,
    write_questions,
)
from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError
from search_env.types import Document, Hop, Question

FILM = Document("f", "Nova (film)", "Nova is a 1961 film directed by Jane Roe. It won a prize.")
ROE = Document(
    "r", "Jane Roe", "Jane Roe (born 4 May 1920) is an English writer. She was born in Bonn."
)
OTHER = Document("o", "Vega", "Vega is a 1970 film directed by Max Moe.")
MOE = Document("m", "Max Moe", "Max Moe was an actor. He was born in Kiel.")
PASSAGES = {d.id: d for d in (FILM, ROE, OTHER, MOE)}


def question(text, answer, *supporting, kind="compositional", hops=()):
    return Question("1", text, (answer,), kind=kind, supporting=supporting, hops=hops)


def test_names_are_whole_words():
    assert names("by Jane Roe, 1961", "jane roe")
    assert not names("by Jane Roetger", "Jane Roe")
    assert not names("anything", "?!")


@pytest.mark.parametrize("supporting", [("f", "r"), ("r", "f")])
def test_the_passage_that_the_question_names_comes_first(supporting):
    asked = question("Where was the director of film Nova born?", "Bonn", *supporting)
    assert hops_of(asked, PASSAGES) == (Hop("Nova", "Jane Roe", "f"), Hop("Jane Roe", "Bonn", "r"))


def test_comparisons_go_from_each_work_to_its_person():
    asked = question(
        "Are the directors of Nova and Vega born in one city?", "no", *"rmof", kind="comparison"
    )
    hops = hops_of(asked, PASSAGES)
    assert [hop.query for hop in hops] in (
        ["Vega", "Max Moe", "Nova", "Jane Roe"],
        ["Nova", "Jane Roe", "Vega", "Max Moe"],
    )
    assert [hop.answer for hop in hops][1::2] == [UNKNOWN, UNKNOWN]


def test_what_no_reader_could_follow_has_no_hops():
    assert (
        hops_of(question("Where was the director of Nova born?", "Kiel", "f", "m"), PASSAGES)
        is None
    )
    assert (
        hops_of(question("Where was the director of Nova born?", "Rome", "f", "r"), PASSAGES)
        is None
    )
    own = (Hop("a", "b"),)
    assert hops_of(question("?", "b", "f", hops=own), PASSAGES) == own


def test_facts_and_chains():
    assert [answer for _, answer in facts(FILM)] == ["Jane Roe"]
    assert [answer for _, answer in facts(ROE)] == ["4 May 1920", "Bonn", "English"]
    made = list(chains([FILM, ROE, OTHER, MOE], np.random.default_rng(0)))
    assert [q.hops for q in made][1] == (Hop("Vega", "Max Moe"), Hop("Max Moe", "Kiel"))
    assert made[1].text == "Where was the director of film Vega born?"
    assert [q.supporting for q in made] == [("f", "r"), ("o", "m")]
    assert made[0].hops[1].answer == made[0].answers[0]


def test_quotations():
    assert quotation([OTHER, ROE], Hop("Jane Roe", "Bonn")) == "Jane Roe: She was born in Bonn."
    assert quotation([MOE], Hop("Max Moe", UNKNOWN)) == f"Max Moe: {MOE.text}"
    assert quotation([MOE], Hop("Jane Roe", UNKNOWN)) is None
    assert quotation([MOE], Hop("Max Moe", "Bonn")) is None
    words = [f"w{i}" for i in range(60)]
    long = Document("l", "Long", " ".join(words))
    for at in (0, 1, 21, 22, 40, 59):
        said = quotation([long], Hop("Long", f"w{at}")).removeprefix("Long: ").split()
        assert len(said) == 22
        assert f"w{at}" in said
        assert " ".join(said) in long.text


def test_facts_and_steps_are_questions_of_one_hop():
    made = list(single_facts([FILM, ROE]))
    assert [(q.text, q.answers) for q in made][:2] == [
        ("Who directed Nova?", ("Jane Roe",)),
        ("When was Jane Roe born?", ("4 May 1920",)),
    ]
    assert made[0].hops == (Hop("Nova", "Jane Roe", "f"),)
    assert len({q.id for q in made}) == len(made)
    hops = (Hop("who directed Nova?", "Jane Roe"), Hop("where was Jane Roe born?", "Bonn"))
    steps = list(steps_of([question("?", "Bonn", hops=hops)]))
    assert [(q.text, q.answers, q.hops) for q in steps] == [
        (hop.query, (hop.answer,), (hop,)) for hop in hops
    ]


@pytest.fixture
def env(tmp_path):
    """An environment over two questions, of which the second looks for what is not there."""
    corpus, file = tmp_path / "corpus.jsonl", tmp_path / "questions.jsonl"
    rows = [{"id": d.id, "title": d.title, "text": d.text} for d in PASSAGES.values()]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    asked = question("Where was the director of film Nova born?", "Bonn", "f", "r")
    found = replace(asked, hops=hops_of(asked, PASSAGES))
    lost = replace(asked, id="2", hops=(Hop("Nova", "Somebody Else"),))
    write_questions(file, [found, lost])
    return bare_env(gym.make("SearchQA-v0", dataset=str(file), corpus=str(corpus), top_k=2))


def written(env, example):
    return env.tokenizer.decode(example.tokens[example.weights > 0])


def test_episodes_quote_what_they_go_on_with(env):
    assert list(corpus_of(env)) == list(PASSAGES.values())
    assert written(env, play_script(env, 0, quoting)) == (
        "<|begin_of_query|> Nova <|end_of_query|> Nova (film): Nova is a 1961 film directed by "
        "Jane Roe.\n<|begin_of_query|> Jane Roe <|end_of_query|> Jane Roe: She was born in Bonn.\n"
        "</think>\n\n<answer> Bonn </answer>"
    )
    assert play_script(env, 1, quoting) is None
    answer = "</think>\n\n<answer> Bonn </answer>"
    assert written(env, play_script(env, 0, closed_book)) == answer


def test_another_retriever_has_no_passages():
    env = bare_env(gym.make("SearchQA-Toy-v0"))
    with pytest.raises(ConfigurationError, match="Make the examples with bm25"):
        corpus_of(env)
