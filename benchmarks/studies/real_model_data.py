"""Examples for the study of a real model: reading cards, and episodes that scripts play.

A *card* is the end of an episode without its prompt, which is the longest part: a query, documents,
an answer. Only the answer has weight. Its question has one hop: of MuSiQue's decompositions, or
made by a rule from a passage ("... directed by Jane Roe" answers "Who directed ...?"); some cards
have the training question itself with all of its evidence. Passages are those that training
questions are about or find, without those that support a question of evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from search_env.agents.baselines.scripted import ScriptedAgent
from search_env.agents.types import Example
from search_env.core.document_block import DocumentBlockWriter
from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError
from search_env.metrics.golds_in_text import any_gold_in
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import answer_text, query_text, without_tags
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.types import Document, Question, Source, TokenIds

_CARD_TOKENS = 1024
_FIRST = 3.0  # weight of an answer's first two tokens, which decide where to copy from
_WORD = r"(?:(?:[A-Z]\.)+|[A-Z][\w'-]+)"
_NAME = rf"({_WORD}(?: (?:de |van |von |of |the )?{_WORD}){{0,3}})"
_DATE = r"(\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4})"
_PLACE = r"([A-Z][\w'-]+(?: [A-Z][\w'-]+){0,2}(?:, [A-Z][\w'-]+(?: [A-Z][\w'-]+)?)?)"

RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (rf"\bfilm\b[^.]*\bdirected (?:and \w+ )?by {_NAME}", ("Who directed the film {}?",
     "Who is the director of film {}?")),
    (rf"\b(?:song|single|album)\b[^.]* by (?:the )?(?:[A-Z][a-z]+ )?(?:[a-z-]+ )+{_NAME}",
     ("Who is the performer of {}?",)),
    (rf"\(born {_DATE}", ("When was {} born?", "What is the date of birth of {}?")),
    (rf"\({_DATE} ?[-–] ?", ("When was {} born?", "What is the date of birth of {}?")),
    (rf"[-–] ?{_DATE}\)", ("When did {} die?", "What is the date of death of {}?")),
    (rf"\bwas born (?:on [^.,]* )?in {_PLACE}", ("Where was {} born?",
     "What is the place of birth of {}?")),
    (rf"\bdied (?:on [^.,]* )?(?:in|at) {_PLACE}", ("Where did {} die?",
     "What is the place of death of {}?")),
    (r"\b(?:is|was) an? ([A-Z][a-z]+(?:-[A-Z][a-z]+)?) (?:[a-z]+ ){0,2}(?:actor|actress|writer|"
     r"politician|director|singer|footballer|author|composer|painter)",
     ("What nationality is {}?",)),
    (r"\bis an? (\d{4}) (?:[A-Z][\w-]+ )*(?:[a-z-]+ )*film\b", ("When was the film {} released?",
     "Which year did the film {} come out?")),
    (rf"\bmarried (?:to )?(?:the )?(?:[a-z]+ ){{0,2}}{_NAME}", ("Who is the spouse of {}?",)),
    (rf"\b(?:son|daughter) of (?:the )?(?:[a-z]+ ){{0,3}}{_NAME}", ("Who is a parent of {}?",)),
)  # fmt: skip
"""Patterns of a passage's text, whose group is the answer, and questions about its title."""


class Fact(NamedTuple):
    """A question of one hop, its answer, and the passage that says so."""

    question: str
    answer: str
    document: Document


def facts_of(document: Document) -> list[Fact]:
    """Return what the rules read out of a passage.

    Example:
        >>> text = "Nova is a 1961 film directed by Jane Roe. She was born in Ulm."
        >>> for fact in facts_of(Document("1", "Nova (film)", text)):
        ...     print(fact.question, fact.answer)
        Who directed the film Nova? Jane Roe
        When was the film Nova released? 1961
    """
    title, found = bare_title(document), []
    for number, (pattern, forms) in enumerate(RULES):
        match = re.search(pattern, document.text)
        is_film = re.search(r"\bis an? [^.]*\b(?:film|song|single|album)\b", document.text)
        if match is None or (is_film and "born" in pattern) or title in match[1]:
            continue
        form = forms[(len(document.text) + number) % len(forms)]
        found.append(Fact(form.format(title), match[1].strip(" ,."), document))
    return found


def passage(env: SearchQAEnv, id_: str) -> Document:
    """Return a passage of the environment's corpus.

    Raises:
        ConfigurationError: Its retriever does not hold the passages.
    """
    if not isinstance(env.retriever, BM25Retriever):
        raise ConfigurationError(
            f"Expected an environment with retriever='bm25', got {type(env.retriever).__name__}, "
            "which does not hold the passages. Make the examples with bm25."
        )
    return env.retriever.document(id_)


def bare_title(document: Document) -> str:
    """Return a passage's title without what tells it from others of the same name."""
    return re.sub(r"\s*\([^)]*\)$", "", document.title)


