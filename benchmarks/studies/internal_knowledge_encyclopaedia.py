"""The encyclopaedia for the study of internal knowledge: articles that a base has read, and others.

With the world's option ``known``, a part of the articles is the same in every split; those of the
others are invented anew. The base is ``tiny-base``, which reads well and has never seen these tags:
its schooling shows it the known articles, their facts in the words in which they are recalled, and
episodes of both kinds on known articles and on other worlds', as often one as the other. Questions
of the train split are trained on, those of the test split tested: other facts of the known
articles, and articles that were never seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.imitation.demonstrations import article_examples
from search_env.agents.models import load_model
from search_env.agents.rollouts.memorisation import MemorisationConfig
from search_env.agents.rollouts.rewriters import oracle_path
from search_env.agents.types import Example
from search_env.benchmarks.studies.internal_knowledge_runs import Home, Plan
from search_env.core.document_block import DocumentBlockWriter
from search_env.envs.search_qa import SearchQAEnv
from search_env.protocols.protocol import Protocol
from search_env.protocols.r1_searcher_plus_plus import R1_SEARCHER_PLUS_PLUS
from search_env.protocols.registry import register_protocol
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.retrieval.base import retrieve
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Question, TokenIds
from search_env.worlds.encyclopaedia import World

STATEMENT = "{query}: {answer}."
REWRITING = "{documents}\nRecall: {question}"

BRIEF: Protocol = dataclasses.replace(
    R1_SEARCHER_PLUS_PLUS,
    name="r1-searcher++-brief",
    source="this study: r1-searcher++ without instructions, one document a search",
    base_prompt="{question}\n",
    top_k=1,
)
register_protocol(BRIEF, replace=True)

ARTICLES, KNOWN, QUESTIONS = 250, 0.4, 290
MODEL = "tiny-base"
SCHOOL = {"examples": 12_000, "steps": 600}
_SCHOOL_WORLDS = range(20_000, 20_004)  # seeds of worlds for search; used for nothing else
_RATE = 1e-3
_WINDOW = 256
_LINES = 8  # facts of an example that is read

PLAN = Plan(
    protocol=BRIEF.name,
    module=__name__,
    algorithm=Algorithm(
        advantage="grpo",
        aggregation="token_mean",
        prompts=16,
        group_size=8,
        kl="loss",
        kl_coefficient=0.02,
        learning_rate=1.5e-4,  # the default run's
        warmup_steps=3,
        importance_correction="tis",
        top_p=0.95,
    ),
    steps=30,
    memory=MemorisationConfig(weight=0.1, prompt=REWRITING, statement=STATEMENT, max_tokens=96),
    max_tokens=384,
    batch=4096,
    cold_rate=3e-4,
)
"""Not tuned: no seed of this world has been run to the end. After 200 updates of the schooling, a
base answered .44 of the unknown questions, searching in .61, and recalled .23 of the known ones."""


class _Fact(NamedTuple):
    """A question, the block of documents that its query finds, and whether it may be recalled."""

    question: Question
    block: TokenIds
    taught: bool


class EncyclopaediaHome(Home):
    """A seed's home in the encyclopaedia."""

    plan = PLAN
    legend = f"""\
`{MODEL}` in worlds of {ARTICLES} articles, of which the base has read {KNOWN:.0%}, with questions
of one hop. Tested are facts of the known articles that were never asked, and articles that were
never seen. Greedy episodes, means over seeds with 95 % t intervals."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.tokenizer = load_tokenizer("world-1k")

    def options(self, questions: str) -> dict[str, Any]:
        """Return the environment's arguments."""
        world = {"articles": ARTICLES, "known": KNOWN, "questions": QUESTIONS, "seed": self.seed}
        return {
            "dataset": "world",
            "split": questions,
            "dataset_options": {**world, "hops": [1], "kinds": ["lookup"]},
            "protocol": BRIEF.name,
            "tokenizer": "world-1k",
            "max_tokens": PLAN.max_tokens,
        }

    def is_known(self, question: Question) -> bool:
        """Return whether the base has read the answer."""
        return all(document.startswith("world-known-") for document in question.supporting)

    def make_base(self) -> Path:
        """Fine-tune the bundled base."""
        folder = self.folder / "base"
        if not folder.exists():
            examples = list(self._schooling())
            model = load_model(MODEL)
            self.imitate(model, examples, folder, steps=SCHOOL["steps"], rate=_RATE)
        return folder

    def _schooling(self) -> Iterator[Example]:
        """Yield reading, recall, search and rewriting, in random order."""
        random = np.random.default_rng([self.seed, 13])
        known, others = self._facts()
        articles = World(round(ARTICLES * KNOWN), self.seed, known=1.0)
        windows = list(article_examples([*articles.documents()], self.tokenizer, _WINDOW))
        for _ in range(SCHOOL["examples"]):
            fact = _pick(random, known if random.random() < 0.5 else others)
            kind = random.random()
            if kind < 0.1:
                yield _pick(random, windows)
            elif kind < 0.4:
                yield self._lines([_pick(random, known) for _ in range(_LINES)])
            elif kind < 0.65:
                yield self._recall(fact)
            elif kind < 0.9:
                yield self._search(fact)
            else:
                yield self._rewriting(fact)

    def _facts(self) -> tuple[list[_Fact], list[_Fact]]:
        """Return the facts of the known articles, and some of other worlds."""
        known = [
            fact
            for split in ("train", "test")
            for fact in self._facts_of(self.options(split), taught=split == "train")
            if self.is_known(fact.question)
        ]
        others: list[_Fact] = []
        for seed in _SCHOOL_WORLDS:
            options = self.options("train")
            world = {**options["dataset_options"], "seed": seed, "known": 0.0}
            others += self._facts_of({**options, "dataset_options": world}, taught=False)
        return known, others

    def _facts_of(self, options: dict[str, Any], *, taught: bool) -> Iterator[_Fact]:
        env = SearchQAEnv(**options)
        writer = DocumentBlockWriter(env.protocol, env.tokenizer)
        queries = [question.hops[0].query for question in env.questions]
        found = retrieve(env.retriever, queries, env.protocol.top_k)
        for question, documents in zip(env.questions, found, strict=True):
            block = writer.write(documents, PLAN.max_tokens)
            if block is not None:
                yield _Fact(question, block, taught)

    def _lines(self, facts: Sequence[_Fact]) -> Example:
        """Return known facts in the words in which they are recalled; every token counts."""
        text = "".join(f"<internal> {_stated(fact.question)} </internal>\n" for fact in facts)
        ids = self.tokenizer.encode(text)
        return Example(ids, np.ones(len(ids), np.float32))

    def _recall(self, fact: _Fact) -> Example:
        """Return an episode by recall; what is tested or unknown is not taught by it."""
        path = oracle_path(BRIEF, fact.question, (), STATEMENT)
        if fact.taught:
            return self._episode(fact.question, [(path, 1.0)])
        head, answer, tail = path.partition(f" {fact.question.hops[0].answer}.")
        return self._episode(fact.question, [(head, 1.0), (answer, 0.0), (tail, 1.0)])

    def _search(self, fact: _Fact) -> Example:
        """Return an episode by search, which states what it found before it answers."""
        question = fact.question
        query = query_text(BRIEF, question.hops[0].query)
        said = f" {_stated(question)}\n{answer_text(BRIEF, question.answers[0])}"
        return self._episode(question, [(query, 1.0), (fact.block, 0.0), (said, 1.0)])

    def _rewriting(self, fact: _Fact) -> Example:
        """Return a path that is written from a document."""
        text = BRIEF.documents_prefix, BRIEF.documents_suffix
        found = self.tokenizer.decode(fact.block).removeprefix(text[0]).removesuffix(text[1])
        found = found.removeprefix(BRIEF.document_rank.replace("{rank}", "1")).strip()
        task = REWRITING.replace("{documents}", found).replace("{question}", fact.question.text)
        path = oracle_path(BRIEF, fact.question, (), STATEMENT)
        return self._join([(f"{task}\n", 0.0), (path, 1.0)])

    def _episode(
        self, question: Question, pieces: Sequence[tuple[str | TokenIds, float]]
    ) -> Example:
        prompt = BRIEF.base_prompt.replace("{question}", question.text)
        return self._join([(prompt, 0.0), *pieces])

    def _join(self, pieces: Sequence[tuple[str | TokenIds, float]]) -> Example:
        ids = [
            self.tokenizer.encode(piece) if isinstance(piece, str) else piece for piece, _ in pieces
        ]
        weights: list[NDArray[np.float32]] = [
            np.full(len(part), weight, np.float32)
            for part, (_, weight) in zip(ids, pieces, strict=True)
        ]
        return Example(np.concatenate(ids), np.concatenate(weights))


def _stated(question: Question) -> str:
    hop = question.hops[0]
    return STATEMENT.replace("{query}", hop.query).replace("{answer}", hop.answer)


def _pick(random: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(random.integers(len(items)))]
