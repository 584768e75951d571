"""Each layout, on rows written by hand: what is read, how it is linked, what is rejected."""

import json

import pytest

from search_env.datasets import document_id, read_documents, read_questions
from search_env.datasets.loaders.musique import resolve_hops
from search_env.errors import DataFormatError
from search_env.types import Document, Hop, Question

PARIS = ("Paris", "Paris is the capital of France.")
FRANCE = ("France", "France is a country. Its president is X.")
OTHER = ("Rome", "Rome is a city.")
PARIS_ID, FRANCE_ID, OTHER_ID = (document_id(*pair) for pair in (PARIS, FRANCE, OTHER))


def musique_row(**changes):
    passages = [OTHER, FRANCE, PARIS]
    return {
        "id": "2hop__1_2",
        "paragraphs": [
            {"idx": i, "title": t, "paragraph_text": x, "is_supporting": t != "Rome"}
            for i, (t, x) in enumerate(passages)
        ],
        "question": "Who presides over the country of Paris?",
        "question_decomposition": [
            {"question": "Paris >> country", "answer": "France", "paragraph_support_idx": 2},
            {"question": "president of #1", "answer": "X", "paragraph_support_idx": 1},
        ],
        "answer": "X",
        "answer_aliases": ["Mr X", "X"],
        "answerable": True,
    } | changes


def hotpot_row(**changes):
    return {
        "_id": "5a",
        "question": "Are Paris and Rome cities?",
        "answer": "yes",
        "type": "comparison",
        "level": "hard",
        "supporting_facts": [["Rome", 0], ["Paris", 0], ["Rome", 1]],
        "context": [
            ["Paris", ["Paris is the capital", " of France."]],
            ["France", ["France is a country.", " Its president is X."]],
            ["Rome", ["Rome is a city."]],
        ],
    } | changes


def hub_row(row):
    facts, context = row["supporting_facts"], row["context"]
    return {
        **{k: v for k, v in row.items() if k != "_id"},
        "id": row["_id"],
        "supporting_facts": {"title": [t for t, _ in facts], "sent_id": [n for _, n in facts]},
        "context": {"title": [t for t, _ in context], "sentences": [s for _, s in context]},
    }


def twowiki_row(**changes):
    return {
        "_id": "13f",
        "type": "compositional",
        "question": "Who presides over the country of Paris?",
        "answer": "X",
        "answer_id": "Q1",
        "evidences": [["Paris", "country", "France"], ["France", "president", "X"]],
        "supporting_facts": [["Paris", 0], ["France", 1]],
        "context": [
            ["Rome", ["Rome is a city."]],
            ["Paris", ["Paris is the capital of France."]],
            ["France", ["France is a country.", "Its president is X."]],
        ],
        "qa_pairs": [],
    } | changes


def native_row(**changes):
    return {"id": "1", "question": "Who?", "answers": ["a"]} | changes


def reject(read, layout, path, message):
    with pytest.raises(DataFormatError, match=message):
        list(read(path, layout))


class TestBamboogle:
    EXPECTED = (
        Question("bamboogle_1", "Who?", ("me, then",), "bamboogle", "test"),
        Question("bamboogle_2", "Where?", ("here",), "bamboogle", "test"),
    )

    def test_csv(self, write):
        path = write("bamboogle.csv.gz", 'Question,Answer\r\nWho?,"me, then"\r\nWhere?,here\r\n')
        assert tuple(read_questions(path, "bamboogle")) == self.EXPECTED

    @pytest.mark.parametrize("names", [("Question", "Answer"), ("question", "answer")])
    def test_json_lines(self, write, names):
        rows = [
            dict(zip(names, row, strict=True)) for row in (("Who?", "me, then"), ("Where?", "here"))
        ]
        assert tuple(read_questions(write("b.jsonl", rows), "bamboogle")) == self.EXPECTED

    def test_blank_answer(self, write):
        path = write("b.csv", "Question,Answer\nWho?,\n")
        reject(read_questions, "bamboogle", path, "line 2, field 'Answer'")


