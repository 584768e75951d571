"""Tables of strings."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from search_env.retrieval.storage.string_table import StringTable

# Lone surrogates included: JSON can contain them.
TEXTS = st.text(st.characters(exclude_categories=()))


@given(st.lists(TEXTS))
def test_strings_round_trip(strings):
    for table in (
        StringTable.from_strings(strings),
        pickle.loads(pickle.dumps(StringTable.from_strings(strings))),
    ):
        assert [table[i] for i in range(len(table))] == strings


@given(st.lists(TEXTS, unique=True), TEXTS)
def test_find_agrees_with_list_index(strings, other):
    strings.sort()
    table = StringTable.from_strings(strings)
    assert [table.find(string) for string in strings] == list(range(len(strings)))
    assert table.find(other) == (strings.index(other) if other in strings else None)
