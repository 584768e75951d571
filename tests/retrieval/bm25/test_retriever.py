"""BM25 against the formula in plain Python, against bm25s, and on disk."""

import copy
import json
import lzma
import math
import pickle
import shutil
import subprocess
import sys
import threading
from collections import Counter
from itertools import islice

import bm25s
import numpy as np
import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import ConfigurationError, DataFormatError, IndexFormatError
from search_env.retrieval import BM25Retriever, Retriever, digest, retrieve
from search_env.retrieval.bm25 import retriever as bm25
from search_env.types import Document

CORPUS = [
    Document("u", "Ulm", "Ulm is a city on the Danube. Ulm has a minster."),
    Document("p", "Paris", "Paris is the capital city of France."),
    Document("v", "Vienna", "Vienna is a city on the Danube and a capital."),
    Document("e", "", "the of and"),
]
WORDS = ["city", "cities", "danube", "river", "the", "capital", "Köln", "x", "minster", "1984"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
CORPORA = st.lists(st.tuples(TEXTS, TEXTS), max_size=25).map(
    lambda rows: [Document(str(i), title, text) for i, (title, text) in enumerate(rows)]
)


def tokens(text):
    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize([text], stemmer=stemmer, return_ids=False, show_progress=False)[0]


def lucene_bm25(corpus, query, k1=0.9, b=0.4):
    """The formula, document by document: positive scores, best first, ties in corpus order."""
    bags = [Counter(tokens(f"{document.title} {document.text}")) for document in corpus]
    lengths = [sum(bag.values()) for bag in bags]
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    scores = []
    for bag, length in zip(bags, lengths, strict=True):
        score = 0.0
        for term in tokens(query):  # a repeated word counts again
            if term in bag:
                df = sum(term in other for other in bags)
                idf = math.log(1 + (len(bags) - df + 0.5) / (df + 0.5))
                score += idf * bag[term] / (bag[term] + k1 * (1 - b + b * length / mean))
        scores.append(score)
    order = sorted(range(len(corpus)), key=lambda i: (-round(scores[i], 5), i))
    return [(corpus[i].id, scores[i]) for i in order if scores[i] > 0]


def top(retriever, query, k=5):
    return [(document.id, document.score) for document in retriever.search([query], k)[0]]


@given(CORPORA, TEXTS, st.integers(1, 30))
def test_equal_to_the_formula(corpus, query, k):
    got = top(BM25Retriever.build(corpus), query, k)
    expected = lucene_bm25(corpus, query)[:k]
    assert [name for name, _ in got] == [name for name, _ in expected]
    assert [score for _, score in got] == pytest.approx([score for _, score in expected], rel=1e-5)


@given(CORPORA.filter(bool), TEXTS, st.floats(0, 3), st.floats(0, 1))
def test_equal_to_bm25s(corpus, query, k1, b):
    texts = [f"{document.title} {document.text}" for document in corpus]
    scorer = bm25s.BM25(k1=k1, b=b)
    tokenized = bm25s.tokenize(texts, stemmer=Stemmer.Stemmer("english"), show_progress=False)
    in_vocabulary = [token for token in tokens(query) if token in tokenized.vocab]
    if not in_vocabulary:  # bm25s answers with arbitrary documents, or fails
        return
    scorer.index(tokenized, show_progress=False)
    _, scores = scorer.retrieve([in_vocabulary], k=len(corpus), show_progress=False)
    got = top(BM25Retriever.build(corpus, k1=k1, b=b), query, len(corpus))
    expected = [float(score) for score in scores[0] if score > 0]
    assert [score for _, score in got] == pytest.approx(expected, rel=1e-5)


def test_hand_computed_score():
    # "danub" is in 2 of 4 documents; lengths after stopwords: 7, 5, 5, 0, mean 4.25.
    (vienna, high), (ulm, low) = top(BM25Retriever.build(CORPUS), "Danube")
    idf = math.log(1 + 2.5 / 2.5)
    assert (vienna, ulm) == ("v", "u")
    assert high == pytest.approx(idf / (1 + 0.9 * (0.6 + 0.4 * 5 / 4.25)), rel=1e-6)
    assert low == pytest.approx(idf / (1 + 0.9 * (0.6 + 0.4 * 7 / 4.25)), rel=1e-6)


def test_repeated_words_count_again():
    retriever = BM25Retriever.build(CORPUS)
    once, twice = top(retriever, "Danube"), top(retriever, "danube DANUBE")
    assert [score for _, score in twice] == [2 * score for _, score in once]


def test_ties_go_to_the_first_document():
    retriever = BM25Retriever.build([Document(str(i), "Ulm", "a city") for i in range(50)])
    assert [name for name, _ in top(retriever, "city of Ulm", 3)] == ["0", "1", "2"]


@pytest.mark.parametrize("query", ["", "  ", "the of", "xylophone", "x"])
def test_a_query_without_indexed_words_returns_no_documents(query):
    assert BM25Retriever.build(CORPUS).search([query], 5) == [[]]


def test_only_documents_with_a_word_are_found_however_large_k():
    retriever = BM25Retriever.build(CORPUS)
    assert [name for name, _ in top(retriever, "minster", 100)] == ["u"]
    assert {name for name, _ in top(retriever, "city", 100)} == {"u", "p", "v"}


def test_documents_carry_content_and_positive_scores():
    for document in BM25Retriever.build(CORPUS).search(["capital city"], 5)[0]:
        assert document.score > 0
        original = next(item for item in CORPUS if item.id == document.id)
        assert (document.title, document.text) == (original.title, original.text)


def test_equal_queries_of_a_batch_get_separate_lists():
    retriever = BM25Retriever.build(CORPUS)
    first, none, again = retrieve(retriever, ["Danube", "", "Danube"], 2)
    assert (first, none) == (again, [])
    first.clear()
    assert len(again) == 2
    assert retriever.search([], 2) == []
    assert isinstance(retriever, Retriever)


@pytest.mark.parametrize("corpus", [[], CORPUS[3:]])
def test_a_corpus_without_words_can_be_built_saved_and_searched(tmp_path, corpus):
    BM25Retriever.build(corpus).save(tmp_path / "index")
    retriever = BM25Retriever.load(tmp_path / "index")
    assert len(retriever) == len(corpus)
    assert retriever.search(["city", ""], 3) == [[], []]
    assert list(retriever.documents()) == corpus


def test_arguments_are_checked():
    retriever = BM25Retriever.build(CORPUS)
    with pytest.raises(ConfigurationError, match="k to be an integer of at least 1, got 0"):
        retriever.search(["city"], 0)
    with pytest.raises(ConfigurationError, match=r"k to be an integer of at least 1, got 1\.5"):
        retriever.search(["city"], 1.5)
    with pytest.raises(ConfigurationError, match="list of query strings, got 'city'"):
        retriever.search("city", 1)
    with pytest.raises(ConfigurationError, match=r"query strings, got \[None\]"):
        retriever.search([None], 1)
    for bad in ({"k1": -1.0}, {"b": 1.5}, {"k1": math.nan}, {"b": math.nan}):
        with pytest.raises(ConfigurationError, match="Expected k1 >= 0 and 0 <= b <= 1"):
            BM25Retriever.build(CORPUS, **bad)
    with pytest.raises(DataFormatError, match="'u' at positions 0 and 4"):
        BM25Retriever.build([*CORPUS, CORPUS[0]])


def test_lookup_by_id_order_length_and_digest():
    retriever = BM25Retriever.build(iter(CORPUS))
    assert len(retriever) == 4
    assert retriever.document("v") == CORPUS[2]
    assert list(retriever.documents()) == CORPUS
    assert retriever.digest == digest(CORPUS)
    assert retriever.name == f"bm25(k1=0.9, b=0.4, corpus={digest(CORPUS)[:12]})"
    with pytest.raises(ConfigurationError, match="got 'zz'"):
        retriever.document("zz")


def test_progress_is_shown_on_request_after_a_delay(capsys, monkeypatch):
    BM25Retriever.build(CORPUS, progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(bm25, "_PROGRESS_DELAY", 0.0)
    BM25Retriever.build(CORPUS)
    assert capsys.readouterr() == ("", "")
    BM25Retriever.build(CORPUS, progress=True)
    out, error = capsys.readouterr()
    assert out == ""
    assert "Indexing passages" in error


def test_threads_get_the_same_answers():
    retriever = BM25Retriever.build(
        [Document(str(i), f"w{i % 7}", f"w{i % 11} w{i % 13}") for i in range(500)]
    )
    queries = [f"w{i % 13} w{i % 7}" for i in range(200)]
    expected = retriever.search(queries, 5)
    answers = {}

    def work(name):
        answers[name] = [retriever.search([query], 5)[0] for query in queries]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[i] for i in range(4)] == [expected] * 4


# On disk


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "index"
    BM25Retriever.build(CORPUS, k1=1.2, b=0.75).save(path)
    return path


@given(CORPORA, st.lists(TEXTS, max_size=3))
def test_a_loaded_index_answers_like_the_built_one(tmp_path_factory, corpus, queries):
    path = tmp_path_factory.mktemp("bm25") / "index"
    built = BM25Retriever.build(corpus)
    built.save(path)
    loaded = BM25Retriever.load(path)
    assert loaded.search(queries, 7) == built.search(queries, 7)
    assert (loaded.name, len(loaded)) == (built.name, len(built))
    assert digest(loaded.documents()) == loaded.digest


def test_any_text_survives(tmp_path):
    odd = [Document("\ud800", "a\nb\0", "🙂 Straße\u2028"), Document("", "", "")]
    BM25Retriever.build(odd).save(tmp_path / "index")
    assert list(BM25Retriever.load(tmp_path / "index").documents()) == odd


def test_a_loaded_index_is_mapped_and_read_only(saved):
    postings = BM25Retriever.load(saved)._postings
    assert isinstance(postings.impacts.base, np.memmap)
    assert not postings.impacts.flags.writeable


def test_the_manifest_describes_the_index(saved):
    manifest = json.loads((saved / "format.json").read_text())
    assert manifest["version"] == 1
    assert manifest["digest"] == digest(CORPUS)
    assert manifest["counts"]["passages"] == 4
    assert manifest["packages"].keys() == {"search-env", "bm25s", "PyStemmer", "numpy"}
    assert (manifest["parameters"]["k1"], manifest["parameters"]["b"]) == (1.2, 0.75)
    assert {path.name for path in saved.iterdir()} == {"format.json", *manifest["files"]}


def test_an_old_index_is_replaced_and_open_readers_keep_theirs(saved):
    before = BM25Retriever.load(saved)
    BM25Retriever.build(CORPUS[:2]).save(saved)
    assert len(BM25Retriever.load(saved)) == 2
    assert top(before, "Vienna")[0][0] == "v"
    assert [path.name for path in saved.parent.iterdir()] == ["index"]


def test_an_index_can_be_saved_over_itself(saved):
    retriever = BM25Retriever.load(saved)
    retriever.save(saved)
    assert BM25Retriever.load(saved).search(["city"], 3) == retriever.search(["city"], 3)


def test_other_folders_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    retriever = BM25Retriever.build(CORPUS)
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ConfigurationError, match="Expected a new path"):
            retriever.save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    retriever.save(tmp_path / "empty")
    assert len(BM25Retriever.load(tmp_path / "empty")) == 4


