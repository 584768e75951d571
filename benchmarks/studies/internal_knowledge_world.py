"""A world for the study of internal knowledge: facts that a base has read, and others.

An entity has a value for each of six relations: ``Bako river is Tiru.`` Half of the entities are
*known*: the base has read all of their sentences. Sentences of the others stand in the corpus
alone. Of each entity three facts are trained on, and the other three tested, so what is tested was
never asked, and of unknown entities never seen.

The base is a Qwen2 of a quarter of a million parameters. Its schooling shows episodes of both
kinds, by recall and by search, as often for known as for unknown entities (of which all facts in
the schooling are made up anew each time): it knows *how*, and has no reason to prefer either. Some
of the episodes break the format.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.models import tiny_config, untrained
from search_env.agents.rollouts.memorisation import MemorisationConfig
from search_env.agents.rollouts.rewriters import oracle_path
from search_env.agents.types import Example
from search_env.benchmarks.studies.internal_knowledge_runs import Home, Plan
from search_env.protocols.r1_searcher_plus_plus import R1_SEARCHER_PLUS_PLUS
from search_env.protocols.registry import register_protocol
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import Hop, Question

RELATIONS = ("capital", "river", "colour", "metal", "author", "feast")
TRAINED = 3  # of each entity's relations, drawn for each
VALUES = 24
STATEMENT = "{query} is {answer}."
REWRITING = " {documents} recall {question}"
"""What the model is asked to rewrite a rollout; its schooling has taught it."""

BARE = dataclasses.replace(
    R1_SEARCHER_PLUS_PLUS,
    name="r1-searcher++-bare",
    source="this study: r1-searcher++ without instructions, one short document a search",
    base_prompt=" {question}\n",
    documents_prefix="<document>",
    document_rank="",
    document_body=" {text} ",
    no_documents=" None ",
    documents_suffix="</document>",
    top_k=1,
    max_segment_tokens=None,
)
register_protocol(BARE, replace=True)

PLAN = Plan(
    protocol=BARE.name,
    module=__name__,
    algorithm=Algorithm(
        advantage="grpo",
        aggregation="token_mean",
        prompts=32,
        group_size=8,
        kl="loss",
        kl_coefficient=0.02,  # else what is not asked is forgotten
        learning_rate=3e-4,
        warmup_steps=4,
        top_p=0.95,  # as in the default run: the model is small
    ),
    steps=80,
    memory=MemorisationConfig(weight=0.1, prompt=REWRITING, statement=STATEMENT, max_tokens=32),
    max_tokens=96,
)
SCHOOL = {"examples": 40_000, "steps": 500}
_RATE = 3e-3  # of the schooling

_SYLLABLES = ("ba", "do", "ke", "li", "mu", "na", "po", "ri", "sa", "tu", "ve", "zo")
_DEFECTS = ("unclosed", "no box", "own document")


@dataclass(frozen=True)
class World:
    """Facts by entity and relation; ``trained`` are those whose questions are trained on."""

    entities: tuple[str, ...]
    facts: dict[tuple[str, str], str]
    trained: frozenset[tuple[str, str]]

    @classmethod
    def drawn(cls, seed: int, entities: int = 48) -> World:
        """Return the world of a seed."""
        random = np.random.default_rng([seed, 11])
        words = random.permutation(
            [(a + b + c).capitalize() for a in _SYLLABLES for b in _SYLLABLES for c in "nlrs"]
        ).tolist()
        names, values = words[:entities], words[entities : entities + VALUES]
        drawn = random.integers(VALUES, size=(entities, len(RELATIONS)))
        facts = {
            (name, relation): values[drawn[i, j]]
            for i, name in enumerate(names)
            for j, relation in enumerate(RELATIONS)
        }
        trained = {
            (name, RELATIONS[place])
            for name in names
            for place in random.permutation(len(RELATIONS))[:TRAINED]
        }
        return cls(tuple(names), facts, frozenset(trained))

    @property
    def known(self) -> tuple[str, ...]:
        """Entities that the base has read about."""
        return self.entities[: len(self.entities) // 2]

    @property
    def values(self) -> list[str]:
        """All values, in order."""
        return sorted(set(self.facts.values()))

    def question(self, entity: str, relation: str, value: str | None = None) -> Question:
        """Return the question of a fact, or of a made-up one."""
        value = self.facts[entity, relation] if value is None else value
        query = f"{entity} {relation}"
        kind = "known" if entity in self.known else "unknown"
        return Question(
            f"{entity}-{relation}", f"{query}?", (value,), kind=kind, hops=(Hop(query, value),)
        )

    def write(self, folder: Path) -> None:
        """Write questions to train and test on, and the corpus."""
        folder.mkdir(parents=True, exist_ok=True)
        rows: dict[str, list[dict[str, object]]] = {"train": [], "test": [], "corpus": []}
        for entity, relation in self.facts:
            question = self.question(entity, relation)
            hop = question.hops[0]
            rows["train" if (entity, relation) in self.trained else "test"].append(
                {
                    "id": question.id,
                    "question": question.text,
                    "answers": list(question.answers),
                    "kind": question.kind,
                    "decomposition": [{"question": hop.query, "answer": hop.answer}],
                }
            )
            text = sentence(question)
            rows["corpus"].append({"id": question.id, "title": "", "text": text})
        for name, lines in rows.items():
            content = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}.jsonl").write_text(content, "utf-8")


def sentence(question: Question) -> str:
    """Return the sentence of the encyclopaedia that answers a question."""
    hop = question.hops[0]
    return STATEMENT.replace("{query}", hop.query).replace("{answer}", hop.answer)


def make_tokenizer(world: World, folder: Path) -> Tokenizer:
    """Write a byte-level BPE in which each word of a world is one token, and return it."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=4000,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        questions = [world.question(*fact) for fact in world.facts]
        texts = [f" {q.text}\n{_recalled(q)}{_searched(q, BARE.name)}" for q in questions]
        texts += [f"<document> {sentence(q)} </document> recall None" for q in questions]
        backend.train_from_iterator(texts, trainer)
        folder.mkdir(parents=True, exist_ok=True)
        backend.save(str(path))
    return load_tokenizer(str(path))


