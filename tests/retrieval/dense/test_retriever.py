"""Dense indexes of every kind: built, measured, opened, searched, damaged, replaced."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import faiss
import gymnasium as gym
import numpy as np
import pytest

from search_env.errors import (
    ConfigurationError,
    DataFormatError,
    DataNotFoundError,
    IndexFormatError,
)
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.dense import retriever as module
from search_env.retrieval.dense.build import (
    KINDS,
    TARGET,
    adopt_faiss_file,
    build_dense_index,
    factory_of,
)
from search_env.retrieval.dense.card import EncoderCard
from search_env.retrieval.dense.embeddings import Embeddings, embed
from search_env.retrieval.dense.encoder import Encoder
from search_env.retrieval.dense.retriever import DenseRetriever
from search_env.retrieval.digests import digest
from search_env.retrieval.registry import CorpusChoice, get_retriever
from search_env.testing.retrievers import check_retriever
from tests.retrieval.dense.conftest import save_encoder

QUERIES = ["who wrote hamlet ?", "capital of france", "the river nile", "ulm", "town at the sea"]


@pytest.fixture(scope="session")
def built(embeddings, corpus, tmp_path_factory):
    """The folder of each kind of index, by its name."""
    folder = tmp_path_factory.mktemp("indexes")
    for kind in KINDS:
        build_dense_index(corpus, embeddings, folder / kind, kind=kind)
    return folder


@pytest.fixture
def index(built, tmp_path):
    """A flat index that a test may damage."""
    return shutil.copytree(built / "flat", tmp_path / "index")


def expected(encoder, corpus, query, k):
    scores = encoder.encode_passages(corpus) @ encoder.encode_queries([query])[0]
    return np.argsort(-scores, kind="stable")[:k], np.sort(-scores)[:k] * -1


@pytest.mark.parametrize("kind", ["flat", "hnsw", "rabitq"])
def test_documents_are_those_of_brute_force(built, encoder, corpus, kind):
    # 100 candidates of 300 vectors, on two lists: only RaBitQ's candidates might miss one.
    retriever = DenseRetriever.load(built / kind, nprobe=7 if kind == "rabitq" else None)
    for query, documents in zip(QUERIES, retriever.search(QUERIES, 5), strict=True):
        ids, scores = expected(encoder, corpus, query, 5)
        assert [document.id for document in documents] == [corpus[i].id for i in ids]
        np.testing.assert_allclose([document.score for document in documents], scores, atol=1e-5)
        assert [document.text for document in documents] == [corpus[i].text for i in ids]


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_retrievers(built, kind):
    report = check_retriever(DenseRetriever.load(built / kind), QUERIES, k=5, unknown=None)
    assert report.documents > 5
    assert report.scored
    assert report.picklable


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_says_what_the_index_is(built, corpus, embeddings, kind):
    card = DenseRetriever.load(built / kind).card
    parameters = card["parameters"]
    assert parameters["kind"] == kind
    assert parameters["factory"] == factory_of(kind, 300, 32)
    assert parameters["dimension"] == 32
    assert parameters["metric"] == "inner_product"
    assert parameters["encoder"] == embeddings.card.encoder.as_json()
    assert card["digest"] == digest(corpus)
    assert card["recall"]["recall"] >= TARGET
    assert card["recall"]["source"] == "passages of the index"
    assert (kind == "flat") == (card["recall"]["measured"] == {"all": 1.0})


def test_recall_is_that_of_brute_force(embeddings, encoder, corpus, tmp_path):
    vectors = encoder.encode_queries(QUERIES)
    measured = build_dense_index(
        corpus, embeddings, tmp_path / "i", kind="ivf-sq8", lists=20, queries=vectors, source="five"
    )
    assert measured["queries"] == 5
    assert measured["source"] == "five"
    recalls = list(measured["measured"].values())
    assert recalls[0] < TARGET <= recalls[-1] == measured["recall"]
    for setting, recall in measured["measured"].items():
        retriever = DenseRetriever.load(tmp_path / "i", nprobe=int(setting.removeprefix("nprobe=")))
        shares = [
            len(
                {d.id for d in documents}
                & {corpus[i].id for i in expected(encoder, corpus, q, 10)[0]}
            )
            for q, documents in zip(QUERIES, retriever.search(QUERIES, 10), strict=True)
        ]
        assert recall == pytest.approx(sum(shares) / 50, abs=1e-4)


def test_passages_that_measure_do_not_count_themselves(embeddings, corpus, tmp_path):
    measured = build_dense_index(corpus, embeddings, tmp_path / "i", kind="ivf-sq8", lists=50)
    # A passage is alone in the list nearest to it too often to find ten others there.
    assert measured["measured"]["nprobe=1"] < 0.5


def test_equal_passages_come_in_the_order_of_the_corpus(encoder, corpus, tmp_path):
    same = [*corpus[:20], *(type(corpus[0])(f"copy{i}", "ulm", "ulm") for i in range(150))]
    embed(same, tmp_path / "e", encoder, block=64)
    build_dense_index(same, Embeddings(tmp_path / "e"), tmp_path / "i")
    (documents,) = DenseRetriever.load(tmp_path / "i").search(["ulm ulm"], 4)
    copies = [document.id for document in documents if document.id.startswith("copy")]
    assert copies == [f"copy{i}" for i in range(len(copies))]
    assert copies


def test_queries_of_white_space_have_no_documents_and_equal_ones_separate_lists(built):
    retriever = DenseRetriever.load(built / "flat")
    empty, one, other = retriever.search([" \n", "ulm", "ulm"], 3)
    assert empty == []
    assert one == other
    assert one is not other
    assert retriever.search([], 3) == []


def test_threads_get_the_same_answers(built):
    retriever = DenseRetriever.load(built / "hnsw")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: retriever.search(QUERIES, 3), range(8)))
    assert all(answer == answers[0] for answer in answers)


def test_a_name_is_a_retriever_with_options(built):
    choice = CorpusChoice("toy")
    plain = get_retriever(f"faiss:{built / 'ivf-sq8'}", choice)
    assert get_retriever(f"faiss:{built / 'ivf-sq8'}", choice) is plain
    assert len(plain) == 300
    other = get_retriever(f"faiss:{built / 'ivf-sq8'}?nprobe=1&device=cpu", choice)
    assert "nprobe=1," in other.name
    assert other.name != plain.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?nprob=3", "Did you mean 'nprobe'"),
        ("?nprobe=three", "Expected nprobe in .* to be a number"),
        ("?nprobe", "Expected options such as"),
        ("?nprobe=3", "Expected settings of .* among"),
        ("?nprobe=-1", "Expected settings of"),
    ],
)
def test_bad_options(built, options, message):
    with pytest.raises(ConfigurationError, match=message):
        get_retriever(f"faiss:{built / 'flat'}{options}", CorpusChoice("toy"))


def test_an_environment_shows_its_documents(built):
    name = f"faiss:{built / 'flat'}"
    env = gym.make("SearchQA-v0", tokenizer="byte", retriever=name, top_k=1, render_mode="ansi")
    env.reset(seed=0)
    core = env.unwrapped
    for token in core.tokenizer.encode("<|begin_of_query|>ulm<|end_of_query|>"):
        env.step(token)
    (document,) = core.retriever.search(["ulm"], 1)[0]
    assert document.text in core.render()
    env.close()


def test_an_environment_refuses_a_missing_index_when_it_is_made(tmp_path):
    with pytest.raises(IndexFormatError, match=r"Expected a dense index .*, got no format\.json"):
        gym.make("SearchQA-Toy-v0", retriever=f"faiss:{tmp_path}")


# Damage and mistakes


def edit(folder, change):
    """Change the manifest of an index and its checksum with it."""
    from search_env.retrieval.storage import array_folder

    file = folder / "format.json"
    content = json.loads(file.read_text())
    change(content)
    content.pop("checksum")
    content["checksum"] = array_folder._checksum(content)
    file.write_text(array_folder._as_text(content))


def cut(name):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def flat_of(folder, rows, dimension):
    """Replace the file of FAISS by one that fits the manifest's list of files, but not the rest."""
    other = faiss.IndexFlatIP(dimension)
    other.add(np.zeros((rows, dimension), np.float32))
    faiss.write_index(other, str(folder / "index.faiss"))
    size = (folder / "index.faiss").stat().st_size
    edit(folder, lambda content: content["files"].update({"index.faiss": size}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut("index.faiss"), r"bytes for index.faiss \(written with"),
        (lambda f: (f / "index.faiss").unlink(), "no such file for index.faiss"),
        (lambda f: (f / "format.json").unlink(), "no format.json"),
        (lambda f: (f / "format.json").write_text("{"), "unreadable format.json"),
        (lambda f: edit(f, lambda c: c.update(version=2)), "format version 2"),
        (lambda f: edit(f, lambda c: c.update(format="x")), "a format.json of something else"),
        (lambda f: edit(f, lambda c: c["parameters"].pop("encoder")), "'encoder'"),
        (lambda f: edit(f, lambda c: c["parameters"].update(dimension=33)), "'dimension': 33"),
        (lambda f: edit(f, lambda c: c["parameters"].update(metric="l2")), "'metric': 'l2'"),
        (lambda f: edit(f, lambda c: c["counts"].update(passages=1)), "'passages': 1"),
        (lambda f: edit(f, lambda c: c["parameters"].update(settings={"ef": 3})), "hnsw"),
        (lambda f: flat_of(f, 299, 32), "'passages': 299"),
        (lambda f: flat_of(f, 300, 16), "'dimension': 16"),
    ],
)
def test_damage_is_found_on_opening(index, damage, message):
    damage(index)
    with pytest.raises(IndexFormatError, match=message):
        DenseRetriever.load(index)


