"""The procedural world at one to four hops: questions of the test world, invented articles.

Articles are invented, so that nothing can be known without a search.
"""

from __future__ import annotations

from search_env.benchmarks.harness.spec import BenchmarkProtocol, QuestionSet

QUESTIONS = 500
_QUESTIONS_DIGESTS = {1: "d3a8a47a6176", 2: "637a4ab4c853", 3: "07fc1623ee49", 4: "021cba1636ef"}


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
        questions_digest=_QUESTIONS_DIGESTS[hops],
        corpus_digest="2cf769d2aa78",
        rules_digest="ddd29bd83a0f",
        note="Names are invented: closed-book scores are guesses, mostly at numbers, yes and no.",
    )


_PROTOCOLS = tuple(map(_protocol, (1, 2, 3, 4)))

SET = QuestionSet(
    "procedural_world",
    _PROTOCOLS,
    reported=tuple(protocol.id for protocol in _PROTOCOLS),
    groups={"kind": lambda record: record.kind},
)
