"""Questions with hops made of real passages, and the episodes that a real model imitates.

A model of 135 million parameters reads better what it has just written. In these episodes each
search is followed by the sentence that the next query or the answer is taken from:

    <query> Boden's Boy <documents> Boden's Boy: ... romance film directed by Henry Edwards ...
    <query> Henry Edwards <documents> Henry Edwards (actor): He was born in Weston-super-Mare ...

Three kinds of questions have hops: single facts that rules read out of passages, chains of two such
facts, and published questions, whose supporting passages are put in order. They are written as a
file of questions, over which an environment plays the episodes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from search_env.agents.baselines.scripted import ScriptedAgent
from search_env.agents.types import Example
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError
from search_env.paths import atomic_path
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.types import Document, Hop, Question, Source

UNKNOWN = "?"
"""Answer of a hop that is only compared with others: its passage's beginning is quoted."""

_WORDS = 22  # of a quotation at most
_WORD = r"(?:[A-Z]\.|[A-Z][\w'’-]+)"
_NAME = rf"({_WORD}(?: (?:{_WORD}|de|van|von|of|da|del|la|al))*(?: {_WORD})?)"
_DATE = r"((?:\d{1,2} )?[A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4})"
_MONTH = re.compile(
    r"(January|February|March|April|May|June|July|August|September|October|November|December)\b"
)
_WORK = re.compile(r"\b(film|album|song|series|novel|game|magazine|company|band|team|city)\b")


class Relation(NamedTuple):
    """How a passage says something of its title, and how one asks for it.

    Attributes:
        pattern: Of the text; its last group is the answer.
        asked: A question with ``{}`` for the title.
        phrase: The answer in words, with ``{}`` for the title; "" where no chain goes through it.
        of_person: Whether only persons have it.
    """

    pattern: str
    asked: str
    phrase: str = ""
    of_person: bool = False


RELATIONS = (
    Relation(rf"directed by {_NAME}", "Who directed {}?", "the director of film {}"),
    Relation(rf"composed by {_NAME}", "Who composed {}?", "the composer of {}"),
    Relation(
        r"(?:song|single|album)\b[^.]*? by (?:[\w\- ]*? (?:singer|band|rapper|artist|group) )"
        + _NAME,
        "Who is the performer of {}?",
        "the performer of song {}",
    ),
    Relation(rf"\b(?:son|daughter) of {_NAME}", "Who is a parent of {}?", "{}'s father", True),
    Relation(
        rf"\bmarried (?:to )?(?:[a-z]+ )*{_NAME}", "Who is the spouse of {}?", "{}'s spouse", True
    ),
    Relation(rf"\([^();]*?born (?:on )?{_DATE}", "When was {} born?", of_person=True),
    Relation(rf"^[^(]{{3,60}}\({_DATE} ?[–-]", "When was {} born?", of_person=True),
    Relation(rf"^[^(]{{3,60}}\([^()]*[–-] ?{_DATE}\s*\)", "When did {} die?", of_person=True),
    Relation(rf"\bborn (?:on [^.]*? )?in {_NAME}", "Where was {} born?", of_person=True),
    Relation(rf"\bdied (?:on [^.]*? )?(?:in|at) {_NAME}", "Where did {} die?", of_person=True),
    Relation(r"\bis an? ([A-Z][a-z]+(?:ese|ish|ian|an|ch|ic))\b", "What nationality is {}?"),
)


def names(text: str, name: str) -> bool:
    """Return whether a text holds a name as whole words, cases and punctuation aside.

    Example:
        >>> names("Directed by Henry Edwards.", "henry edwards"), names("Henry", "Hen")
        (True, False)
    """
    wanted = _folded(name)
    return bool(wanted.strip()) and f" {wanted} " in f" {_folded(text)} "