class TestMusique:
    def test_question(self, write):
        (question,) = read_questions(write("m.jsonl", [musique_row()]), "musique")
        assert question == Question(
            id="2hop__1_2",
            text="Who presides over the country of Paris?",
            answers=("X", "Mr X"),
            dataset="musique",
            kind="2hop",
            supporting=(PARIS_ID, FRANCE_ID),
            hops=(
                Hop("Paris country", "France", PARIS_ID),
                Hop("president of France", "X", FRANCE_ID),
            ),
        )

    def test_documents_are_yielded_once_in_file_order(self, write):
        path = write("m.jsonl", [musique_row(), musique_row(id="2hop__3_4")])
        documents = list(read_documents(path, "musique"))
        assert [d.id for d in documents] == [OTHER_ID, FRANCE_ID, PARIS_ID]
        assert documents[2] == Document(PARIS_ID, *PARIS)

    def test_references(self):
        steps = [("A >> b", "x #2"), ("c of #1 and #2", "y"), ("#2 #1 #10 #3", "z")]
        assert [h.query for h in resolve_hops(steps)] == [
            "A b",
            "c of x #2 and #2",
            "y x #2 #10 #3",
        ]
        assert resolve_hops([]) == ()

    def test_repeated_id(self, write):
        reject(
            read_questions, "musique", write("m.jsonl", [musique_row()] * 2), "line 2, field 'id'"
        )


class TestHotpotQA:
    EXPECTED = Question(
        "5a",
        "Are Paris and Rome cities?",
        ("yes",),
        "hotpotqa",
        "",
        "comparison",
        (OTHER_ID, PARIS_ID),
    )

    @pytest.mark.parametrize("name", ["h.json", "h.jsonl"])
    @pytest.mark.parametrize("layout", [lambda row: row, hub_row])
    def test_both_layouts_in_both_containers(self, write, name, layout):
        path = write(name, [layout(hotpot_row())])
        assert list(read_questions(path, "hotpotqa")) == [self.EXPECTED]
        assert [d.id for d in read_documents(path, "hotpotqa")] == [PARIS_ID, FRANCE_ID, OTHER_ID]

    def test_evidence_outside_the_context_is_unknown(self, write):
        row = hotpot_row(supporting_facts=[["Rome", 0], ["Berlin", 0]])
        (question,) = read_questions(write("h.json", [row]), "hotpotqa")
        assert question.supporting == ()


class TestTwoWiki:
    EXPECTED = Question(
        id="13f",
        text="Who presides over the country of Paris?",
        answers=("X",),
        dataset="2wikimultihopqa",
        kind="compositional",
        supporting=(PARIS_ID, FRANCE_ID),
        hops=(Hop("Paris country", "France", PARIS_ID), Hop("France president", "X", FRANCE_ID)),
    )

    @staticmethod
    def stringly(row):
        nested = ("context", "supporting_facts", "evidences")
        return row | {field: json.dumps(row[field]) for field in nested}

    @pytest.mark.parametrize("layout", [lambda row: row, hub_row, stringly])
    def test_layouts(self, write, layout):
        path = write("2.json", [layout(twowiki_row())])
        assert list(read_questions(path, "2wikimultihopqa")) == [self.EXPECTED]
        assert [d.id for d in read_documents(path, "2wikimultihopqa")] == [
            OTHER_ID,
            PARIS_ID,
            FRANCE_ID,
        ]

    def test_hops_find_titles_with_a_parenthesis_and_never_guess(self, write):
        row = twowiki_row(
            context=[["Get Low (song)", ["A song."]], ["John (a)", ["A."]], ["John (b)", ["B."]]],
            supporting_facts=[["Get Low (song)", 0], ["John (a)", 0], ["John (b)", 0]],
            evidences=[["Get Low", "by", "X"], ["John", "born", "Y"], ["Mary", "born", "Z"]],
        )
        (question,) = read_questions(write("2.json", [row]), "2wikimultihopqa")
        assert [h.document_id for h in question.hops] == [question.supporting[0], "", ""]

    def test_evidences_may_be_absent(self, write):
        (question,) = read_questions(
            write("2.json", [twowiki_row(evidences=None)]), "2wikimultihopqa"
        )
        assert question.hops == ()


