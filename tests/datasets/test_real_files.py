"""Every question and corpus file of ``$SEARCH_ENV_DATA``, against the counts of its README."""

import json
import lzma
from collections import Counter

import pytest

from search_env.datasets import (
    document_id,
    find_corpus,
    find_questions,
    load_questions,
    read_documents,
    read_questions,
)
from search_env.datasets.detect import corpus_format, question_format


@pytest.fixture(scope="module")
def passages(data_dir):
    """The whole corpus by id."""
    return {d.id: d for d in read_documents(data_dir / "passages.jsonl.xz")}


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)


@pytest.mark.parametrize(
    ("name", "layout", "count"),
    [
        ("questions.jsonl.xz", "native", 4839),
        ("r1_searcher/bamboogle.jsonl", "r1_searcher", 125),
        ("r1_searcher/musique_500.jsonl", "r1_searcher", 500),
        ("r1_searcher/hotpotqa_500.jsonl", "r1_searcher", 500),
        ("r1_searcher/2wiki_500.jsonl", "r1_searcher", 500),
        ("r1_searcher/stage_1.jsonl", "r1_searcher", 350),
        ("r1_searcher/stage_2.jsonl", "r1_searcher", 8148),
        ("trajectories/bamboogle_qwen.jsonl.xz", "r1_searcher", 125),
        ("trajectories/2wiki_qwen.jsonl.xz", "r1_searcher", 500),
        ("official/bamboogle.csv", "bamboogle", 125),
        ("official/musique_ans_dev_100.jsonl.xz", "musique", 100),
        ("official/hotpotqa_train_100.json.xz", "hotpotqa", 100),
        ("official/hotpotqa_dev_hf_300.jsonl.xz", "hotpotqa", 300),
        ("official/2wikimultihopqa_train_100.json.xz", "2wikimultihopqa", 100),
    ],
)
def test_question_files(data_dir, name, layout, count):
    path = data_dir / name
    assert question_format(path) == layout
    questions = list(read_questions(path))
    assert len(questions) == len({(q.dataset, q.id) for q in questions}) == count
    assert all(q.text.strip() and all(q.answers) for q in questions)


@pytest.mark.parametrize(
    ("name", "layout", "count", "in_corpus"),
    [
        ("enwiki_lead_passages.jsonl.xz", "native", 92312, 1),
        ("official/2wikimultihopqa_corpus.json.xz", "native", 6119, 6119),
        ("official/hotpotqa_train_100_corpus.json.xz", "hipporag", 994, 994),
        ("official/hotpotqa_train_100.json.xz", "hotpotqa", 994, 994),
        ("official/hotpotqa_dev_hf_300.jsonl.xz", "hotpotqa", 2966, 2966),
        ("official/musique_ans_dev_100.jsonl.xz", "musique", 1839, 1839),
        ("official/2wikimultihopqa_train_100.json.xz", "2wikimultihopqa", 712, 712),
    ],
)
def test_corpus_files_agree_with_the_corpus_on_ids(
    data_dir, passages, name, layout, count, in_corpus
):
    path = data_dir / name
    assert corpus_format(path) == layout
    documents = list(read_documents(path))
    assert len(documents) == len({d.id for d in documents}) == count
    shared = [d for d in documents if d.id in passages]
    assert len(shared) == in_corpus
    assert all(passages[d.id].title == " ".join(d.title.split()) for d in shared)


def test_the_two_forms_of_the_hotpotqa_corpus_are_the_same(data_dir):
    official = data_dir / "official"
    corpus = set(read_documents(official / "hotpotqa_train_100_corpus.json.xz"))
    assert corpus == set(read_documents(official / "hotpotqa_train_100.json.xz"))


def test_the_corpus_carries_content_ids(passages):
    assert len(passages) == 81405
    assert all(document_id(d.title, d.text) == d.id for d in passages.values())


@pytest.mark.parametrize(
    ("name", "files_questions"),
    [
        ("official/musique_ans_dev_100.jsonl.xz", 100),
        ("official/hotpotqa_train_100.json.xz", 100),
        ("official/hotpotqa_dev_hf_300.jsonl.xz", 300),
        ("official/2wikimultihopqa_train_100.json.xz", 100),
    ],
)
def test_official_files_agree_with_the_combined_file(data_dir, name, files_questions):
    combined = {(q.dataset, q.id): q for q in read_questions(data_dir / "questions.jsonl.xz")}
    corpus_ids = {d.id for d in read_documents(data_dir / name)}
    compared = 0
    for question in read_questions(data_dir / name):
        other = combined[question.dataset, question.id]
        assert " ".join(question.text.split()) == other.text
        assert set(question.supporting) == set(other.supporting) <= corpus_ids
        assert question.answers[0] == other.answers[0]
        assert [(h.query, h.answer) for h in other.hops] in (
            [],
            [(h.query, h.answer) for h in question.hops],
        )
        compared += 1
    assert compared == files_questions


def test_hops_are_ready_to_send(data_dir):
    musique = list(read_questions(data_dir / "official/musique_ans_dev_100.jsonl.xz"))
    hops = [hop for question in musique for hop in question.hops]
    assert len(hops) == sum(int(question.id[0]) for question in musique)
    assert not any(">>" in hop.query or "#1" in hop.query for hop in hops)
    assert all(hop.document_id for hop in hops)
    for question in musique:
        in_order = dict.fromkeys(hop.document_id for hop in question.hops)
        assert question.supporting == tuple(in_order)
        assert question.hops[-1].answer in question.answers

    twowiki = list(read_questions(data_dir / "official/2wikimultihopqa_train_100.json.xz"))
    has_document = Counter(bool(hop.document_id) for question in twowiki for hop in question.hops)
    assert has_document == {True: 221, False: 9}


@pytest.mark.parametrize(
    ("dataset", "split", "count"),
    [
        ("bamboogle", None, 125),
        ("musique", None, 1417),
        ("musique", "train", 111),
        ("hotpotqa", "dev", 1576),
        ("hotpotqa", "train", 600),
        ("2wiki", "dev", 510),
        ("2wiki", "train", 500),
    ],
)
def test_known_datasets_load(data_dir, passages, dataset, split, count):
    questions = load_questions(dataset, split)
    assert len(questions) == count
    assert all(i in passages for question in questions for i in question.supporting)
    assert all(q.supporting or q.dataset == "bamboogle" for q in questions)


def test_the_combined_files_are_found(data_dir):
    assert find_questions("musique") == (data_dir / "questions.jsonl.xz", "native")
    assert find_corpus() == data_dir / "passages.jsonl.xz"
    assert find_questions("bamboogle", path=data_dir / "official")[0].name == "bamboogle.csv"


def test_bamboogle_ids_agree_between_its_files(data_dir):
    csv = list(read_questions(data_dir / "official" / "bamboogle.csv"))
    combined = load_questions("bamboogle")
    assert [(q.id, q.text) for q in csv] == [(q.id, q.text) for q in combined]
    # A spreadsheet has rewritten the dates of the CSV copy.
    differing = [(a.answers, b.answers) for a, b in zip(csv, combined, strict=True) if a != b]
    assert len(differing) == 13
    assert (("13-Sep-93",), ("September 13, 1993",)) in differing


def test_native_rows_equal_the_json(data_dir):
    with lzma.open(data_dir / "questions.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    questions = list(read_questions(data_dir / "questions.jsonl.xz"))
    assert [(q.id, q.text, list(q.answers), q.kind, list(q.supporting)) for q in questions] == [
        (r["id"], r["question"], r["answers"], r["kind"], r["supporting"]) for r in rows
    ]
