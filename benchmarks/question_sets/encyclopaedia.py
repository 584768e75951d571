"""The procedural world at one to four hops: questions of the test world, invented articles."""

from __future__ import annotations

from benchmarks.harness.spec import BenchmarkProtocol

QUESTIONS = 500
CORPUS, RULES = "2cf769d2aa78", "7b046ae1a97e"
_DIGESTS = {1: "d3a8a47a6176", 2: "637a4ab4c853", 3: "07fc1623ee49", 4: "021cba1636ef"}
_NOTE = "Names are invented: closed-book scores are guesses, mostly at numbers, yes and no."


def _protocol(hops: int) -> BenchmarkProtocol:
    return BenchmarkProtocol(
        question_set=f"world-{hops}hop",
        system="r1-searcher",
        retrieval="bm25-world1k",
        env_id="SearchQA-v0",
        arguments={
            "protocol": "r1-searcher",
            "split": "test",
            "dataset_options": {"questions": QUESTIONS, "hops": [hops]},
            "max_policy_tokens": 384,
        },
        questions_digest=_DIGESTS[hops],
        corpus_digest=CORPUS,
        rules_digest=RULES,
        note=_NOTE,
    )


PROTOCOLS = tuple(map(_protocol, (1, 2, 3, 4)))
