"""Scores of pairs beside an independent forward pass with padding and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from search_env.errors import ConfigurationError, DataNotFoundError, RetrievalError
from search_env.retrieval.dense.cross_encoder import CrossEncoder
from search_env.types import Document
from tests.retrieval.dense.conftest import documents, save_encoder

QUERIES = ("who wrote hamlet ?", "ulm", "where is the river nile ? " * 6)
PAIRS = [(query, document) for query in QUERIES for document in documents(20)]
PAIRS.append(("ulm", Document("1", "", "town " * 90)))


def reference(folder, pairs, max_length=64):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    passages = [f"{d.title}\n{d.text}" if d.title else d.text for _, d in pairs]
    inputs = tokenizer(
        [query for query, _ in pairs],
        passages,
        padding=True,
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        return model(**inputs).logits[:, 0].numpy()


@pytest.mark.parametrize("max_length", [None, 24])
def test_equal_to_a_padded_forward_pass(reranker, max_length):
    scores = CrossEncoder(reranker, max_length=max_length, batch_tokens=100).score(PAIRS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reference(reranker, PAIRS, max_length or 64), atol=1e-5)
    assert scores.std() > 0.01


def test_a_pairs_score_does_not_depend_on_its_neighbours(reranker):
    model = CrossEncoder(reranker)
    together = model.score(PAIRS)
    other = CrossEncoder(reranker)
    alone = [other.score([pair])[0] for pair in PAIRS]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(model.score([])) == 0


def test_a_pairs_score_is_remembered(reranker):
    model = CrossEncoder(reranker)
    together = model.score(PAIRS)
    alone = [model.score([pair])[0] for pair in PAIRS]
    np.testing.assert_array_equal(together, alone)


def test_models_of_no_use(model, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"got no config\.json"):
        CrossEncoder(tmp_path)
    with pytest.raises(ConfigurationError, match=r"one output in .*, got 3"):
        CrossEncoder(save_encoder(tmp_path / "three", head=True, num_labels=3))


def test_scores_that_are_not_finite_are_an_error(reranker):
    broken = CrossEncoder(reranker)
    with torch.no_grad():
        broken._model.classifier.bias[:] = float("inf")
    with pytest.raises(RetrievalError, match=r"Expected finite scores .* got inf for 'who wrote"):
        broken.score(PAIRS[:2])
