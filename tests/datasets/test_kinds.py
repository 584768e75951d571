"""Files of others as they are: names of fields, golds, blank rows, containers, messages."""

from __future__ import annotations

import bz2
import json

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.cli.index import index_command
from search_env.datasets import document_id, read_documents, read_questions
from search_env.datasets.golds import gold_texts
from search_env.errors import DataFormatError, DataNotFoundError
from search_env.retrieval import BM25Retriever, FakeRetriever
from search_env.types import Document, Question

QUESTION = {"id": "1", "question": "Q?", "answers": ["Oslo"]}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "C is d.",
                    "qas": [
                        {"id": "1", "question": "Q?", "answers": [{"text": "d"}, {"text": "d"}]},
                        {"id": "2", "question": "R?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def golds(path):
    return [question.answers for question in read_questions(path)]


# A9: ids and provenance


@pytest.mark.parametrize(
    "name", ["_id", "docid", "doc_id", "pid", "passage_id", "document_id", "DocID", "Passage ID"]
)
def test_a9_a_passage_keeps_its_id_whatever_it_is_called(write, name):
    rows = [{name: f"MED-{i}", "title": "T", "text": "same"} for i in range(2)]
    expected = [Document(f"MED-{i}", "T", "same") for i in range(2)]
    assert list(read_documents(write("c.jsonl", rows))) == expected
    contents = [{name: i, "contents": '"T"\nsame'} for i in range(2)]
    assert [d.id for d in read_documents(write("f.jsonl", contents))] == ["0", "1"]


@pytest.mark.parametrize("name", ["_id", "qid", "query_id", "question_id", "QuestionId"])
@pytest.mark.parametrize("answer", ["answer", "answers", "golden_answers"])
def test_a9_a_question_keeps_its_id_whatever_it_is_called(write, name, answer):
    rows = [{name: "q7", "question": "Q?", answer: ["a"]}]
    assert [q.id for q in read_questions(write("q.jsonl", rows))] == ["q7"]


def test_a9_the_evidence_of_a_beir_corpus_is_found(write):
    corpus = write("c.jsonl", [{"_id": "MED-10", "title": "T", "text": "body", "metadata": {}}])
    file = write("q.jsonl", [{**QUESTION, "supporting": ["MED-10"]}])
    env = gym.make("SearchQA-Toy-v0", dataset=str(file), corpus=str(corpus), retriever="bm25")
    (question,) = env.unwrapped.questions
    (documents,) = env.unwrapped.retriever.search(["body"], k=1)
    assert [document.id for document in documents] == list(question.supporting)


def test_a9_merged_files_of_search_r1_number_each_source(write):
    rows = [
        {**QUESTION, "id": "train_0", "data_source": source, "golden_answers": [source]}
        for source in ("nq", "hotpotqa")
    ]
    rows[1]["extra_info"] = {"index": 0, "split": "train"}
    questions = list(read_questions(write("train.jsonl", rows)))
    assert [(q.dataset, q.split, q.id) for q in questions] == [
        ("nq", "", "train_0"),
        ("hotpotqa", "train", "train_0"),
    ]
    with pytest.raises(DataFormatError, match="line 2, field 'id'"):
        list(read_questions(write("twice.jsonl", rows[:1] * 2)))


def test_a9_verl_rows(write):
    row = {
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "Answer ... Question: Q?"}],
        "reward_model": {"style": "rule", "ground_truth": {"target": ["a", "b"]}},
        "extra_info": {"index": 7, "split": "test", "question": "Q?"},
    }
    expected = Question("test_7", "Q?", ("a", "b"), dataset="nq", split="test")
    assert list(read_questions(write("v.jsonl", [row]))) == [expected]
    row["extra_info"] = {}
    with pytest.raises(DataFormatError, match=r"field 'question'.*extra_info\.question"):
        list(read_questions(write("p.jsonl", [row])))


# C3: blank rows


