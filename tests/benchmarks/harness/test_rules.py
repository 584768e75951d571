"""Rules digests pin what rules do; golden episodes pin what the environment makes of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest

from search_env.benchmarks.harness.rules import FORMER_RULES_DIGESTS, rules_digest, rules_facts
from search_env.benchmarks.question_sets.registry import all_benchmarks
from search_env.envs.search_qa import SearchQAEnv
from search_env.protocols.protocol import Consequence, Protocol
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.r1_searcher_plus_plus import R1_SEARCHER_PLUS_PLUS
from search_env.protocols.search_r1 import SEARCH_R1
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Document, FaultKind, Searched, Source, TagRole, TagWritten, Transcript

DATA = Path(__file__).parent / "data"
PROTOCOLS = ("r1-searcher", "r1-searcher++", "search-r1", "toy")


@dataclass(frozen=True, kw_only=True)
class LaterProtocol(Protocol):
    """The protocol of a later release, with one more setting that is off."""

    max_images: int | None = None


def cleaned_elsewhere(query: str) -> str:
    """Do what R1-Searcher's cleaning does, under another name."""
    return " ".join("".join(query.split('"')).split())


def test_names_are_not_in_the_digest():
    base = rules_digest(R1_SEARCHER, 4096)
    values = {field.name: getattr(R1_SEARCHER, field.name) for field in fields(R1_SEARCHER)}
    tags = tuple(replace(pair, name=f"my_{pair.name}") for pair in R1_SEARCHER.tags)
    ignored = {FaultKind.NESTED_OPEN: Consequence.IGNORE}  # what leaving it out does
    for same in (
        LaterProtocol(**values),
        replace(R1_SEARCHER, clean_query=cleaned_elsewhere),
        replace(R1_SEARCHER, name="other", source="elsewhere"),
        replace(R1_SEARCHER, tags=tags),
        replace(R1_SEARCHER, faults={**R1_SEARCHER.faults, **ignored}),
    ):
        assert rules_digest(same, 4096) == base


def changes(protocol: Protocol) -> list[Protocol]:
    """Return protocols that each differ in one rule."""
    query, *others = sorted(protocol.tags, key=lambda pair: pair.role is not TagRole.TOOL)
    return [
        replace(protocol, **change)
        for change in (
            {"clean_query": str.lower},
            {"clean_query": str if protocol is SEARCH_R1 else str.strip},
            {"clean_question": str.title},
            {"clean_answer": str.lower},
            {"clean_answer": str},
            {"tags": (replace(query, open="<find>"), *others)},
            {"tags": (replace(query, tool="images"), *others)},
            {"tags": (*protocol.tags[1:], protocol.tags[0])},
            {"base_prompt": protocol.base_prompt + " "},
            {"chat_system": "Search."},
            {"chat_user": "Q: {question}"},
            {"chat_tail": "<think>\n"},
            {"documents_prefix": protocol.documents_prefix + "\n"},
            {"document_rank": "[{rank}] "},
            {"document_body": "{text} ({title})"},
            {"documents_suffix": protocol.documents_suffix + "\n"},
            {"no_documents": "Nothing.\n"},
            {"notice": "Try again."},
            {"faults": {}},
            {"faults": {**protocol.faults, FaultKind.NESTED_OPEN: Consequence.END}},
            {"first_opening": not protocol.first_opening},
            {"top_k": 4},
            {"max_policy_tokens": 77},
            {"max_segment_tokens": 77},
            {"max_documents_tokens": 177},
            {"max_searches": 7},
            {"max_turns": 7},
        )
    ]


@pytest.mark.parametrize(
    "protocol", [R1_SEARCHER, R1_SEARCHER_PLUS_PLUS, SEARCH_R1], ids=lambda p: p.name
)
def test_every_rule_is_in_the_digest(protocol):
    changed = changes(protocol)
    digests = {rules_digest(other, 4096) for other in (protocol, *changed)}
    digests.add(rules_digest(protocol, 4095))
    assert len(digests) == len(changed) + 2


def test_a_bracket_is_in_the_digest():
    tags = tuple(replace(pair, bracket="") for pair in R1_SEARCHER_PLUS_PLUS.tags)
    plain = replace(R1_SEARCHER_PLUS_PLUS, tags=tags)
    assert rules_digest(plain, 4096) != rules_digest(R1_SEARCHER_PLUS_PLUS, 4096)


def test_scoring_is_in_the_digest(monkeypatch):
    base = rules_digest(R1_SEARCHER, 4096)
    monkeypatch.setattr("search_env.benchmarks.harness.rules.score_answer", lambda *_: (0.0,))
    assert rules_digest(R1_SEARCHER, 4096) != base