def _folded(text: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", text.casefold())


def bare_title(document: Document) -> str:
    """Return a passage's title without what tells it from others of the same name."""
    return re.sub(r"\s*\([^)]*\)$", "", document.title)


def corpus_of(env: SearchQAEnv) -> Iterator[Document]:
    """Iterate over the passages of an environment.

    Raises:
        ConfigurationError: Its retriever does not hold the passages.
    """
    if not isinstance(env.retriever, BM25Retriever):
        raise ConfigurationError(
            f"Expected an environment with retriever='bm25', got {type(env.retriever).__name__}, "
            "which does not hold the passages. Make the examples with bm25."
        )
    return env.retriever.documents()


def hops_of(question: Question, passages: Mapping[str, Document]) -> tuple[Hop, ...] | None:
    """Return a question's hops: titles to search for, in an order in which a reader learns them.

    A title is searched for if the question names it, or a passage before. Returns None where that
    is not possible, or where the last passage does not say the answer (comparisons apart).
    """
    if question.hops:
        return question.hops
    order = _in_order(question, [passages[id_] for id_ in question.supporting])
    if order is None:
        return None
    answer, is_comparison = question.answers[0], "comparison" in question.kind
    last, _ = order[-1]
    if not is_comparison and not names(f"{last.title} {last.text}", answer):
        return None
    found = [*(query for _, query in order[1:]), UNKNOWN if is_comparison else answer]
    return tuple(
        Hop(
            query, next_ if next_ == answer or names(document.text, next_) else UNKNOWN, document.id
        )
        for (document, query), next_ in zip(order, found, strict=True)
    )


def _in_order(
    question: Question, passages: Sequence[Document]
) -> list[tuple[Document, str]] | None:
    """Return passages with their queries, each after one that names it."""
    rest = sorted(passages, key=lambda d: not names(question.text, bare_title(d)))
    order: list[tuple[Document, str]] = []
    while rest:
        named = [
            d
            for d in rest
            if order
            and names(order[-1][0].text, bare_title(d))
            and not names(question.text, bare_title(d))
        ]
        document = (named or rest)[0]
        rest.remove(document)
        title = bare_title(document)
        if names(question.text, title) or any(names(d.text, title) for d, _ in order):
            order.append((document, title))
        elif not order:
            order.append((document, question.text))
        else:
            return None
    return order


def facts(document: Document) -> Iterator[tuple[Relation, str]]:
    """Yield what the relations find in a passage, each with its answer."""
    text, title = " ".join(document.text.split()), bare_title(document)
    is_person = bool(re.search(r"\b([Hh]e|[Ss]he|[Hh]is|[Hh]er)\b", text))
    is_person = is_person and not _WORK.search(text[:140])
    for relation in RELATIONS:
        match = re.search(relation.pattern, text)
        if match is None or (relation.of_person and not is_person):
            continue
        answer = match[match.lastindex or 0].strip(" .,")
        is_month = relation.asked.startswith("Where") and _MONTH.match(answer)
        if len(answer) >= 4 and answer not in title and not is_month:
            yield relation, answer


def chains(documents: Iterable[Document], random: np.random.Generator) -> Iterator[Question]:
    """Yield questions of two hops: a fact of a passage about the answer of another one."""
    by_title = {bare_title(document): document for document in documents}
    for title, document in by_title.items():
        for relation, bridge in facts(document):
            if not relation.phrase or bridge not in by_title:
                continue
            later = [(r, a) for r, a in facts(by_title[bridge]) if a not in (bridge, title)]
            if not later:
                continue
            second, answer = later[int(random.integers(len(later)))]
            yield Question(
                f"chain-{document.id}-{by_title[bridge].id}",
                second.asked.format(relation.phrase.format(title)),
                (answer,),
                kind="chain",
                supporting=(document.id, by_title[bridge].id),
                hops=(Hop(title, bridge), Hop(bridge, answer)),
            )


def single_facts(documents: Iterable[Document]) -> Iterator[Question]:
    """Yield questions of one hop, one for each fact."""
    for document in documents:
        title = bare_title(document)
        for number, (relation, answer) in enumerate(facts(document)):
            yield Question(
                f"fact-{document.id}-{number}",
                relation.asked.format(title),
                (answer,),
                kind="fact",
                supporting=(document.id,),
                hops=(Hop(title, answer, document.id),),
            )


def steps_of(questions: Iterable[Question]) -> Iterator[Question]:
    """Yield the annotated hops of questions as questions of their own."""
    for question in questions:
        for number, hop in enumerate(question.hops):
            yield Question(
                f"{question.id}-step-{number}", hop.query, (hop.answer,), kind="step", hops=(hop,)
            )


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions with their hops as a file that environments read."""
    rows = [
        {
            **{"id": q.id, "dataset": q.dataset or "made", "split": "train", "kind": q.kind},
            **{"question": q.text, "answers": list(q.answers), "supporting": list(q.supporting)},
            "decomposition": [{"question": hop.query, "answer": hop.answer} for hop in q.hops],
        }
        for q in questions
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def quotation(documents: Sequence[Document], hop: Hop) -> str | None:
    """Return the sentence that says a hop's answer, after its passage's title.

    Of an :data:`UNKNOWN` answer the beginning of the passage that was searched for. None where no
    document has it.
    """
    for document in documents:
        words = document.text.split()
        if hop.answer == UNKNOWN:
            if names(document.title, hop.query):
                return f"{document.title}: {' '.join(words[:_WORDS])}"
            continue
        for sentence in re.split(r"(?<=[a-z)\]\"]\.) (?=[A-Z\"])", " ".join(words)):
            if names(sentence, hop.answer):
                return f"{document.title}: {_around(sentence, hop.answer)}"
    return None


def _around(sentence: str, answer: str) -> str:
    """Return the words of a sentence around an answer."""
    words = sentence.split()
    if len(words) <= _WORDS:
        return sentence
    count = len(answer.split())
    at = next(
        (i for i in range(len(words)) if names(" ".join(words[i : i + count]), answer)),
        0,
    )
    first = min(at, max(0, at + count + 4 - _WORDS), len(words) - _WORDS)
    return " ".join(words[first : first + _WORDS])


Script = Callable[[SearchQAEnv], Iterator[str]]


def quoting(env: SearchQAEnv) -> Iterator[str]:
    """Search for each hop and quote what says its answer; end where nothing does."""
    question = env.transcript().question
    for hop in question.hops:
        yield query_text(env.protocol, hop.query)
        quoted = quotation(env.transcript().searches[-1].documents, hop)
        if quoted is None:
            return
        yield f" {quoted}\n"
    yield from closed_book(env)


def closed_book(env: SearchQAEnv) -> Iterator[str]:
    """Give the right answer at once."""
    transcript = env.transcript()
    answer = transcript.question.answers[0]
    yield answer_text(env.protocol, answer, thoughts=open_thoughts(transcript))


def play_script(env: SearchQAEnv, index: int, script: Script) -> Example | None:
    """Return a question's episode, in which the policy's tokens count.

    None for one without an answer, because a search did not find what is to be quoted.
    """
    observation, _ = env.reset(options={"index": index})
    agent = ScriptedAgent(script)
    agent.begin(env, observation)
    is_over = False
    while not is_over:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        is_over = terminated or truncated
    transcript = env.transcript()
    if transcript.answer is None:
        return None
    weights = (transcript.sources == Source.POLICY).astype(np.float32)
    return Example(transcript.tokens.copy(), weights)
