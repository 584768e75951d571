"""Query and passage analysis must be that of bm25s."""

import pickle

import bm25s
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from search_env.retrieval.bm25.terms import EnglishTerms

WORDS = st.sampled_from(
    ["The", "the", "runs", "running", "who", "don't", "co-operate", "naïve", "Straße", "İstanbul"]
)
TEXTS = st.one_of(
    st.text(), st.lists(WORDS).map(" ".join), st.text("aeinrst -'.\n_é1ѐлка東京", max_size=60)
)
TERMS = EnglishTerms()


@given(TEXTS)
def test_equal_to_bm25s_tokenize(text):
    expected = bm25s.tokenize(
        [text],
        stopwords="english",
        stemmer=Stemmer.Stemmer("english"),
        return_ids=False,
        show_progress=False,
    )
    assert TERMS(text) == expected[0]


def test_hand_written_cases():
    assert TERMS("The CITIES of the Danube, running; cities!") == ["citi", "danub", "run", "citi"]
    assert TERMS("a I x the of") == []
    assert TERMS("") == []


def test_pickles_with_its_stopwords():
    terms = pickle.loads(pickle.dumps(EnglishTerms(["danube"])))
    assert terms("the Danube cities") == ["the", "citi"]
