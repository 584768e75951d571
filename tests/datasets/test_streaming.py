"""The streaming readers: equal to json.load, exact about errors, small in memory."""

import gzip
import json
import lzma
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.datasets import json_stream as files
from search_env.datasets.containers import MAPPING, object_kind
from search_env.datasets.streaming import (
    first_character,
    iter_json_lines,
    iter_json_list,
    iter_json_mapping,
    iter_rows,
)
from search_env.datasets.tables import iter_table
from search_env.errors import DataFormatError, DataNotFoundError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)
LAYOUTS = st.sampled_from(
    [
        {},
        {"indent": 2},
        {"ensure_ascii": False},
        {"separators": (",", ":")},
        {"separators": (" ,\n", "\t: ")},
    ]
)


@given(rows=st.lists(OBJECTS, min_size=1, max_size=6), layout=LAYOUTS, chunk=st.integers(1, 40))
def test_list_stream_equals_json_load_at_any_chunk_size(tmp_path_factory, rows, layout, chunk):
    path = tmp_path_factory.mktemp("list") / "rows.json"
    path.write_text(json.dumps(rows, **layout), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        stream = list(iter_json_list(path))
    assert [row.data for row in stream] == rows
    assert [row.line for row in stream] == list(range(1, len(rows) + 1))


@given(pairs=st.dictionaries(st.text(), JSON, min_size=1, max_size=6), chunk=st.integers(1, 40))
def test_mapping_stream_equals_json_load_at_any_chunk_size(tmp_path_factory, pairs, chunk):
    path = tmp_path_factory.mktemp("mapping") / "pairs.json"
    path.write_text(json.dumps(pairs, indent=1), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        rows = list(iter_json_mapping(path))
    assert [(row.data["title"], row.data["sentences"]) for row in rows] == list(pairs.items())


@pytest.mark.parametrize("number", [12, -1.5, 2.5e-07, 1e300, -3e-05])
def test_numbers_may_be_cut_anywhere(tmp_path, monkeypatch, number):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"one": number, "two": [number], "three": number}))
    for chunk in range(1, 60):
        monkeypatch.setattr(files, "CHUNK", chunk)
        assert [row.data["sentences"] for row in iter_json_mapping(path)] == [
            number,
            [number],
            number,
        ]


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".dat"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_compression_is_transparent(write, name, ending):
    rows = [{"a": "é"}, {"a": 2}]
    assert [r.data for r in iter_rows(write(name + ending, rows))] == rows


def test_compression_is_detected_from_content_not_from_the_name(write):
    data = gzip.compress(b'{"a": 1}\n')
    assert [r.data for r in iter_rows(write("rows.jsonl", data))] == [{"a": 1}]
    assert [r.data for r in iter_rows(write("more.jsonl", gzip.compress(data[:0]) + data))] == [
        {"a": 1}
    ]


def test_byte_order_marks_blank_lines_and_odd_separators(write):
    text = '\ufeff{"a": "x\u2028y"}\r\n\n  \n{"a": 2}'
    rows = list(iter_rows(write("rows.jsonl", text)))
    assert [(r.line, r.data["a"]) for r in rows] == [(1, "x\u2028y"), (4, 2)]
    assert [r.data for r in iter_rows(write("rows.json", '\ufeff [{"a": 1}] \n'))] == [{"a": 1}]