def test_a_file_that_faiss_cannot_read(index):
    size = (index / "index.faiss").stat().st_size
    (index / "index.faiss").write_bytes(b"x" * size)
    with pytest.raises(IndexFormatError, match="Rebuild it with `search-env index --dense`"):
        DenseRetriever.load(index)


def test_a_flipped_bit_is_found_by_verification(index):
    data = bytearray((index / "index.faiss").read_bytes())
    data[-1] ^= 1
    (index / "index.faiss").write_bytes(data)
    DenseRetriever.load(index)
    with pytest.raises(IndexFormatError, match=r"a index\.faiss that was changed"):
        DenseRetriever.load(index, verify=True)


def test_stored_vectors_are_checked(built, tmp_path):
    folder = shutil.copytree(built / "rabitq", tmp_path / "i")
    size = (folder / "vectors.npy").stat().st_size
    (folder / "vectors.npy").write_bytes(b"x" * size)
    with pytest.raises(IndexFormatError, match=r"an unreadable vectors\.npy"):
        DenseRetriever.load(folder)


def test_a_bm25_index_is_not_a_dense_one_and_the_other_way_round(index, corpus, tmp_path):
    BM25Retriever.build(corpus).save(tmp_path / "bm25")
    with pytest.raises(IndexFormatError, match="got a BM25 index, which retriever='bm25' searches"):
        DenseRetriever.load(tmp_path / "bm25")
    with pytest.raises(IndexFormatError, match="got a dense index, which retriever='faiss:FOLDER'"):
        BM25Retriever.load(index)