def test_c3_blank_passages_are_left_out_and_counted(write):
    rows = [
        {"_id": "1", "title": "T", "text": "x"},
        {"_id": "2", "title": "", "text": ""},
        {"_id": "3", "title": " ", "text": None},
        {"_id": "4", "title": "Only a title", "text": ""},
        {},
    ]
    with pytest.warns(UserWarning, match=r"left out 3 rows without a passage \(first: line 2\)"):
        assert [d.id for d in read_documents(write("c.jsonl", rows))] == ["1", "4"]
    contents = [{"id": "0", "contents": "\n"}, {"id": "1", "contents": "x"}]
    with pytest.warns(UserWarning, match="left out 1 row without a passage"):
        assert [d.id for d in read_documents(write("f.jsonl", contents))] == ["1"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", json.dumps(QUESTION) + '\n{}\n{"id": "", "question": null, "answers": []}\n\n'),
        ("q.json", json.dumps([QUESTION, {}, {"question": " "}])),
        ("q.csv", "id,question,answers\n\n1,Q?,a\n,,\n , ,\n\n   \n"),
        ("q.tsv", "id\tquestion\tanswers\n1\tQ?\ta\n\t\t\n\t\t \n"),
    ],
)
def test_c3_blank_questions_are_left_out_and_counted(write, name, content):
    with pytest.warns(UserWarning, match="left out 2 rows without content") as caught:
        assert len(golds(write(name, content))) == 1
    assert len(caught) == 1


def test_c3_blank_paragraphs_of_a_question(write):
    paragraphs = [{"title": "T", "text": "x"}, {"title": "", "text": ""}]
    rows = [{"question": "Q?", "answer": "a", "paragraphs": paragraphs}]
    path = write("h.json", rows)
    assert golds(path) == [("a",)]
    assert [d.text for d in read_documents(path)] == ["x"]


@pytest.mark.parametrize("read", [read_questions, read_documents])
def test_c3_a_file_of_blank_rows_only(write, read):
    with pytest.raises(DataFormatError, match="rows without any content"):
        list(read(write("blank.jsonl", [{}, {"question": ""}])))
    with pytest.raises(DataFormatError, match="a row with content, got 1 row without a passage"):
        list(read_documents(write("c.jsonl", [{"id": "1", "text": ""}])))


# C4: layouts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.jsonl", '{"id": "0", "text": "x y"}\n'),
        ("c.jsonl", '{"docid": 0, "contents": "x y"}\n'),
        ("c.json", '[{"id": "0", "passage": "x y"}]'),
        ("c.json", '{"documents": [{"id": "0", "text": "x y"}], "version": 1}'),
        ("c.csv", "ID,Text\n0,x y\n"),
        ("c.csv", "id;text\n0;x y\n"),
        ("c.tsv", "id\ttext\ttitle\n0\tx y\t\n"),
        ("collection.tsv", "0\tx y\n"),
        ("c.jsonl.bz2", bz2.compress(b'{"id": "0", "text": "x y"}\n')),
    ],
)
def test_c4_corpora_are_detected_by_environments_and_by_index_alike(write, tmp_path, name, content):
    path = write(name, content)
    expected = [Document("0", "", "x y")]
    assert list(read_documents(path)) == expected
    env = gym.make("SearchQA-Toy-v0", corpus=str(path), retriever="bm25").unwrapped
    assert list(env.retriever.documents()) == expected
    index_command(path, tmp_path / "index")
    assert list(BM25Retriever.load(tmp_path / "index").documents()) == expected


def test_c4_line_ends_do_not_get_into_titles(write):
    rows = [
        {"id": "0", "contents": '"History"\r\ntext\r\nmore'},
        {"id": "1", "contents": '"History"\rtext'},
        {"id": "2", "title": "A\r\nB\n", "contents": "text"},
    ]
    documents = list(read_documents(write("c.jsonl", rows)))
    assert [d.title for d in documents] == ["History", "History", "A B"]
    assert documents[0].text == "text\r\nmore"
    native = [{"id": "0", "title": "A\r\nB", "text": "x\r\ny"}]
    assert list(read_documents(write("n.jsonl", native))) == [Document("0", "A B", "x\r\ny")]