@pytest.mark.parametrize("read", [iter_rows, iter_json_list, iter_json_lines, iter_table])
def test_missing_file_and_folder(tmp_path, read):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataNotFoundError, match="Check the path"):
            next(read(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "an empty file"),
        (" \n\n", "an empty file"),
        ("[]", r"at least one row, got \[\]"),
        ("Question,Answer\n", "starts with 'Q'"),
        ('[{"a": 1}, 2]', "record 2: expected a JSON object, got 2"),
        ('[{"a": 1}, [1]]', "record 2: expected a JSON object"),
        ('[{"a": 1} {"a": 2}]', r"expected ',' at row 1, got '\{'"),
        ('[{"a": 1},]', "record 2: expected a value after the comma.*Remove the comma"),
        ('[{"a": 1}', "got the end of the file"),
        ('[{"a": 1}, {"a": "xyz', "record 2: expected valid JSON"),
        ('[{"a": 1}] [', "expected one JSON value"),
        ('[{"a": tru}]', "record 1: expected valid JSON"),
        ('{"a": 1}\n{"a": \n', r"line 2: expected JSON on one line"),
        ('{"a": 1}\n[1]\n', "line 2: expected a JSON object"),
        ('{"a": ' + "9" * 5000 + "}", "line 1: expected JSON on one line"),
        ('[{"a": ' + "9" * 5000 + "}]", "record 1: expected valid JSON"),
        ('{"a": ' + "[" * 100_000 + "}", "line 1: expected JSON on one line"),
        ("[" * 100_000, "record 1.*nested too deeply"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "line 2: expected UTF-8 text"),
        (b'[{"a": "\xff"}]', "expected UTF-8 text, got the byte 0xff"),
    ],
)
def test_damaged_json(write, content, message):
    with pytest.raises(DataFormatError, match=message) as caught:
        list(iter_rows(write("rows.json", content)))
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
@pytest.mark.parametrize("rows", ['{"a": 1}\n' * 5000, json.dumps([{"a": i} for i in range(5000)])])
def test_damaged_archives(write, compress, rows):
    whole = compress(rows.encode())
    cut = write("cut.gz.bin", whole[: len(whole) // 2])
    with pytest.raises(DataFormatError, match=r"damaged.*Download the file again"):
        list(iter_rows(cut))
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - b for b in whole[middle : middle + 8])
    with pytest.raises(DataFormatError):
        list(iter_rows(write("flipped.bin", flipped + whole[middle + 8 :])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a header and rows"),
        ("Question,Answer\n", "a header and rows"),
        ("Question,Answer\nWho?\n", "line 2: expected 2 columns"),
        ("Question,Answer\nWho?,a,b\n", "line 2: expected 2 columns"),
        ('Question,Answer\n"Who?"x,a\n', "line 2: expected a CSV row"),
        ('Question,Answer\nWho?,"a\n', "line 2: expected a CSV row"),
    ],
)
def test_damaged_csv(write, content, message):
    with pytest.raises(DataFormatError, match=message):
        list(iter_table(write("rows.csv", content)))


def test_csv_quotes_newlines_and_byte_order_mark(write):
    path = write("rows.csv", '\ufeffQuestion,Answer\r\n"Who, then\nwhere?","say ""x"""\r\n')
    (row,) = iter_table(path)
    assert row.data == {"Question": "Who, then\nwhere?", "Answer": 'say "x"'}
    assert row.line == 3


def test_a_mapping_is_no_file_of_lines(write):
    assert object_kind(write("corpus.json", {"Title": ["Sentence."]})) == MAPPING
    assert object_kind(write("corpus.json.xz", {"Title": []})) == MAPPING
    assert object_kind(write("rows.json", '{"title": "Title", "text": ["x"]}')) != MAPPING
    assert object_kind(write("rows.jsonl", '{"titles": ["x"]}')) != MAPPING
    assert object_kind(write("list.json", [{"a": [1]}])) != MAPPING


@pytest.mark.parametrize("content", ['{"a": [1], 2: [3]}', '{"a": [1], "b" [3]}', '{"a": [1]'])
def test_damaged_mapping(write, content):
    with pytest.raises(DataFormatError):
        list(iter_json_mapping(write("corpus.json", content)))


def test_first_character_skips_any_amount_of_white_space(write):
    assert first_character(write("x.json", " \n" * 200_000 + "[")) == "["


@pytest.mark.parametrize("container", ["lines", "list", "mapping"])
def test_memory_stays_constant(tmp_path, container):
    path, rows = tmp_path / "big.json", 30_000
    text = "x" * 1000
    with open(path, "w", encoding="utf-8") as file:
        file.write({"lines": "", "list": "[", "mapping": "{"}[container])
        for i in range(rows):
            comma = "," if i and container != "lines" else ""
            name = f'"{i}": ' if container == "mapping" else ""
            value = json.dumps([text] if container == "mapping" else {"id": i, "text": text})
            file.write(f"{comma}{name}{value}\n")
        file.write({"lines": "", "list": "]", "mapping": "}"}[container])
    read = iter_json_mapping if container == "mapping" else iter_rows
    tracemalloc.start()
    try:
        assert sum(1 for _ in read(path)) == rows
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 30_000_000
    assert peak < 1_500_000


def test_an_error_early_in_a_long_list_is_raised_before_the_rest_is_read(tmp_path):
    path = tmp_path / "big.json"
    path.write_text('[{"a": 1}, {"a" 2}, ' + '{"a": 3}, ' * 2_000_000 + "{}]", encoding="utf-8")
    tracemalloc.start()
    try:
        with pytest.raises(DataFormatError, match="record 2: expected valid JSON"):
            list(iter_json_list(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000


def test_a_long_record_costs_linear_time(tmp_path):
    path = tmp_path / "long.json"
    path.write_text(json.dumps([{"a": "x" * 5_000_000}, {"a": 1}]), encoding="utf-8")
    assert [len(str(r.data["a"])) for r in iter_json_list(path)] == [5_000_000, 1]
