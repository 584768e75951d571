"""Sparse, dense and hybrid retrieval side by side: what they find, how fast, with how much memory.

    search-env embed $SEARCH_ENV_DATA/passages.jsonl.xz vectors --model all-MiniLM-L6-v2
    python -m search_env.benchmarks.studies.dense_retrieval --vectors vectors --work indexes \
        --output benchmarks/results/dense_retrieval.md

The raw question is the query. Method and weights of the weighted hybrid are chosen on the train
questions; the tables are of dev questions. Each retriever's speed and memory are measured in a
process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.datasets.detect import read_documents
from search_env.envs.loading import load_questions
from search_env.metrics.statistics import bootstrap_mean, compare_paired
from search_env.retrieval.base import Retriever
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.dense.build import KINDS, build_dense_index
from search_env.retrieval.dense.embeddings import Embeddings
from search_env.retrieval.dense.encoder import Encoder
from search_env.retrieval.hybrid import DEPTH, HybridRetriever
from search_env.retrieval.registry import CorpusChoice, get_retriever
from search_env.types import Document, Question

DATASETS = ("musique", "hotpotqa", "2wikimultihopqa")
WEIGHTS = tuple(round(0.1 * i, 1) for i in range(11))
"""Of the dense scores; those of BM25 have the rest."""
K, BATCH = 5, 64

_SINGLE, _BATCHES, _WARM = 200, 4, 20  # queries one by one, batches, queries before both
_SAMPLE = 256  # passages that the time of embedding is extrapolated from

Found = Mapping[str, Sequence[float]]  # support recall of each question, by dataset


class Cost(NamedTuple):
    """What a retriever takes in a process of its own: seconds, milliseconds, megabytes.

    CPU times hold better on a busy machine than times by the clock.
    """

    opening: float
    median: float
    p99: float
    cpu: float
    batch: float
    batch_cpu: float
    private: float
    mapped: float


class Remembered:
    """The ids and scores that a retriever has for some queries, without texts: to fuse often."""

    def __init__(self, inner: Retriever, texts: Sequence[str]) -> None:
        texts = list(dict.fromkeys(texts))
        self._found: dict[str, list[Document]] = {}
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            for text, documents in zip(batch, inner.search(batch, DEPTH), strict=True):
                self._found[text] = [Document(d.id, "", "", d.score) for d in documents]

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return what the retriever found."""
        return [self._found[query][:k] for query in queries]


def support_recall(question: Question, documents: Sequence[Document]) -> float:
    """Return the share of a question's supporting passages among documents."""
    return len({d.id for d in documents} & set(question.supporting)) / len(question.supporting)


def recall_of(retriever: Retriever, questions: Mapping[str, Sequence[Question]]) -> Found:
    """Return the support recall at :data:`K` of every question, by dataset."""
    recalls = {}
    for dataset, rows in questions.items():
        results = retriever.search([question.text for question in rows], K)
        pairs = zip(rows, results, strict=True)
        recalls[dataset] = [support_recall(question, found[:K]) for question, found in pairs]
    return recalls


def macro(recalls: Found) -> float:
    """Return the mean over datasets of their means."""
    return float(np.mean([np.mean(values) for values in recalls.values()]))


def questions_of(split: str, known: set[str]) -> dict[str, list[Question]]:
    """Return the questions of a split whose supporting passages are all in the corpus."""
    return {
        dataset: [
            question
            for question in load_questions(dataset, split, None)
            if question.supporting and known >= set(question.supporting)
        ]
        for dataset in DATASETS
    }


def best_weights(
    sparse: Retriever, dense: Retriever, questions: Mapping[str, Sequence[Question]]
) -> tuple[str, float, dict[str, list[float]]]:
    """Return method and dense weight with the best macro recall, and the recall of all weights."""
    curves = {
        method: [
            macro(recall_of(_weighted(sparse, dense, method, weight), questions))
            for weight in WEIGHTS
        ]
        for method in ("minmax", "zscore")
    }
    method = max(curves, key=lambda name: max(curves[name]))
    return method, WEIGHTS[int(np.argmax(curves[method]))], curves


def _weighted(sparse: Retriever, dense: Retriever, method: str, weight: float) -> Retriever:
    weights = [round(1 - weight, 1), weight]
    return HybridRetriever([sparse, dense], method=method, weights=weights)


def _memory() -> tuple[float, float]:
    """Return the private and the file-mapped memory of this process, in MB (Linux)."""
    status = Path("/proc/self/status").read_text("ascii")
    kilobytes = {
        line.split(":")[0]: line.split()[1] for line in status.splitlines() if "Rss" in line
    }
    return int(kilobytes["RssAnon"]) / 1e3, int(kilobytes["RssFile"]) / 1e3


