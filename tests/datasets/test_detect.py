"""Detection of layouts, and the errors where the wrong one is named."""

import pytest

from search_env.datasets import CORPUS_FORMATS, QUESTION_FORMATS, read_documents, read_questions
from search_env.datasets.detect import corpus_format, question_format
from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError

HOTPOT = {
    "_id": "1",
    "question": "q",
    "answer": "a",
    "supporting_facts": [["T", 0]],
    "context": [["T", ["x"]]],
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "q",
    "answer": "a",
    "paragraphs": [{"idx": 0, "title": "T", "paragraph_text": "x", "is_supporting": True}],
    "question_decomposition": [],
}
QUESTIONS = {
    "flashrag": {"id": "1", "question": "q", "golden_answers": ["a"]},
    "native": {"id": "1", "question": "q", "answers": ["a"]},
    "musique": MUSIQUE,
    "hipporag": {k: v for k, v in MUSIQUE.items() if k != "id"},
    "2wikimultihopqa": HOTPOT | {"evidences": []},
    "hotpotqa": HOTPOT,
    "bamboogle": {"Question": "q", "Answer": "a"},
    "r1_searcher": {"idx": 1, "question": "q", "answer": "a"},
    "squad": {
        "id": "1",
        "title": "T",
        "context": "x",
        "question": "q",
        "answers": {"text": ["a"], "answer_start": [0]},
    },
    "verl": {
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "Question: q"}],
        "reward_model": {"style": "rule", "ground_truth": {"target": ["a"]}},
        "extra_info": {"index": 0, "split": "train", "question": "q"},
    },
}
PASSAGES = {
    "flashrag": {"id": "1", "contents": '"T"\nx'},
    "native": {"id": "1", "title": "T", "text": "x"},
    "musique": MUSIQUE,
    "2wikimultihopqa": QUESTIONS["2wikimultihopqa"],
    "hotpotqa": HOTPOT,
    "squad": QUESTIONS["squad"],
}


def test_every_layout_has_a_sample_here():
    assert set(QUESTIONS) == set(QUESTION_FORMATS)
    assert set(PASSAGES) | {"hipporag"} == set(CORPUS_FORMATS)


@pytest.mark.parametrize("ending", ["jsonl", "json", "jsonl.gz", "json.xz"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_question_layouts_are_detected_and_read(write, name, ending):
    path = write(f"file.{ending}", [QUESTIONS[name]])
    assert question_format(path) == name
    assert list(read_questions(path)) == list(read_questions(path, name))
    assert [q.answers for q in read_questions(str(path))] == [("a",)]


@pytest.mark.parametrize("ending", ["jsonl", "json", "jsonl.gz", "json.xz"])
@pytest.mark.parametrize("name", PASSAGES)
def test_corpus_layouts_are_detected_and_read(write, name, ending):
    path = write(f"file.{ending}", [PASSAGES[name]])
    assert corpus_format(path) == name
    assert [(d.title, d.text) for d in read_documents(path)] == [("T", "x")]


def test_other_containers(write):
    csv = write("b.csv", "Question,Answer\nq,a\n")
    assert question_format(csv) == "bamboogle"
    mapping = write("corpus.json", {"T": ["x"]})
    assert corpus_format(mapping) == "hipporag"
    assert [(d.title, d.text) for d in read_documents(mapping)] == [("T", "x")]


@pytest.mark.parametrize("read", [read_questions, read_documents])
def test_unknown_format(write, read):
    path = write("q.jsonl", [QUESTIONS["native"]])
    with pytest.raises(ConfigurationError, match="Did you mean 'hotpotqa'"):
        read(path, "hotpot_qa")


@pytest.mark.parametrize("read", [read_questions, read_documents])
def test_missing_file_is_reported_at_once(tmp_path, read):
    with pytest.raises(DataNotFoundError):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataNotFoundError):
        read(tmp_path / "none.jsonl", "native")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", [PASSAGES["native"]]),
        ("c.jsonl", [PASSAGES["flashrag"]]),
        ("m.json", {"T": ["x"]}),
    ],
)
@pytest.mark.parametrize("format", [None, "native", "musique"])
def test_a_corpus_read_as_questions(write, name, content, format):
    with pytest.raises(DataFormatError, match=r"expected questions, got a corpus.*read_documents"):
        read_questions(write(name, content), format)


@pytest.mark.parametrize("name", ["flashrag", "native", "bamboogle", "r1_searcher"])
def test_questions_read_as_a_corpus(write, name):
    with pytest.raises(DataFormatError, match=rf"expected passages, got questions \({name}\)"):
        read_documents(write("q.jsonl", [QUESTIONS[name]]))


def test_a_csv_file_may_have_any_layout(write):
    path = write("r.csv", "question,answer\nq,a\n")
    assert question_format(path) == "r1_searcher"
    assert [(q.id, q.text, q.answers) for q in read_questions(path)] == [
        ("22ea1c649c82", "q", ("a",))
    ]


@pytest.mark.parametrize("read", [read_questions, read_documents])
def test_a_row_without_fields_has_no_layout(write, read):
    with pytest.raises(DataFormatError, match="in a known layout"):
        read(write("empty.jsonl", [{}]))


@pytest.mark.parametrize("read", [read_questions, read_documents])
def test_neither(write, read):
    with pytest.raises(DataFormatError, match="with the fields colour, size"):
        read(write("x.jsonl", [{"size": 1, "colour": 2}]))


def test_the_wrong_layout_is_named(write):
    path = write("h.json", [HOTPOT])
    with pytest.raises(DataFormatError, match="looks like the layout 'hotpotqa', not 'flashrag'"):
        read_questions(path, "flashrag")


def test_a_named_layout_wins_over_the_rules(write):
    path = write("b.jsonl", [{"question": "q", "answer": "a"}])
    assert [q.id for q in read_questions(path, "bamboogle")] == ["bamboogle_1"]
    assert [q.id for q in read_questions(path)] == ["22ea1c649c82"]


def test_a_later_bad_row_is_raised_as_it_is(write):
    rows = [QUESTIONS["native"], QUESTIONS["native"] | {"id": "2", "answers": []}]
    stream = read_questions(write("n.jsonl", rows))
    assert next(stream).id == "1"
    with pytest.raises(DataFormatError, match="line 2, field 'answers'"):
        next(stream)
    with pytest.raises(DataFormatError, match=r"line 1, field 'answers'.*Fix or remove the row\.$"):
        read_questions(write("bad.jsonl", [QUESTIONS["native"] | {"answers": [""]}]), "native")
