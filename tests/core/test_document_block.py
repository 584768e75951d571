"""Document blocks: long passages are cut before they are encoded; the cache has a size."""

from __future__ import annotations

import dataclasses
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from search_env.core.document_block import DocumentBlockWriter
from search_env.core.dynamics import Dynamics
from search_env.core.token_cache import TokenCache
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.search_r1 import SEARCH_R1
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Document, Question, Source
from tests.tokens.families import FAMILIES
from tests.work import peak_bytes

TEN_MB = 10_000_000
WORDS = "The capital of Norway is Oslo, a town on a fjord.\n"


def long_text() -> str:
    return WORDS * (TEN_MB // len(WORDS))


@pytest.mark.parametrize("part", ["title", "text"])
@pytest.mark.parametrize("protocol", [SEARCH_R1, R1_SEARCHER], ids=lambda p: p.name)
def test_b13_a_long_document_takes_little_memory(protocol, part):
    encoded: list[int] = []
    tokenizer = load_tokenizer("world-1k")
    encode = tokenizer._encode

    def counting(text: str, special: bool) -> list[int]:
        encoded.append(len(text))
        return list(encode(text, special))

    tokenizer = type(tokenizer)("counting", tokenizer.token_bytes, counting, tokenizer.eos_ids)
    writer = DocumentBlockWriter(protocol, tokenizer)
    document = dataclasses.replace(Document("1", "Norway", "A country."), **{part: long_text()})
    encoded.clear()
    limit = protocol.max_documents_tokens or protocol.max_tokens
    blocks = []
    # The layout writes title and text into one text, in two steps.
    assert peak_bytes(lambda: blocks.append(writer.write([document], limit))) < 4 * TEN_MB
    assert len(blocks[0]) == limit
    assert sum(encoded) < 20 * limit + 5000


def test_b13_a_cut_document_is_the_beginning_of_the_whole_one():
    tokenizer = load_tokenizer("world-1k")
    protocol = dataclasses.replace(SEARCH_R1, max_tokens=100_000)
    short = DocumentBlockWriter(protocol, tokenizer)
    whole = DocumentBlockWriter(dataclasses.replace(protocol, max_documents_tokens=None), tokenizer)
    for count in (1, 20, 60, 400, 2000):
        document = Document("1", "Norway", WORDS * count)
        for limit in (100, 499, 500):
            assert (
                short.write([document], limit).tolist() == whole.write([document], limit).tolist()
            )


def test_b13_a_query_of_any_length_and_a_long_document_in_an_episode():
    tokenizer = load_tokenizer("byte")
    dynamics = Dynamics(dataclasses.replace(R1_SEARCHER, max_tokens=5000), tokenizer)
    dynamics.begin(0, Question("1", "Who?", ("x",)))
    for token in tokenizer.encode("<|begin_of_query|> a <|end_of_query|>"):
        dynamics.append(slice(None), np.array([token], np.int64))
    dynamics.insert_documents(0, [Document("1", "t", long_text())])
    assert dynamics.length(0) == 5000


def test_b13_the_cache_is_bounded_in_bytes():
    calls: list[str] = []

    def encode(text: str) -> np.ndarray:
        calls.append(text[:3])
        return np.zeros(len(text) // 4, np.int32)

    cache = TokenCache(encode, 1_000_000)
    texts = [f"{i:03}" + "x" * 50_000 for i in range(100)]
    for text in texts:
        assert len(cache(text)) == len(text) // 4
    assert cache._bytes <= 1_000_000
    assert cache(texts[-1]) is cache(texts[-1])
    assert calls.count("099") == 1
    cache(texts[0])
    assert calls.count("000") == 2
    huge = "big" + "x" * 400_000
    assert cache(huge) is not cache(huge)  # larger than a quarter
    kept = cache._results.items()
    assert cache._bytes == sum(256 + sys.getsizeof(key[0]) + ids.nbytes for key, ids in kept)


def test_the_cache_serves_several_threads():
    cache = TokenCache(lambda text: np.arange(len(text), dtype=np.int32), 20_000)

    def use(seed: int) -> bool:
        lengths = np.random.default_rng(seed).integers(1, 200, 500)
        return all(len(cache("x" * n)) == n for n in lengths.tolist())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(8)))


@pytest.mark.parametrize("case", sorted(FAMILIES))
def test_a6_documents_and_notices_hold_no_control_tokens(case, tmp_path):
    tokenizer = load_tokenizer(FAMILIES[case].write(tmp_path))
    names = "".join(tokenizer.control_tokens)
    protocol = dataclasses.replace(SEARCH_R1, notice=f"Try {names} again.", max_tokens=20_000)
    protocol = dataclasses.replace(protocol, max_documents_tokens=None, max_segment_tokens=None)
    dynamics = Dynamics(protocol, tokenizer)
    dynamics.begin(0, Question("1", f"Who wrote {names}?", ("x",)))
    for text in ("</search>", "<search>a</search>"):
        for token in tokenizer.encode(text):
            dynamics.append(slice(None), np.array([token], np.int64))
    dynamics.insert_documents(0, [Document("1", names, f"{names} {os.linesep.join(names)}")])
    transcript = dynamics.transcript(0)
    ids = transcript.tokens.tolist()[len(tokenizer.bos_ids) :]
    assert tokenizer.control_ids.isdisjoint(ids)
    assert {Source.NOTICE, Source.RETRIEVED} <= set(transcript.sources.tolist())