class TestFlashRAG:
    def test_questions(self, write):
        row = {"id": "dev_0", "question": "Who?", "golden_answers": ["a", "b"]}
        path = write(
            "f.jsonl", [row | {"metadata": {"type": "bridge"}}, row | {"id": 1, "metadata": None}]
        )
        assert list(read_questions(path, "flashrag")) == [
            Question("dev_0", "Who?", ("a", "b"), kind="bridge"),
            Question("1", "Who?", ("a", "b")),
        ]

    def test_corpus(self, write):
        contents = [
            '"Aaron"\nAaron is ...',
            "Plain\n two\nlines",
            "no title",
            '"\ntext',
            '"A "B" C"\n',
        ]
        path = write("c.jsonl", [{"id": str(i), "contents": c} for i, c in enumerate(contents)])
        assert list(read_documents(path, "flashrag")) == [
            Document("0", "Aaron", "Aaron is ..."),
            Document("1", "Plain", " two\nlines"),
            Document("2", "", "no title"),
            Document("3", '"', "text"),
            Document("4", 'A "B" C', ""),
        ]

    @pytest.mark.parametrize("bad", [[], [""], None, [True], True])
    def test_bad_answers(self, write, bad):
        path = write("f.jsonl", [{"id": "0", "question": "Who?", "golden_answers": bad}])
        reject(read_questions, "flashrag", path, "line 1, field 'golden_answers'")

    @pytest.mark.parametrize("bad", [{"id": 1.5, "contents": "x"}, {"id": "1", "text": "x"}])
    def test_bad_passages(self, write, bad):
        path = write("c.jsonl", [{"id": "0", "contents": "x"}, bad])
        missing = "id" if "contents" in bad else "contents"
        reject(read_documents, "flashrag", path, f"line 2, field '{missing}'")


class TestR1Searcher:
    def test_questions(self, write):
        rows = [{"idx": 7, "question": "Who?", "answer": "me", "gen_text_store": ""}]
        path = write("r.jsonl", [*rows, {"question": "Where?", "answer": "here"}])
        assert list(read_questions(path, "r1_searcher")) == [
            Question("7", "Who?", ("me",)),
            Question("3764ad9301c4", "Where?", ("here",)),
        ]

    def test_repeated_id(self, write):
        rows = [{"idx": 7, "question": "Who?", "answer": "me"}] * 2
        reject(read_questions, "r1_searcher", write("r.jsonl", rows), "line 2, field 'id'")


class TestHippoRAG:
    def test_rows_keep_the_shape_of_their_dataset(self, write):
        short = {
            "question": "Which?",
            "answer": "X",
            "paragraphs": [{"title": OTHER[0], "text": OTHER[1]}],
        }
        path = write("h.json", [musique_row(), hotpot_row(), twowiki_row(), short])
        questions = list(read_questions(path, "hipporag"))
        assert [q.dataset for q in questions] == ["", "hotpotqa", "2wikimultihopqa", ""]
        assert [len(q.supporting) for q in questions] == [2, 2, 2, 1]
        assert questions[3].id == "35c4467a49b4"  # printf 'Which?' | sha1sum | cut -c-12
        documents = [d.id for d in read_documents(path, "hipporag")]
        assert documents == [OTHER_ID, FRANCE_ID, PARIS_ID]

    @pytest.mark.parametrize("ending", ["", ".xz"])
    def test_both_corpus_layouts_agree(self, write, ending):
        listed = [{"title": t, "text": x} for t, x in (PARIS, FRANCE)]
        titled = {
            "Paris": ["Paris is the capital", " of France."],
            "France": ["France is a country.", " Its president is X."],
        }
        expected = [Document(PARIS_ID, *PARIS), Document(FRANCE_ID, *FRANCE)]
        assert list(read_documents(write(f"list.json{ending}", listed), "hipporag")) == expected
        assert list(read_documents(write(f"dict.json{ending}", titled), "hipporag")) == expected

    def test_bad_rows(self, write):
        question = {"question": "a", "answer": "b", "paragraphs": []}
        path = write("h.json", [question, {"question": "a"}])
        reject(read_questions, "hipporag", path, "record 2, field 'paragraphs'")
        path = write("c.json", {"A": ["a"], "B": "b"})
        reject(read_documents, "hipporag", path, "record 2, field 'B.sentences'")