def _recalled(question: Question) -> str:
    return oracle_path(BARE, question, (), STATEMENT)


def _searched(question: Question, between: str) -> str:
    query = query_text(BARE, question.hops[0].query)
    return query + between + answer_text(BARE, question.answers[0])


class School:
    """Writes the schooling of a base; one generator decides everything.

    ``defects`` is the share of episodes in a broken format.
    """

    def __init__(
        self, world: World, tokenizer: Tokenizer, seed: int, *, defects: float = 0.4
    ) -> None:
        self._world, self._encode = world, tokenizer.encode
        self._random = np.random.default_rng([seed, 12])
        self._defects = defects
        self._eos = min(tokenizer.eos_ids, default=0)

    def examples(self, count: int) -> Iterator[Example]:
        """Yield examples: reading, recall and search in equal parts, and rewriting."""
        kinds = (self._reading, self._recall, self._search, self._rewriting)
        for _ in range(count):
            yield kinds[self._random.choice(4, p=(0.4, 0.25, 0.25, 0.1))]()

    def _reading(self) -> Example:
        """Return some sentences about known entities, of all relations; every token counts."""
        text = ""
        for _ in range(4):
            entity = self._pick(self._world.known)
            text += f" {sentence(self._world.question(entity, self._pick(RELATIONS)))}\n"
        ids = self._encode(text)
        return Example(ids, np.ones(len(ids), np.float32))

    def _recall(self) -> Example:
        """Return an episode by recall.

        Values of unknown entities cannot be learnt, and known ones that are tested are left to
        what was read: they have no weight.
        """
        question, is_known = self._question()
        path = _recalled(question)
        defect = self._defect()
        if defect == "unclosed":
            path = path.replace(" </internal>", "")
        pieces = [(path, 1.0)]
        if not is_known or tuple(question.hops[0].query.split()) not in self._world.trained:
            head, value, tail = path.partition(f" {question.answers[0]}")
            pieces = [(head, 1.0), (value, 0.0), (tail, 1.0)]
        return self._episode(question, pieces, defect)

    def _search(self) -> Example:
        """Return an episode by search, its document among it."""
        question, _ = self._question()
        defect = self._defect()
        query = query_text(BARE, question.hops[0].query)
        pieces = [(query, 1.0), *self._document(question)]
        if defect == "own document":
            pieces += [(f"<document> {sentence(question)} </document>", 1.0)]
        if defect == "unclosed":
            pieces += [("<internal> so", 1.0)]
        return self._episode(
            question, [*pieces, (answer_text(BARE, question.answers[0]), 1.0)], defect
        )

    def _rewriting(self) -> Example:
        """Return a path that is written from a document, or without one where it is known."""
        question, is_known = self._question()
        found = sentence(question)
        if is_known and self._random.random() < 0.3:
            found = "None"
        text = REWRITING.replace("{documents}", found).replace("{question}", question.text)
        # The prompt ends as the protocol's does.
        return self._join([(f"{text}\n", 0.0), (_recalled(question), 1.0)])

    def _question(self) -> tuple[Question, bool]:
        """Return a question, its answer true if known, else made up."""
        entity, relation = self._pick(self._world.entities), self._pick(RELATIONS)
        is_known = entity in self._world.known
        value = None if is_known else self._pick(self._world.values)
        return self._world.question(entity, relation, value), is_known

    def _document(self, question: Question) -> list[tuple[str, float]]:
        return [("<document>", 0.0), (f" {sentence(question)} ", 0.0), ("</document>", 0.0)]

    def _defect(self) -> str:
        return self._pick(_DEFECTS) if self._random.random() < self._defects else ""

    def _episode(self, question: Question, pieces: list[tuple[str, float]], defect: str) -> Example:
        if defect == "no box":
            text, weight = pieces[-1]
            text = text.rpartition(BARE.tags[2].open)[0]
            pieces[-1] = (f"{text} {question.answers[0]}", weight)
        prompt = BARE.base_prompt.replace("{question}", question.text)
        example = self._join([(prompt, 0.0), *pieces])
        if defect != "no box":
            return example
        tokens, weights = np.append(example.tokens, self._eos), np.append(example.weights, 1.0)
        return Example(tokens.astype(np.int32), weights.astype(np.float32))

    def _join(self, pieces: Sequence[tuple[str, float]]) -> Example:
        ids = [self._encode(text) for text, _ in pieces]
        weights = [
            np.full(len(part), weight, np.float32)
            for part, (_, weight) in zip(ids, pieces, strict=True)
        ]
        tokens: NDArray[np.int32] = np.concatenate(ids)
        return Example(tokens, np.concatenate(weights))

    def _pick(self, items: Sequence[str]) -> str:
        return items[int(self._random.integers(len(items)))]


