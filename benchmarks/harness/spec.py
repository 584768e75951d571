"""A protocol id fixes everything that decides a score but the agent.

``musique-dev/r1-searcher/bm25-pool81k/v1`` reads: the questions, whose tags, prompt and limits,
retriever and corpus, and a number that changes with any of these. Scores under different ids never
share a column. Digests of the questions with their answers, of the corpus and of the rules
(:mod:`search_env.benchmarks.harness.rules`) pin an id, so that a changed file is an error and not
another number. An id of somebody's own corpus names it by its digest: ``.../bm25-c0ffee123456/v1``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from search_env.benchmarks.harness.dense_settings import DenseSetting
from search_env.benchmarks.harness.errors import DigestMismatchError
from search_env.benchmarks.harness.rules import DIGITS, json_digest, rules_digest
from search_env.envs.config import EnvComponents, EnvConfig
from search_env.envs.loading import load_questions
from search_env.envs.registration import arguments_of
from search_env.errors import ConfigurationError, DataNotFoundError
from search_env.evaluation.evaluate import EpisodeMeasures
from search_env.paths import DATA_VARIABLE, data_dir
from search_env.types import Question

NO_CORPUS = "bm25-own"  # the retrieval of protocols whose corpus is the user's to bring


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkProtocol:
    """One way to score agents; digests are first digits, "" where they are not pinned."""

    question_set: str
    system: str  # of a setting; first the name of a Protocol
    retrieval: str
    version: int = 1  # counts up with every change of what the id stands for
    env_id: str = "SearchQA-v0"
    # Of the environment, ``protocol`` among them; tokenizer and context are the agent's.
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    questions_digest: str = ""
    corpus_digest: str = ""
    rules_digest: str = ""
    dense: DenseSetting | None = None  # a published retriever, which is the user's to bring
    note: str = ""

    @property
    def id(self) -> str:
        """Return the id."""
        return f"{self.question_set}/{self.system}/{self.retrieval}/v{self.version}"

    def environment(self, **agents: Any) -> dict[str, Any]:
        """Return the arguments of the environment that episodes are played in.

        ``agents`` are the agent's own: ``tokenizer``, ``vocab_size``, ``prompt``, ``max_tokens``
        (at most the protocol's) and ``on_retrieval_error``; None is the protocol's.
        """
        agents = {name: value for name, value in agents.items() if value is not None}
        arguments = {**arguments_of(self.env_id), **self.arguments}
        if self.retrieval == NO_CORPUS:
            raise ConfigurationError(
                f"Expected a corpus for {self.id}, got none. Pass one as --corpus."
            )
        if self.dense is not None and "retriever" not in arguments:
            raise ConfigurationError(
                f"Expected the retriever of {self.id}, got none. {self.dense.remedy}"
            )
        if arguments.get("dataset", "").startswith(_IN_DATA):
            arguments["dataset"] = str(data_folder() / arguments["dataset"].removeprefix(_IN_DATA))
        longest = arguments["max_tokens"]
        if agents.get("max_tokens", longest) > longest:
            raise ConfigurationError(
                f"Expected a context of at most {longest} tokens, which {self.id} allows, got "
                f"{agents['max_tokens']}. Lower max_tokens."
            )
        return {**arguments, **agents}

    def check(self, components: EnvComponents) -> None:
        """Raise unless an environment made from :meth:`environment` is what the id stands for."""
        digests = self.digests(components)
        pins = (self.questions_digest, self.corpus_digest, self.rules_digest)
        for (what, remedy), pinned in zip(_REMEDIES.items(), pins, strict=True):
            if not digests[what].startswith(pinned):
                raise DigestMismatchError(
                    f"Expected {what} with digest {pinned} under {self.id}, got "
                    f"{digests[what][:DIGITS]}. {remedy}"
                )

    def digests(self, components: EnvComponents) -> dict[str, str]:
        """Return the digests of ``questions``, ``corpus`` and ``rules``, 64 digits each."""
        return {
            "questions": questions_digest(components.questions),
            "corpus": str(getattr(components.retriever, "digest", "")),
            "rules": rules_digest(components.protocol, self.environment()["max_tokens"]),
        }

    def over_corpus(self, corpus: str) -> BenchmarkProtocol:
        """Return the protocol over somebody's own corpus or index, with an id of its own."""
        arguments = {**self.arguments, "corpus": corpus}
        protocol = replace(
            self, retrieval="bm25", arguments=arguments, corpus_digest="", dense=None
        )
        digest = protocol.digests(EnvComponents(EnvConfig(**protocol.environment())))["corpus"]
        return replace(protocol, retrieval=f"bm25-{digest[:DIGITS]}", corpus_digest=digest)

    def over_retriever(self, name: str) -> BenchmarkProtocol:
        """Return the protocol with a retriever by its name, and another id.

        A protocol of a published dense retriever keeps its id over an index that agrees with the
        setting. A server cannot be looked into: ``-served`` in the id says so.

        Raises:
            DigestMismatchError: The index is not the published retriever's.
            ConfigurationError: The retriever is neither an index nor a server.
        """
        arguments = {**self.arguments, "retriever": name}
        if self.dense is not None:
            return _with_published_retriever(replace(self, arguments=arguments), self.dense, name)
        kind = name.partition(":")[0]
        protocol = replace(self, retrieval=kind, arguments=arguments, corpus_digest="")
        digest = protocol.digests(EnvComponents(EnvConfig(**protocol.environment())))["corpus"]
        pinned = f"{kind}-{digest[:DIGITS]}" if digest else kind
        return replace(protocol, retrieval=pinned, corpus_digest=digest)

    def over_questions(self, questions: str) -> BenchmarkProtocol:
        """Return the protocol with a file of somebody's own questions, with an id of its own."""
        arguments = {**self.arguments, "dataset": questions, "split": None}
        protocol = replace(self, arguments=arguments, questions_digest="")
        digest = questions_digest(load_questions(questions, None, None))
        name = f"{self.question_set.partition('-')[0]}-{digest[:DIGITS]}"
        return replace(protocol, question_set=name, questions_digest=digest)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A published or generated set of questions, and all that is registered about it.

    ``reported`` are the ids of the protocols that the committed report plays. ``groups`` lead from
    the title of a table to the key of records that it groups by; None and "" leave a record out.
    """

    name: str
    protocols: tuple[BenchmarkProtocol, ...]
    reported: tuple[str, ...] = ()
    groups: Mapping[str, Callable[[EpisodeMeasures], object]] = field(
        default_factory=lambda: MappingProxyType({})
    )


def _with_published_retriever(
    protocol: BenchmarkProtocol, setting: DenseSetting, name: str
) -> BenchmarkProtocol:
    scheme = name.partition(":")[0]
    if scheme in ("http", "https"):
        return replace(protocol, retrieval=f"{setting.name}-served")
    if scheme != "faiss":
        raise ConfigurationError(
            f"Expected an index or a server for {protocol.id}, got {name!r}. {setting.remedy}"
        )
    retriever = EnvComponents(EnvConfig(**protocol.environment())).retriever
    setting.check(getattr(retriever, "card", {}), name)
    return replace(protocol, corpus_digest=str(getattr(retriever, "digest", "")))


_IN_DATA = f"${DATA_VARIABLE}/"


def data_folder() -> Path:
    """Return the folder of the questions."""
    folder = data_dir()
    if folder is None:
        raise DataNotFoundError(
            f"Expected ${DATA_VARIABLE} to name the folder of the questions, got no such variable. "
            "Set it to the folder that holds them."
        )
    return folder


_REMEDIES = {
    "questions": "Put that file in its place, or pass yours as --questions for an id of its own.",
    "corpus": "Put that corpus in its place, or pass yours as --corpus for an id of its own.",
    "rules": "Set them back, or give the protocol its next version.",
}


def questions_digest(questions: Sequence[Question]) -> str:
    """Return the SHA-256 over ids, texts and answers in order, as 64 hexadecimal digits."""
    return json_digest([[q.id, q.text, *q.answers] for q in questions])
