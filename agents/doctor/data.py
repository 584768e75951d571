"""Questions, prompts and the retriever of a run, tried on a few questions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

from search_env.agents.doctor.findings import Finding, Section
from search_env.agents.rollouts.lm_agent import spread
from search_env.core.document_block import DocumentBlockWriter
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.metrics.answers import is_empty_gold
from search_env.metrics.golds_in_text import any_gold_in
from search_env.retrieval.base import backend_name, retrieve
from search_env.types import Document, Question

_DATA = Section("Questions")
_RETRIEVAL = Section("Retrieval")
_PROMPTS = 64  # prompts whose length is measured
_QUERIES = 16  # questions that are searched for


def examine_questions(train: SearchQAVectorEnv, held_out: SearchQAVectorEnv) -> Iterator[Finding]:
    """Yield what a run is trained and evaluated on, and the room that its prompts leave."""
    questions = train.questions
    yield _DATA.ok(f"{len(questions):,} to train on, {len(held_out.questions):,} to evaluate on")
    shared = {q.text for q in questions} & {q.text for q in held_out.questions}
    if shared:
        yield _DATA.warning(
            f"{len(shared):,} of the evaluation's questions are trained on, such as "
            f"{min(shared)!r}",
            "Evaluate on another split: --eval-split.",
        )
    chosen = [questions[i] for i in spread(questions, _PROMPTS)]
    empty = [q for q in questions if all(map(is_empty_gold, q.answers))]
    if empty:
        yield _DATA.warning(
            f"{len(empty):,} questions have no gold answer with a word or number, such as "
            f"{empty[0].id!r}; an empty answer is right for them",
            "Remove them, or correct their answers.",
        )
    yield _prompt_lengths(train, chosen)


def examine_retrieval(envs: SearchQAVectorEnv) -> Iterator[Finding]:
    """Yield a retriever's latency, how much it finds, and the room that its documents take."""
    retriever, k = envs.components.retriever, envs.protocol.top_k
    chosen = [envs.questions[i] for i in spread(envs.questions, _QUERIES)]
    queries = [question.text for question in chosen]
    retrieve(retriever, queries[:1], k)  # the first call may open files or connections
    seconds, results = [], []
    for query in queries:
        started = time.perf_counter()
        results.append(retrieve(retriever, [query], k)[0])
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    together = retrieve(retriever, queries, k)
    batch = time.perf_counter() - started
    yield _RETRIEVAL.ok(
        f"{backend_name(retriever)}: {1000 * statistics.median(seconds):.1f} ms a query (slowest "
        f"of {len(queries)}: {1000 * max(seconds):.1f}), {1000 * batch / len(queries):.1f} ms in a "
        "batch"
    )
    if together != results:
        yield _RETRIEVAL.warning(
            "a query alone and in a batch finds other documents",
            "Episodes then depend on how many run side by side. Let the retriever order equal "
            "scores in one way, whatever else is in the call.",
        )
    yield _found(chosen, results, k)
    yield _block_lengths(envs, results)


def _found(questions: Sequence[Question], results: Sequence[Sequence[Document]], k: int) -> Finding:
    """Return for how many questions the question itself, as a query, finds a gold answer."""
    silent = sum(not documents for documents in results)
    if silent == len(results):
        return _RETRIEVAL.warning(
            f"none of {len(results)} questions, used as a query, finds a document",
            "Check that the corpus belongs to the dataset (--corpus), unless the retriever answers "
            "other queries only, as the toy's does.",
        )
    right = sum(
        bool(any_gold_in((f"{d.title} {d.text}" for d in documents), question.answers))
        for question, documents in zip(questions, results, strict=True)
    )
    return _RETRIEVAL.checked(
        right > 0,
        f"used as a query, {right} of {len(results)} questions find a gold answer in {k} documents",
        "Later hops may need queries of their own; if not, check that the corpus belongs to the "
        "dataset (--corpus).",
    )


def _block_lengths(envs: SearchQAVectorEnv, results: Sequence[Sequence[Document]]) -> Finding:
    """Return how many tokens an inserted block takes, and how many fit."""
    protocol = envs.protocol
    limit = protocol.max_documents_tokens or protocol.max_tokens
    writer = DocumentBlockWriter(protocol, envs.tokenizer)
    lengths = [len(block) for r in results if (block := writer.write(r, limit)) is not None]
    if not lengths:
        return _RETRIEVAL.error(
            f"no block of documents fits {limit:,} tokens", "Raise --max-tokens."
        )
    longest = max(lengths)
    fit = protocol.max_tokens // longest
    return _RETRIEVAL.checked(
        fit >= 2,
        f"{protocol.top_k} documents take {round(statistics.median(lengths)):,} tokens (at most "
        f"{longest:,} of these): up to {fit} such blocks in {protocol.max_tokens:,} tokens",
        "Raise --max-tokens, or lower top_k: a second search would end the episode.",
    )


def _prompt_lengths(envs: SearchQAVectorEnv, questions: Sequence[Question]) -> Finding:
    dynamics, size = envs.components.dynamics(1), envs.protocol.max_tokens
    lengths = []
    for question in questions:
        dynamics.begin(0, question)
        lengths.append(dynamics.length(0))
    return _DATA.checked(
        2 * max(lengths) < size,
        f"prompts of {min(lengths):,} to {max(lengths):,} tokens in a context of {size:,}",
        "Raise --max-tokens: more than half of it is prompt.",
    )