def cost_of(name: str, corpus: str, texts: Sequence[str]) -> Cost:
    """Open a retriever, search for different texts one by one and in batches; see :class:`Cost`."""
    start = time.perf_counter()
    retriever = get_retriever(name, CorpusChoice("musique", corpus=corpus))
    retriever.search(texts[:1], K)
    opening = time.perf_counter() - start
    rest = iter(texts[1:])
    for _ in range(_WARM):
        retriever.search([next(rest)], K)
    clock, cpu = [time.perf_counter()], [time.process_time()]
    for _ in range(_SINGLE):
        retriever.search([next(rest)], K)
        clock.append(time.perf_counter())
    cpu.append(time.process_time())
    batches = [clock[-1]]
    for _ in range(_BATCHES):
        retriever.search([next(rest) for _ in range(BATCH)], K)
        batches.append(time.perf_counter())
    cpu.append(time.process_time())
    median, p99 = (1e3 * float(np.quantile(np.diff(clock), share)) for share in (0.5, 0.99))
    one, many = 1e3 * (cpu[1] - cpu[0]) / _SINGLE, 1e3 * (cpu[2] - cpu[1]) / (_BATCHES * BATCH)
    batch = 1e3 * float(np.median(np.diff(batches))) / BATCH
    return Cost(opening, median, p99, one, batch, many, *_memory())


def costs(names: Mapping[str, str], corpus: str, texts: Sequence[str]) -> str:
    """Return the table of speed and memory, one process after another."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for label, name in names.items():
        with context.Pool(1) as pool:
            cost = pool.apply(cost_of, (name, corpus, texts))
        times = (cost.median, cost.p99, cost.cpu, cost.batch, cost.batch_cpu)
        sizes = [f"{cost.private:,.0f}", f"{cost.mapped:,.0f}"]
        rows.append([label, f"{cost.opening:.2f}", *(f"{value:.2f}" for value in times), *sizes])
    columns = ["retriever", "opening and first answer, s", "one by one: p50 ms", "p99 ms"]
    columns += ["CPU ms", f"a query in batches of {BATCH}: ms", "CPU ms", "private MB", "mapped MB"]
    return table(columns, rows)


def build_all(vectors: Embeddings, documents: Sequence[Document], work: Path) -> str:
    """Build every index; return the table of time, size and recall against exact search."""
    rows = []
    start = time.perf_counter()
    BM25Retriever.build(documents).save(work / "bm25")
    rows.append(["BM25", f"{time.perf_counter() - start:.1f}", _megabytes(work / "bm25"), "", ""])
    train = [
        q.text for rows in questions_of("train", {d.id for d in documents}).values() for q in rows
    ]
    queries = Encoder(vectors.card.model, vectors.card.encoder).encode_queries(train[::3])
    for kind in KINDS:
        start = time.perf_counter()
        measured = build_dense_index(documents, vectors, work / kind, kind=kind, queries=queries)
        seconds = time.perf_counter() - start
        tried = ", ".join(f"{name} {value:.3f}" for name, value in measured["measured"].items())
        size = _megabytes(work / kind)
        rows.append([kind, f"{seconds:.1f}", size, f"{measured['recall']:.3f}", tried])
    columns = ["index", "built in, s", "MB on disk, texts included", "recall@10", "measured"]
    return table(columns, rows)


def _megabytes(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:,.0f}"


def embedding_time(vectors: Embeddings, documents: Sequence[Document]) -> str:
    """Return a sentence on how long all passages take, from an evenly spread sample."""
    card = vectors.card
    encoder = Encoder(card.model, card.encoder, dtype=card.computed)
    sample = documents[:: max(1, len(documents) // _SAMPLE)]
    start = time.process_time()
    encoder.encode_passages(sample)
    speed = len(sample) / (time.process_time() - start)
    return (
        f"The passages were embedded by `search-env embed ... --dtype {card.computed} --stored "
        f"{card.stored}`. A sample of "
        f"{len(sample)} took a CPU second for each {speed:.0f}: all {len(documents):,} take about "
        f"{len(documents) / speed / 60:.0f} CPU minutes."
    )


def recall_table(recalls: Mapping[str, Found]) -> str:
    """Return the table of support recall with bootstrap intervals over questions."""
    rows = []
    for label, found in recalls.items():
        intervals = [bootstrap_mean(values) for values in found.values()]
        cells = [f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in intervals]
        rows.append([label, *cells, f"{macro(found):.3f}"])
    counts = [f"{name} ({len(values):,})" for name, values in next(iter(recalls.values())).items()]
    return table(["retriever", *counts, "mean"], rows)


def comparisons(
    recalls: Mapping[str, Found], hybrids: Sequence[str], singles: Sequence[str]
) -> str:
    """Return the table of each hybrid's gain over single retrievers, question by question."""
    rows = []
    for label, single in product(hybrids, singles):
        cells = []
        for dataset, values in recalls[label].items():
            result = compare_paired(values, recalls[single][dataset])
            gain = result.difference
            cells.append(
                f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], p {result.p_value:.2g}"
            )
        rows.append([f"{label} over {single}", *cells])
    return table(["gain", *recalls[hybrids[0]]], rows)