class SmallHome(Home):
    """A seed's home in this world."""

    plan = PLAN
    legend = """\
A model of a quarter of a million parameters in a world of 48 entities with six facts each. The base
has read the sentences about half of them. Of each entity three facts are asked in training, the
others tested: what is tested was never asked, and of unknown entities never seen. Greedy episodes,
means over seeds with 95 % t intervals; a guess is right in 4 % of cases."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.world = World.drawn(seed)
        if not (folder / "corpus.jsonl").exists():
            self.world.write(folder)
        self.tokenizer = make_tokenizer(self.world, folder / "tokenizer")

    def options(self, questions: str) -> dict[str, Any]:
        """Return the environment's arguments."""
        return {
            "dataset": str(self.folder / f"{questions}.jsonl"),
            "corpus": str(self.folder / "corpus.jsonl"),
            "protocol": BARE.name,
            "tokenizer": str(self.folder / "tokenizer" / "tokenizer.json"),
            "max_tokens": PLAN.max_tokens,
        }

    def is_known(self, question: Question) -> bool:
        """Return whether the base has read the answer."""
        return question.kind == "known"

    def make_base(self) -> Path:
        """School a new model."""
        folder = self.folder / "base"
        if not folder.exists():
            school = School(self.world, self.tokenizer, self.seed)
            examples = list(school.examples(SCHOOL["examples"]))
            size = self.tokenizer.size
            config = tiny_config(size, hidden_size=96, intermediate_size=256, layers=2)
            model = untrained(config, self.seed)
            self.imitate(model, examples, folder, steps=SCHOOL["steps"], rate=_RATE)
        return folder
