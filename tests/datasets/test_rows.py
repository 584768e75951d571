"""Checked fields and content ids."""

from pathlib import Path

import pytest

from search_env.datasets.rows import (
    Row,
    document_id,
    make_document,
    unique_documents,
    unique_questions,
)
from search_env.errors import DataFormatError
from search_env.types import Question


def row(line=1, **data):
    return Row(Path("q.jsonl"), line, data)


@pytest.mark.parametrize("bad", [None, "", " \n", 3, ["x"], "\ud83d"])
def test_text_is_a_non_empty_string_that_utf8_can_write(bad):
    with pytest.raises(DataFormatError, match=r"q.jsonl, line 7, field 'question': expected a non"):
        row(7, question=bad).text("question")
    assert row(question=" é ").text("question") == " é "


def test_optional_text():
    assert row().optional_text("kind") == row(kind="").optional_text("kind") == ""
    with pytest.raises(DataFormatError, match="'kind'"):
        row(kind=3).optional_text("kind")


@pytest.mark.parametrize("bad", [None, "", True, 1.5, []])
def test_identifier(bad):
    assert row(id=12).identifier("id") == row(id="12").identifier("id") == "12"
    with pytest.raises(DataFormatError, match="'id'"):
        row(id=bad).identifier("id")


@pytest.mark.parametrize("bad", [[""], ["a", None], {"a": 1}, [[]], [["a", None]], True])
def test_texts_and_answers(bad):
    assert row(answers=["b", "a", "b"]).answers("answers") == ("b", "a")
    assert row(answers=[["b"], 1.5]).answers("answers") == ("b", "1.5")
    assert row().texts("answers") == ()
    with pytest.raises(DataFormatError, match="a text, a number, or a list of non-empty ones"):
        row(answers=bad).answers("answers")


@pytest.mark.parametrize("data", [{}, {"answers": []}])
def test_no_answer(data):
    with pytest.raises(DataFormatError, match="at least one answer"):
        row(**data).answers("answers")


def test_rows_name_their_place():
    (_, second) = row(5, paragraphs=[{"title": "A"}, {"title": ""}]).rows("paragraphs")
    with pytest.raises(DataFormatError, match=r"line 5, field 'paragraphs\[1\].title'"):
        second.text("title")
    with pytest.raises(DataFormatError, match=r"field 'paragraphs\[0\]': expected a JSON object"):
        row(paragraphs=["x"]).rows("paragraphs")
    with pytest.raises(DataFormatError, match="a list of objects"):
        row(paragraphs={}).rows("paragraphs")


def test_document_id_ignores_only_white_space():
    # printf 'Paris\tParis is it.' | sha1sum | cut -c-12
    assert document_id("Paris", "Paris is it.") == "a48a0bc68e28"
    assert document_id(" Paris", "Paris\n is  it. ") == document_id("Paris", "Paris is it.")
    others = [("Paris", "Paris is it"), ("paris", "Paris is it."), ("Paris Paris", "is it.")]
    assert len({document_id(*pair) for pair in [("Paris", "Paris is it."), *others]}) == 4


def test_make_document_is_consistent_with_its_id():
    document = make_document("A  title", "Some\ntext ")
    assert (document.title, document.text) == ("A title", "Some text")
    assert document.id == document_id(document.title, document.text)
    assert list(unique_documents([document, make_document("A title", "Some text")])) == [document]


def test_ids_are_unique_within_a_dataset():
    def parse(parsed):
        return Question(parsed.data["id"], "q", ("a",), dataset=parsed.data["dataset"])

    rows = [row(1, id="1", dataset="a"), row(2, id="1", dataset="b")]
    assert [q.dataset for q in unique_questions(rows, parse)] == ["a", "b"]
    rows.append(row(3, id="1", dataset="a"))
    with pytest.raises(DataFormatError, match=r"line 3, field 'id'.*'1' occurs twice"):
        list(unique_questions(rows, parse))


def test_questions_without_an_id_are_numbered_in_file_order():
    questions = unique_questions([row(4), row(9)], lambda _: Question("", "q", ("a",), "set"))
    assert [question.id for question in questions] == ["set_1", "set_2"]