def test_an_interrupted_save_leaves_the_old_index(saved, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        BM25Retriever.build(CORPUS[:1]).save(saved)
    assert len(BM25Retriever.load(saved)) == 4
    assert [path.name for path in saved.parent.iterdir()] == ["index"]


def edit_manifest(path, **changes):
    """Change the manifest of an index as an earlier version wrote it: without checksums."""
    file = path / "format.json"
    content = json.loads(file.read_text()) | changes
    for name in ("checksum", "checksums"):
        content.pop(name, None)
    file.write_text(json.dumps(content))


def sizes(path):
    return {file.name: file.stat().st_size for file in path.glob("*.npy")}


def truncate(path, name="postings.impacts.npy"):
    file = path / name
    file.write_bytes(file.read_bytes()[:-1])


def garbage(path):
    file = path / "postings.starts.npy"
    file.write_bytes(b"\0" * file.stat().st_size)


def other_dtype(path):
    array = np.load(path / "postings.impacts.npy")
    np.save(path / "postings.impacts.npy", array.view(np.int32))


def pickled(path):
    array = np.array([{"code": "run me"}], dtype=object)
    np.save(path / "postings.starts.npy", array, allow_pickle=True)
    edit_manifest(path, files=sizes(path))


def mixed(path):
    other = path.parent / "other"
    BM25Retriever.build([*CORPUS[:2], Document("x", "Oslo", "Oslo fjord")]).save(other)
    for name in ("postings.starts.npy", "vocabulary.offsets.npy"):
        shutil.copy(other / name, path / name)
    edit_manifest(path, files=sizes(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no format.json"),
        (lambda path: (path / "format.json").unlink(), "no format.json"),
        (lambda path: (path / "format.json").write_text("{"), "unreadable format.json"),
        (lambda path: (path / "format.json").write_bytes(b"\xff"), "unreadable format.json"),
        (lambda path: (path / "format.json").write_text("[]"), "something else"),
        (lambda path: edit_manifest(path, format="numbers"), "something else"),
        (lambda path: edit_manifest(path, version=2), "format version 2"),
        (lambda path: edit_manifest(path, files=None), "without a list of files"),
        (lambda path: edit_manifest(path, parameters={}), "bad 'k1'"),
        (lambda path: edit_manifest(path, parameters=[]), "with a bad"),
        (lambda path: (path / "passages.blob.npy").unlink(), "no such file for passages.blob"),
        (truncate, "bytes for postings.impacts.npy"),
        (garbage, "unreadable postings.starts.npy"),
        (other_dtype, r"int32 \(\d+,\) in postings.impacts.npy"),
        (pickled, "unreadable postings.starts.npy"),
        (mixed, "vocabulary.offsets.npy that does not fit"),
    ],
)
def test_a_damaged_index_is_rejected_with_a_remedy(saved, damage, message):
    damage(saved)
    with pytest.raises(IndexFormatError, match=message) as caught:
        BM25Retriever.load(saved)
    assert "search-env index" in str(caught.value)
    assert str(saved) in str(caught.value)


def test_postings_of_another_index_are_rejected(saved, tmp_path):
    BM25Retriever.build(CORPUS[:2]).save(tmp_path / "other")
    for file in (tmp_path / "other").glob("postings.*"):
        shutil.copy(file, saved / file.name)
    edit_manifest(saved, files=sizes(saved))
    with pytest.raises(IndexFormatError, match="lengths disagree"):
        BM25Retriever.load(saved)


# Pickling and copying


def test_a_saved_index_is_pickled_as_its_path(saved):
    built = BM25Retriever.build(CORPUS)
    built.save(saved)
    for retriever in (built, BM25Retriever.load(saved)):
        content = pickle.dumps(retriever)
        assert len(content) < 500
        for copied in (pickle.loads(content), copy.deepcopy(retriever)):
            assert copied.search(["Danube"], 3) == retriever.search(["Danube"], 3)


def test_a_replaced_index_is_noticed_when_unpickling(saved):
    content = pickle.dumps(BM25Retriever.load(saved))
    BM25Retriever.build(CORPUS[:2]).save(saved)
    with pytest.raises(IndexFormatError, match="was replaced after"):
        pickle.loads(content)


def test_an_unsaved_index_is_pickled_as_its_arrays():
    retriever = BM25Retriever.build(CORPUS, k1=1.2)
    for copied in (pickle.loads(pickle.dumps(retriever)), copy.deepcopy(retriever)):
        assert copied.search(["Danube city"], 3) == retriever.search(["Danube city"], 3)
        assert copied.name == retriever.name


# Real passages


def test_real_passages_against_bm25s(data_dir):
    with lzma.open(data_dir / "passages.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 8_000)]
    with lzma.open(data_dir / "questions.jsonl.xz", "rt", encoding="utf-8") as lines:
        queries = [json.loads(line)["question"] for line in islice(lines, 150)]
    retriever = BM25Retriever.build(Document(r["id"], r["title"], r["text"]) for r in rows)
    texts = [f"{row['title']} {row['text']}" for row in rows]
    stemmer = Stemmer.Stemmer("english")
    scorer = bm25s.BM25(k1=0.9, b=0.4)
    scorer.index(bm25s.tokenize(texts, stemmer=stemmer, show_progress=False), show_progress=False)
    tokenized = bm25s.tokenize(queries, stemmer=stemmer, show_progress=False)
    _, expected = scorer.retrieve(tokenized, k=10, show_progress=False)
    got = [[document.score for document in answer] for answer in retriever.search(queries, 10)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_opening_an_index_needs_no_bm25s(saved):
    program = f"""
import sys
import search_env.retrieval
assert "Stemmer" not in sys.modules
found = search_env.retrieval.BM25Retriever.load({str(saved)!r}).search(["Danube"], 1)
assert "bm25s" not in sys.modules
print(found[0][0].id)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "v\n"