class TestNative:
    def test_questions(self, write):
        full = {
            "id": "1",
            "dataset": "mine",
            "split": "dev",
            "question": "Who?",
            "answers": ["a", "b"],
            "supporting": ["x", "y"],
            "kind": "2hop",
            "source": "ignored",
            "decomposition": [
                {"question": "A >> b", "answer": "c"},
                {"question": "#1 >> d", "answer": "a"},
            ],
        }
        least = {"id": 2, "question": "Where?", "answers": ["here"]}
        assert list(read_questions(write("n.jsonl", [full, least]), "native")) == [
            Question(
                "1",
                "Who?",
                ("a", "b"),
                "mine",
                "dev",
                "2hop",
                ("x", "y"),
                (Hop("A b", "c"), Hop("c d", "a")),
            ),
            Question("2", "Where?", ("here",)),
        ]

    def test_documents(self, write):
        rows = [
            {"id": "p1", "title": "T", "text": "kept  as it is\n"},
            {"title": "Paris", "n": 0, "text": PARIS[1]},
        ]
        assert list(read_documents(write("p.jsonl", rows), "native")) == [
            Document("p1", "T", "kept  as it is\n"),
            Document(PARIS_ID, *PARIS),
        ]


BAD_ROWS = {
    ("musique", musique_row): [
        ({"answerable": False}, "'answerable'.*MuSiQue-Full"),
        ({"answer": ""}, "'answer'"),
        ({"answer_aliases": [""]}, "'answer_aliases'"),
        ({"answer_aliases": True}, "'answer_aliases'"),
        ({"question": None}, "'question'"),
        ({"id": None}, "'id'"),
        ({"paragraphs": []}, "'paragraphs'"),
        (
            {"paragraphs": [{"title": "A", "paragraph_text": 1}]},
            r"paragraphs\[0\].paragraph_text",
        ),
        ({"paragraphs": [{"idx": "0", "text": "a"}]}, r"paragraphs\[0\].idx"),
        ({"paragraphs": [{"idx": 1, "text": "a"}] * 2}, r"paragraphs\[1\].idx"),
        (
            {
                "question_decomposition": [
                    {"question": "a", "answer": "b", "paragraph_support_idx": 9}
                ]
            },
            r"question_decomposition\[0\].paragraph_support_idx",
        ),
    ],
    ("hotpotqa", hotpot_row): [
        ({"answer": " "}, "'answer'"),
        ({"context": "x"}, "'context'"),
        ({"context": [["Paris", "no list"]]}, "'context'"),
        ({"context": {"title": ["a"], "sentences": []}}, "two lists of equal length"),
        ({"context": {"title": ["a"]}}, "lists called title and sentences or content"),
        ({"supporting_facts": [["Rome"]]}, "'supporting_facts'"),
        ({"supporting_facts": None}, "'supporting_facts'"),
        ({"type": 3}, "'type'"),
        ({"_id": ""}, "'_id'"),
    ],
    ("2wikimultihopqa", twowiki_row): [
        ({"evidences": [["a", "b"]]}, "'evidences'"),
        ({"evidences": "[['a', 'b', 'c']]"}, "'evidences'.*string of JSON"),
        ({"context": "nothing"}, "'context'"),
    ],
    ("native", native_row): [
        ({"answers": []}, "at least one answer"),
        ({"supporting": "x"}, "'supporting'"),
        ({"decomposition": [{"question": "a"}]}, r"'decomposition\[0\].answer'"),
        ({"split": 1}, "'split'"),
    ],
}


@pytest.mark.parametrize(
    ("layout", "row", "changes", "message"),
    [(*source, *case) for source, cases in BAD_ROWS.items() for case in cases],
)
def test_bad_rows_are_named_by_line_and_field(write, layout, row, changes, message):
    path = write("rows.jsonl", [row(), row(**changes)])
    reject(read_questions, layout, path, f"line 2, field .*{message}")