def test_another_model_is_refused(index, tmp_path):
    other = save_encoder(tmp_path / "other", seed=9)
    with pytest.raises(IndexFormatError, match=r"Expected the model tiny .*, got another one"):
        DenseRetriever.load(index, model=str(other))


def test_the_model_may_lie_in_the_index(index, model, tmp_path):
    before = DenseRetriever.load(index).search(QUERIES, 3)
    edit(index, lambda content: content["parameters"].update(model=str(tmp_path / "gone")))
    with pytest.raises(DataNotFoundError, match=r"Put the model's folder, or a link to it, at"):
        DenseRetriever.load(index)
    shutil.copytree(model, index / "encoder")
    assert DenseRetriever.load(index).search(QUERIES, 3) == before


def test_a_replaced_index_is_noticed_when_unpickling(index, embeddings, encoder, corpus, tmp_path):
    pickled = pickle.dumps(DenseRetriever.load(index))
    assert pickle.loads(pickled).search(["ulm"], 1)
    embed(corpus[:64], tmp_path / "e", encoder, block=64)
    build_dense_index(corpus[:64], Embeddings(tmp_path / "e"), index)
    with pytest.raises(IndexFormatError, match="was replaced after the retriever was pickled"):
        pickle.loads(pickled)


def test_bad_calls(built, embeddings, corpus, tmp_path):
    retriever = DenseRetriever.load(built / "flat")
    with pytest.raises(ConfigurationError, match="Expected k to be an integer of at least 1"):
        retriever.search(["ulm"], 0)
    with pytest.raises(ConfigurationError, match="Expected a list of query strings"):
        retriever.search("ulm", 1)
    with pytest.raises(ConfigurationError, match="Expected kind among"):
        build_dense_index(corpus, embeddings, tmp_path / "i", kind="ivf")
    with pytest.raises(ConfigurationError, match="Expected at most 300 lists"):
        build_dense_index(corpus, embeddings, tmp_path / "i", kind="ivf-sq8", lists=301)
    with pytest.raises(ConfigurationError, match="Expected passages to index, got none"):
        build_dense_index([], embeddings, tmp_path / "i")
    with pytest.raises(DataFormatError, match="the corpus has changed"):
        build_dense_index(corpus[::-1], embeddings, tmp_path / "i")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ConfigurationError, match="Expected a new path, an empty folder"):
        build_dense_index(corpus, embeddings, tmp_path / "mine")