def test_facts_are_json_with_names_of_their_own():
    facts = rules_facts(SEARCH_R1, 4096)
    assert facts[0] == ("version", 1)
    assert len(dict(facts)) == len(facts)
    assert dict(facts)["faults"] == [
        ["empty_query", "notice"],
        ["no_action", "notice"],
        ["unopened_close", "notice"],
    ]
    json.dumps(facts, allow_nan=False)


def test_former_digests_lead_to_the_pins_of_today():
    pins = {protocol.rules_digest for protocol in all_benchmarks().values()}
    assert {digest[:12] for digest in FORMER_RULES_DIGESTS.values()} == pins
    assert not pins & {digest[:12] for digest in FORMER_RULES_DIGESTS}


class FixedRetriever:
    """Finds documents that depend on the query alone."""

    def search(self, queries, k):
        return [self._documents(query)[:k] for query in queries]

    @staticmethod
    def _documents(query):
        if "nothing" in query:
            return []
        long = "The quick brown fox met \u6771\u4eac. " * (40 if "long" in query else 1)
        return [
            Document("d1", "Zo\u00eb", f"Found for [{query}]. {long}".strip()),
            Document("d2", "", "Untitled </search> <answer> tags </answer> in a document."),
        ]


def played(env: SearchQAEnv, script: str) -> Transcript:
    """Play a script, one byte a step, until it or the episode ends."""
    env.reset(seed=0)
    for token in env.tokenizer.encode(script, special=True):
        _, _, terminated, truncated, _ = env.step(int(token))
        if terminated or truncated:
            break
    return env.transcript()


def as_text(transcript: Transcript, tokenizer: Tokenizer) -> list[list[str]]:
    """Return who wrote what: runs of one source with their text."""
    starts = np.flatnonzero(np.diff(transcript.sources, prepend=-1))
    return [
        [Source(sources[0]).name, tokenizer.decode(tokens)]
        for sources, tokens in zip(
            np.split(transcript.sources, starts[1:]),
            np.split(transcript.tokens, starts[1:]),
            strict=True,
        )
    ]


def events_of(transcript: Transcript) -> list[dict]:
    """Return the events as JSON values, of documents the ids."""
    rows = []
    for event in transcript.events:
        row = {"event": type(event).__name__, **asdict(event)}
        if isinstance(event, TagWritten):
            row["tag"] = str(event.tag)
        if isinstance(event, Searched):
            del row["documents"]
            row["document_ids"] = event.document_ids
        rows.append(row)
    return json.loads(json.dumps(rows))


def golden(protocol: str) -> dict:
    return json.loads((DATA / f"golden_{protocol}.json").read_text("utf-8"))


GOLDEN = [(name, episode) for name in PROTOCOLS for episode in golden(name)["episodes"]]


@pytest.mark.parametrize(
    ("protocol", "episode"), GOLDEN, ids=[f"{name}: {e['name']}" for name, e in GOLDEN]
)
def test_golden_episodes(tmp_path, protocol, episode):
    """A difference is a change of rules: the ids of that protocol need their next version."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(golden(protocol)["question"]) + "\n", "utf-8")
    env = SearchQAEnv(
        dataset=str(questions),
        protocol=protocol,
        tokenizer="byte",
        retriever=FixedRetriever(),
        **episode["arguments"],
    )
    transcript = played(env, episode["script"])
    assert as_text(transcript, env.tokenizer) == episode["text"]
    runs = [
        (Source[source], env.tokenizer.encode(text, special=source == "POLICY"))
        for source, text in episode["text"]
    ]
    np.testing.assert_array_equal(transcript.tokens, np.concatenate([ids for _, ids in runs]))
    sources = np.concatenate([np.full(len(ids), source) for source, ids in runs])
    np.testing.assert_array_equal(transcript.sources, sources)
    assert events_of(transcript) == episode["events"]
    ended = transcript.events[-1]
    assert (ended.reason.value, ended.reason.terminated) == tuple(episode["ending"])


def test_golden_episodes_cover_the_rules():
    kinds = {e["kind"] for _, episode in GOLDEN for e in episode["events"] if "kind" in e}
    assert kinds == {kind.value for kind in FaultKind}
    sources = {source for _, episode in GOLDEN for source, _ in episode["text"]}
    assert sources == {source.name for source in Source} - {"PADDING"}
    endings = {episode["ending"][0] for _, episode in GOLDEN}
    assert {
        *("answered", "format_fault", "end_of_sequence", "max_tokens", "max_policy_tokens"),
        *("max_segment_tokens", "max_searches", "max_turns"),
    } == endings