@pytest.mark.parametrize(
    "header", ["question,answer", "QUESTION,ANSWER", "Question, Answer", "Query,Golden Answers"]
)
def test_c4_headers_in_any_case(write, header):
    (question,) = read_questions(write("q.csv", f"{header}\nQ1?,A1\n"))
    assert (question.text, question.answers) == ("Q1?", ("A1",))


def test_c4_questions_of_several_lines_are_whole(write):
    text = "line 1\nline 2\r\nline 3"
    (question,) = read_questions(write("q.csv", f'question,answer\n"{text}",a\n'))
    assert question.text == text
    (question,) = read_questions(write("q.jsonl", [{**QUESTION, "question": text}]))
    assert question.text == text


def test_c4_questions_without_ids_have_stable_ones(write):
    rows = [{"question": q, "answers": [a]} for q, a in (("q", "a"), ("r", "a"), ("q", "b"))]
    first = [q.id for q in read_questions(write("q.jsonl", rows))]
    assert first == ["22ea1c649c82", "4dc7c9ec434e", "22ea1c649c82-2"]
    rows.insert(0, {"question": "new", "answers": ["c"]})
    assert [q.id for q in read_questions(write("q.jsonl", rows))][1:] == first


def test_c4_passages_without_ids_that_occur_again_are_left_out(write):
    rows = [{"title": "T", "text": "x"}, {"title": "T", "text": "x"}, {"title": "T", "text": "y"}]
    assert [d.text for d in read_documents(write("c.jsonl", rows))] == ["x", "y"]


def test_c4_squad(write):
    path = write("train-v2.0.json", SQUAD)
    evidence = document_id("T", "C is d.")
    with pytest.warns(UserWarning, match="left out 1 row without an answer"):
        questions = list(read_questions(path))
    assert questions == [Question("1", "Q?", ("d",), supporting=(evidence,))]
    assert list(read_documents(path)) == [Document(evidence, "T", "C is d.")]
    hub = {"id": "1", "title": "T", "context": "C is d.", "question": "Q?"}
    hub["answers"] = {"text": ["d", "d"], "answer_start": [5, 5]}
    assert list(read_questions(write("hub.jsonl", [hub]))) == questions


@pytest.mark.parametrize(
    "row",
    [
        {"id": "2hop__1_2", "paragraphs": [{"title": "T", "text": "p"}], "question": "Q?"},
        {"_id": "1", "question": "Q?", "context": [["T", ["x"]]]},
        {"_id": "1", "question": "Q?", "context": [], "supporting_facts": [], "answer": ""},
        {"id": "1", "question": "Q?", "answer": None, "context": {}, "supporting_facts": {}},
        {"question_id": "1", "question": "Q?", "answer": {"value": "<unk>", "aliases": []}},
        {"id": "1", "question": "Q?", "golden_answers": []},
    ],
)
@pytest.mark.parametrize("name", ["test.jsonl", "test.json"])
def test_c4_a_split_without_answers_is_named(write, row, name):
    with pytest.raises(DataFormatError, match=r"a split without answers.*the dev split") as caught:
        list(read_questions(write(name, [row, row])))
    assert "Fix" not in str(caught.value)