# Files that others built


@pytest.mark.parametrize(
    ("factory", "metric"),
    [
        ("Flat", faiss.METRIC_INNER_PRODUCT),
        ("IVF4,PQ8x4", faiss.METRIC_INNER_PRODUCT),
        ("HNSW8", faiss.METRIC_L2),
    ],
)
def test_a_file_of_faiss_is_adopted(encoder, corpus, model, tmp_path, factory, metric):
    vectors = encoder.encode_passages(corpus)
    other = faiss.index_factory(32, factory, metric)
    other.train(vectors)
    other.add(vectors)
    faiss.write_index(other, str(tmp_path / "e5.index"))
    adopt_faiss_file(
        corpus, tmp_path / "e5.index", tmp_path / "i", model=model, card=encoder.card, dimension=32
    )
    retriever = DenseRetriever.load(tmp_path / "i")
    assert retriever.card["recall"] is None
    assert check_retriever(retriever, QUERIES, unknown=None).documents > 3
    if factory == "Flat":
        ids, _ = expected(encoder, corpus, "ulm", 3)
        assert [d.id for d in retriever.search(["ulm"], 3)[0]] == [corpus[i].id for i in ids]


@pytest.mark.skipif(sys.platform == "win32", reason="other permissions")
def test_an_adopted_file_is_left_as_it_was(built, encoder, corpus, model, tmp_path):
    file, options = tmp_path / "f.index", {"model": model, "card": encoder.card, "dimension": 32}
    shutil.copyfile(built / "flat" / "index.faiss", file)
    for name, mode in (("linked", file.stat().st_mode), ("copied", 0o100600)):
        file.chmod(mode)
        adopt_faiss_file(corpus, file, tmp_path / name, **options)
        assert file.stat().st_mode == mode
        assert (tmp_path / name / "index.faiss").samefile(file) == (name == "linked")
        assert DenseRetriever.load(tmp_path / name, verify=True).search(["ulm"], 1)[0]


def test_a_file_of_faiss_that_does_not_fit(encoder, corpus, model, tmp_path):
    card = EncoderCard("mean")
    file = tmp_path / "f.index"

    def adopt(passages, dimension=32):
        return adopt_faiss_file(
            passages, file, tmp_path / "i", model=model, card=card, dimension=dimension
        )

    with pytest.raises(DataNotFoundError, match="Expected an index of FAISS at"):
        adopt(corpus)
    file.write_bytes(b"not an index")
    with pytest.raises(DataFormatError, match=r"parts must be joined in order"):
        adopt(corpus)
    faiss.write_index(faiss.IndexFlatIP(32), str(file))
    with pytest.raises(DataFormatError, match="vectors of 768 numbers"):
        adopt(corpus, 768)
    with pytest.raises(DataFormatError, match="a vector for each of 300 passages, got 0"):
        adopt(corpus)
    faiss.write_index(faiss.index_factory(32, "Flat", faiss.METRIC_L1), str(file))
    with pytest.raises(DataFormatError, match="inner products or squared distances"):
        adopt([])


def test_the_encoder_is_loaded_by_the_first_search_and_shared(built, monkeypatch):
    module._encoder_of.cache_clear()
    loaded, original = [], Encoder.__init__
    monkeypatch.setattr(
        Encoder, "__init__", lambda self, *a, **k: loaded.append(1) or original(self, *a, **k)
    )
    retrievers = [DenseRetriever.load(built / kind) for kind in ("flat", "hnsw")]
    assert loaded == []
    assert [len(retriever.search(["ulm"], 1)[0]) for retriever in retrievers] == [1, 1]
    assert loaded == [1]