def _corpus(vectors: Embeddings) -> tuple[list[Document], str]:
    """Return the passages that vectors are there for, and a note where those are not all."""
    documents = list(read_documents(vectors.card.corpus))
    complete = len(vectors.blocks) * vectors.card.block
    if complete >= len(documents):
        return documents, ""
    return documents[:complete], (
        f"**Only the first {complete:,} of {len(documents):,} passages are embedded**, and these "
        "are the corpus here, with the questions whose supporting passages are all among them: "
        "an easier task than the whole.\n\n"
    )


def page(args: argparse.Namespace) -> str:
    """Build, choose on train, measure on dev; return the tables."""
    import torch

    torch.set_num_threads(args.threads)
    vectors, work = Embeddings(args.vectors), args.work.absolute()
    documents, note = _corpus(vectors)
    built = build_all(vectors, documents, work)
    known = {document.id for document in documents}
    train, dev = questions_of("train", known), questions_of("dev", known)
    train, dev = ({d: rows for d, rows in part.items() if rows} for part in (train, dev))
    names: dict[str, str] = {"BM25": "bm25"}
    names |= {f"dense, {kind}": f"faiss:{work / kind}" for kind in KINDS}
    choice = CorpusChoice("musique", corpus=str(work / "bm25"))
    texts = [question.text for rows in (*dev.values(), *train.values()) for question in rows]
    parts: dict[str, Retriever] = {
        label: Remembered(get_retriever(name, choice), texts) for label, name in names.items()
    }
    sparse, dense = parts["BM25"], parts["dense, flat"]
    method, weight, curves = best_weights(sparse, dense, train)
    rest, flat = f"{1 - weight:.1f}", names["dense, flat"]
    hybrids = {
        "hybrid, RRF": f"hybrid:bm25+{flat}",
        f"hybrid, {method} {rest}/{weight}": f"hybrid-{method}:{rest}*bm25+{weight}*{flat}",
    }
    parts["hybrid, RRF"] = HybridRetriever([sparse, dense])
    parts[list(hybrids)[1]] = _weighted(sparse, dense, method, weight)
    names |= hybrids
    if args.rerank:
        names["hybrid, RRF, reranked"] = f"rerank:{args.rerank}:{hybrids['hybrid, RRF']}"
        parts["hybrid, RRF, reranked"] = get_retriever(names["hybrid, RRF, reranked"], choice)
    recalls = {label: recall_of(retriever, dev) for label, retriever in parts.items()}
    added, singles = [label for label in names if "hybrid" in label], ("BM25", "dense, flat")
    tuning = table(
        ["dense weight", *(f"{w:g}" for w in WEIGHTS)],
        [[name, *(f"{value:.3f}" for value in values)] for name, values in curves.items()],
    )
    needed = 1 + _WARM + _SINGLE + _BATCHES * BATCH
    texts = list(dict.fromkeys(texts))[:: max(1, len(texts) // needed)]
    return (
        f"{note}{len(documents):,} passages, encoder {Path(vectors.card.model).name} "
        f"({vectors.card.encoder.pooling} pooling, {vectors.card.dimension} dimensions), queries "
        f"in fp32. The query is the question. {embedding_time(vectors, documents)}\n\n"
        f"## Support recall at {K}, dev questions\n\nWith 95 % bootstrap intervals over questions."
        f"\n\n{recall_table(recalls)}\n\n"
        f"Paired by question, with an exact sign test:\n\n"
        f"{comparisons(recalls, added, singles)}\n\n"
        f"## Chosen on train\n\nMacro mean of support recall at {K} on the train questions "
        f"({', '.join(f'{d} {len(rows):,}' for d, rows in train.items())}):\n\n{tuning}\n\n"
        f"## Speed and memory\n\nA process each; different queries throughout, so that none is "
        f"remembered; {args.threads} thread(s). Memory after the searches, torch and other "
        f"libraries included.\n\n{costs(names, str(work / 'bm25'), texts)}\n\n"
        f"## Indexes\n\nRecall@10 against exact search for train questions.\n\n{built}\n"
    )


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--vectors", type=Path, required=True, help="of search-env embed")
    options.add_argument("--work", type=Path, required=True, help="folder for the indexes")
    options.add_argument("--rerank", help="folder of a cross-encoder")
    options.add_argument("--threads", type=int, default=1)
    packages = ["numpy", "bm25s", "faiss-cpu", "torch", "transformers"]
    measure(options, "Sparse, dense and hybrid retrieval", packages, page)