def test_c4_one_row_without_an_answer_is_named(write):
    rows = [QUESTION, {"id": "2", "question": "R?", "answers": []}]
    for name, place in (("q.jsonl", "line 2"), ("q.json", "record 2")):
        for order in (rows, rows[::-1]):
            where = place if order is rows else place.replace("2", "1")
            with pytest.raises(DataFormatError, match=f"{where}, field 'answers'.*Fix or remove"):
                list(read_questions(write(name, order)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", [QUESTION, 3], "a.json, record 2: expected a JSON object"),
        ("a.json", [QUESTION, QUESTION | {"id": None, "question": ""}], "record 2, field"),
        ("a.jsonl", f"\n{json.dumps(QUESTION)}\n\n3\n", "a.jsonl, line 4: expected"),
        ("a.csv", 'question,answer\n"Q\n?",a\n,b\n', "record 2, line 4, field 'question'"),
        ("a.json", '[{"question": "Q?", "answer": "a"},]', "record 2.*Remove the comma"),
        ("a.json", '{"q1": ["Q?", "a"]}', "got a corpus of titles and sentences"),
        ("a.csv", "who?,me\nwhat?,it\n", "a header with the columns me, who.*Write a first line"),
        ("a.csv", "question,question,answer\na,b,c\n", "different column names"),
        ("a.tsv", "question\tanswer\nQ?\n", r"record 1, line 2: expected 2 columns"),
        ("a.jsonl", json.dumps(QUESTION).encode("utf-16"), "got UTF-16 text.*as UTF-8"),
        ("a.jsonl", b"PK\x03\x04xxxx", "a ZIP archive.*Unpack"),
        ("a.jsonl", b"\x28\xb5\x2f\xfdxxxx", "Zstandard.*zstd -d"),
        ("a.jsonl", b"x" * 257 + b"ustar", "a tar archive.*Unpack"),
        ("a.jsonl", "<!DOCTYPE html>", "a web page"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.jsonl", json.dumps(QUESTION) + "\n\0\0\0", "line 2: expected JSON on one line"),
        ("a.jsonl", '{"question": "Q?", "answer": true}', "field 'answer': expected a text"),
        ("a.jsonl", '{"question": "Q?", "answer": NaN}', "field 'answer': expected a text"),
        ("a.csv", "question,answer\nQ?,\"['a' ... 'b']\"\n", "field 'answer'"),
    ],
)
def test_c4_messages_say_what_the_file_is(write, name, content, message):
    with pytest.raises(DataFormatError, match=message):
        list(read_questions(write(name, content)))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(QUESTION, indent=1),
        json.dumps(QUESTION, indent=1) + "\n" + json.dumps(QUESTION | {"id": "2"}, indent=4),
        json.dumps({"1": {k: v for k, v in QUESTION.items() if k != "id"}}),
        json.dumps({"license": "x", "questions": [QUESTION]}),
    ],
)
def test_c4_json_in_other_shapes(write, content):
    assert next(read_questions(write("q.json", content))) == Question("1", "Q?", ("Oslo",))


# C4: folders


def test_c4_a_folder_of_shards_is_one_data_set(write, tmp_path):
    write("d/train-00000-of-00002.jsonl", [QUESTION])
    write("d/train-00001-of-00002.jsonl.gz", [QUESTION | {"id": "2"}])
    write("d/test.jsonl", [QUESTION | {"id": "3", "split": "dev"}])
    write("d/README.md", "about")
    write("d/dataset_info.json", {})
    questions = list(read_questions(tmp_path / "d"))
    assert [(q.id, q.split) for q in questions] == [("3", "dev"), ("1", "train"), ("2", "train")]
    env = gym.make(
        "SearchQA-Toy-v0", dataset=str(tmp_path / "d"), split="train", retriever=FakeRetriever()
    )
    assert [q.id for q in env.unwrapped.questions] == ["1", "2"]
    write("d/test.jsonl", [QUESTION])
    with pytest.raises(DataFormatError, match="an id that no earlier row has"):
        list(read_questions(tmp_path / "d"))