def reading_cards(
    env: SearchQAEnv,
    others: Sequence[Question],
    random: np.random.Generator,
    *,
    whole: float = 0.25,
    context_weight: float = 0.0,
) -> Iterator[Example]:
    """Yield cards without end.

    Args:
        env: Its questions are those of training.
        others: Questions of evaluation, whose passages are left out.
        random: Chooses questions, distractors and the order of documents.
        whole: Share of cards with a training question and all of its evidence.
        context_weight: Weight of the tokens before the answer.
    """
    held_out = {passage for question in others for passage in question.supporting}
    questions = [q for q in env.questions if q.supporting]
    writer = DocumentBlockWriter(env.protocol, env.tokenizer)
    while True:
        question = questions[int(random.integers(len(questions)))]
        gold = [passage(env, id_) for id_ in question.supporting]
        retrieved = env.retriever.search([question.text], env.protocol.top_k + 3)[0]
        usable = [d for d in (*gold, *retrieved) if d.id not in held_out]
        facts = [*_hops(question, usable), *(fact for d in usable for fact in facts_of(d))]
        if random.random() < whole or not facts:
            asked, answer, needed = question.text, question.answers[0], gold
        else:
            fact = facts[int(random.integers(len(facts)))]
            asked, answer, needed = fact.question, fact.answer, [fact.document]
        ids = {document.id for document in needed}
        distractors = [d for d in usable if d.id not in ids and not _says(d, answer)]
        count = max(0, env.protocol.top_k - len(needed))
        documents = [*needed, *distractors[:count]]
        order = random.permutation(len(documents))
        block = writer.write([documents[i] for i in order], _CARD_TOKENS)
        if block is not None:  # the limit has room for the frame
            yield _card(env, asked, answer, block, context_weight)


def _hops(question: Question, documents: Sequence[Document]) -> list[Fact]:
    by_id = {document.id: document for document in documents}
    return [
        Fact(hop.query, hop.answer, by_id[hop.document_id])
        for hop in question.hops
        if hop.document_id in by_id
    ]


def _says(document: Document, answer: str) -> bool:
    return bool(any_gold_in([f"{document.title} {document.text}"], [answer]))


def _card(
    env: SearchQAEnv,
    asked: str,
    answer: str,
    block: TokenIds,
    context_weight: float,
) -> Example:
    """Return a query, documents and an answer as an episode would have them."""
    env.reset(options={"index": 0})
    thoughts = open_thoughts(env.transcript())
    query = env.tokenizer.encode(query_text(env.protocol, asked))
    final = env.tokenizer.encode(answer_text(env.protocol, answer, thoughts=thoughts))
    head = env.tokenizer.encode(
        answer_text(env.protocol, "", thoughts=thoughts).rpartition("  ")[0]
    )
    before = np.concatenate([query, block])
    weights = np.ones(len(final), np.float32)
    weights[len(head) : len(head) + 2] = _FIRST
    context = np.full(len(before), context_weight, np.float32)
    return Example(np.concatenate([before, final]), np.concatenate([context, weights]))


Script = Callable[[SearchQAEnv], Iterator[str]]


def plain_search(env: SearchQAEnv) -> Iterator[str]:
    """Search once for the question as it stands, then give the right answer."""
    yield query_text(env.protocol, env.transcript().question.text)
    yield _answer(env)


def bridge_search(env: SearchQAEnv, most: int = 3) -> Iterator[str]:
    """Search for the question, then for evidence that is missing and named in what was found.

    The later queries are titles of supporting passages that occur in a document retrieved before: a
    reader could have written them.
    """
    question = env.transcript().question
    yield query_text(env.protocol, question.text)
    for _ in range(most - 1):
        found = env.transcript().documents
        texts = [f"{document.title} {document.text}" for document in found.values()]
        missing = [passage(env, id_) for id_ in question.supporting if id_ not in found]
        named = [d for d in missing if any_gold_in(texts, [bare_title(d)])]
        named = [d for d in named if without_tags(env.protocol, d.title)]
        if not named:
            break
        yield query_text(env.protocol, named[0].title)
    yield _answer(env)


def closed_book(env: SearchQAEnv) -> Iterator[str]:
    """Give the right answer at once."""
    yield _answer(env)


def _answer(env: SearchQAEnv) -> str:
    transcript = env.transcript()
    answer = transcript.question.answers[0]
    return answer_text(env.protocol, answer, thoughts=open_thoughts(transcript))


def play_script(env: SearchQAEnv, index: int, script: Script) -> tuple[Example, bool]:
    """Return a question's episode, and whether its documents say the answer or it needs none.

    Every token of the policy has weight 1.
    """
    observation, _ = env.reset(options={"index": index})
    agent = ScriptedAgent(script)
    agent.begin(env, observation)
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        over = terminated or truncated
    transcript = env.transcript()
    texts = [f"{d.title} {d.text}" for d in transcript.documents.values()]
    said = any_gold_in(texts, transcript.question.answers[:1])
    weights = (transcript.sources == Source.POLICY).astype(np.float32)
    example = Example(transcript.tokens.copy(), weights)
    return example, said is not False or not transcript.searches