def test_c4_a_folder_of_passages_is_a_corpus(write, tmp_path):
    for shard in range(3):
        write(f"c/part-{shard}.jsonl", [{"id": f"{shard}", "text": f"town {shard}"}])
    write("c/queries.tsv", "0\twhich\n")
    with pytest.raises(DataFormatError, match=r"files of one kind, got part-0.jsonl.*queries.tsv"):
        read_documents(tmp_path / "c")
    (tmp_path / "c" / "queries.tsv").unlink()
    env = gym.make("SearchQA-Toy-v0", corpus=str(tmp_path / "c"), retriever="bm25").unwrapped
    assert [d.id for d in env.retriever.documents()] == ["0", "1", "2"]
    write("beir/corpus.jsonl", [{"_id": "1", "title": "", "text": "x"}])
    write("beir/queries.jsonl", [{"_id": "1", "text": "q"}])
    assert [d.id for d in read_documents(tmp_path / "beir")] == ["1"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tokenizer.model", "config.json"], "the folder of a model or a tokenizer"),
        (["data-00000-of-00001.arrow", "state.json"], "save_to_disk"),
        (["notes.md"], "got notes.md. Pass a file"),
        ([], "got an empty one"),
    ],
)
def test_c4_folders_without_rows(write, tmp_path, names, message):
    (tmp_path / "d").mkdir()
    for name in names:
        write(f"d/{name}", "{}")
    for read in (read_questions, read_documents):
        with pytest.raises(DataNotFoundError, match=message):
            read(tmp_path / "d")


# C4: golds

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_c4_lists_inside_strings(answers):
    numpy_print = "[" + "\n ".join(map(repr, answers)) + "]"
    for written in (
        json.dumps(answers),
        json.dumps(answers, ensure_ascii=False, indent=1),
        repr(answers),
        repr(tuple(answers)).replace("(", "[", 1)[:-1].rstrip(",") + "]",
        numpy_print,
        f"array({answers!r}, dtype=object)",
    ):
        assert gold_texts(written) == answers, written


@given(TEXTS.filter(lambda text: text.strip()[0] not in "[{a"))
def test_c4_a_plain_text_is_one_gold(text):
    assert gold_texts(text) == [text]


@pytest.mark.parametrize("title", ["[REC]", "{a}", "['a", "[]x", "array of", "[a, b]"])
def test_c4_a_text_with_brackets_is_one_gold(title):
    assert gold_texts(title) == [title]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": ["a", "b"], "answer_start": [0, 1]}, ["a", "b"]),
        ({"target": "a"}, ["a"]),
        ({"value": "V", "aliases": ["v", "V."], "normalized_value": "v"}, ["V", "v", "V."]),
        ('{"target": ["a"]}', ["a"]),
        ([{"text": "a"}, {"text": "b"}], ["a", "b"]),
        (["['a' 'b']", "c"], ["a", "b", "c"]),
        (1945, ["1945"]),
        ([7, "x"], ["7", "x"]),
        (None, []),
        ("", []),
        ("[]", []),
        ([], []),
        (True, None),
        (2.5, ["2.5"]),
        (1945.0, ["1945"]),
        (float("nan"), None),
        ("[1945]", ["1945"]),
        ([["a"], ["b", "a"]], ["a", "b", "a"]),
        ({"x": 1}, None),
        ("['a' ... 'b']", None),
    ],
)
def test_c4_forms_of_golds(value, expected):
    assert gold_texts(value) == expected


# D: golds that scores cannot see


def test_d_a_gold_that_normalises_to_nothing_is_warned_about_once(write):
    rows = [QUESTION | {"answers": ["a"]}, QUESTION | {"id": "g1", "answers": ["The", "x"]}]
    rows.append(QUESTION | {"id": "g2", "answers": ["?!"]})
    path = write("q.jsonl", [*rows, QUESTION | {"id": "g3", "answers": ["the A-ha", "Ä"]}])
    message = r"3 gold answers are nothing but articles.*The first is 'a' of the question '1'"
    with pytest.warns(UserWarning, match=message):
        gym.make("SearchQA-Toy-v0", dataset=str(path), retriever=FakeRetriever())
    gym.make(
        "SearchQA-Toy-v0", dataset=str(path), retriever=FakeRetriever()
    )  # the questions are cached: no second warning
