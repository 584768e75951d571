"""Texts to vectors, beside an independent forward pass with padding and masks."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.dense import encoder as module
from search_env.retrieval.dense.card import EncoderCard
from search_env.retrieval.dense.encoder import Encoder, batches
from search_env.types import Document
from tests.retrieval.dense.conftest import (
    WORDS,
    as_sentence_transformer,
    documents,
    save_encoder,
    save_tokenizer,
)

TEXTS = [document.text for document in documents(40)] + ["", "ulm", "ulm " * 100, "zürich 東京"]


def reference(folder, texts, card):
    """Encode one padded batch with a mask, as the models' pages do."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=card.max_length, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model.eval()(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"]
    if card.pooling == "mean":
        masked = hidden * mask[:, :, None]
        pooled = masked.sum(1) / mask.sum(1, keepdim=True)
    elif card.pooling == "cls":
        pooled = hidden[:, 0]
    else:
        pooled = hidden[torch.arange(len(texts)), mask.sum(1) - 1]
    if card.normalize:
        pooled = pooled / pooled.norm(dim=1, keepdim=True)
    return pooled.numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_equal_to_a_padded_forward_pass(model, pooling, normalize):
    card = EncoderCard(pooling, normalize, max_length=32)
    vectors = Encoder(model, card, batch_tokens=64).encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(vectors, reference(model, TEXTS, card), atol=1e-5)


@pytest.mark.parametrize("kind", ["Qwen3", "Roberta", "DistilBert", "MPNet", "XLMRoberta"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_other_families(tmp_path, kind, pooling):
    count = save_tokenizer(tmp_path)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=count,
        intermediate_size=64,
        max_position_embeddings=70,
        pad_token_id=0,
        **(
            {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
            if kind == "DistilBert"
            else settings
        ),
        **({"num_key_value_heads": 2, "head_dim": 8} if kind == "Qwen3" else {}),
    )
    torch.manual_seed(3)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
    card = EncoderCard(pooling, max_length=48)
    vectors = Encoder(tmp_path, card).encode(TEXTS)
    np.testing.assert_allclose(vectors, reference(tmp_path, TEXTS, card), atol=1e-5)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    config = transformers.T5Config(
        vocab_size=save_tokenizer(tmp_path), d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8
    )
    transformers.T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="got t5, which has both"):
        Encoder(tmp_path, EncoderCard("mean"))


def test_queries_and_passages_have_their_prefixes(model):
    encoder = Encoder(model, EncoderCard("mean", True, "query : ", "passage : ", max_length=48))
    ulm = Document("1", "ulm", "a town")
    expected = encoder.encode(["query : where is ulm ?", "passage : ulm\na town"])
    np.testing.assert_array_equal(encoder.encode_queries(["where is ulm ?"])[0], expected[0])
    np.testing.assert_array_equal(encoder.encode_passages([ulm])[0], expected[1])


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), max_size=6), st.integers()
)
def test_a_vector_does_not_depend_on_its_neighbours(encoder, texts, seed):
    order = np.random.default_rng(seed % 2**32).permutation(len(texts))
    together = encoder.encode([texts[i] for i in order])
    assert together.shape == (len(texts), 32)
    for row, i in enumerate(order):
        np.testing.assert_allclose(together[row], encoder.encode([texts[i]])[0], atol=1e-6)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 60))
def test_batches_have_one_length_and_fit(lengths, batch_tokens):
    found = list(batches(lengths, batch_tokens))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len({lengths[i] for i in batch}) == 1
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= batch_tokens
    longest = [lengths[batch[0]] for batch in found]
    assert longest == sorted(longest, reverse=True)


def test_equal_texts_are_encoded_once(model, monkeypatch):
    encoder = Encoder(model)
    rows = []
    forward = encoder._forward
    monkeypatch.setattr(
        encoder, "_forward", lambda x: rows.append(len(x["input_ids"])) or forward(x)
    )
    vectors = encoder.encode(["ulm", "rome", "ulm"])
    assert sum(rows) == 2
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_queries_are_remembered(model, monkeypatch):
    encoder = Encoder(model)
    texts, encode = [], encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda missing: texts.extend(missing) or encode(missing))
    first = encoder.encode_queries(["ulm", "rome", "ulm"])
    again = encoder.encode_queries(["rome", "paris", "ulm"])
    assert texts == ["ulm", "rome", "paris"]
    np.testing.assert_array_equal(again[[2, 0]], first[:2])
    assert encoder.encode_queries([]).shape == (0, 32)


def test_lone_surrogates_are_text(encoder):
    assert np.isfinite(encoder.encode(["\udcff", "a \ud800 b"])).all()


def test_threads_share_an_encoder(encoder):
    expected, found = encoder.encode(TEXTS), {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: encoder.encode(TEXTS)}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[i], expected) for i in range(4))


def test_bfloat16_is_near(model):
    exact, near = Encoder(model).encode(TEXTS), Encoder(model, dtype="bf16").encode(TEXTS)
    assert near.dtype == np.float32
    assert 0 < np.abs(exact - near).max() < 0.05


def test_numbers_that_are_not_finite_are_an_error(tmp_path):
    folder = save_encoder(tmp_path / "broken")
    broken = Encoder(folder, EncoderCard("mean"))
    with torch.no_grad():
        broken._model.embeddings.word_embeddings.weight[:] = float("nan")
    with pytest.raises(RetrievalError, match="Expected finite vectors"):
        broken.encode(["ulm"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "fp8"}, "Expected dtype among"),
        ({"device": "gpu"}, "Expected a device such as"),
        ({"batch_tokens": 0}, "Expected batch_tokens"),
    ],
)
def test_bad_arguments(model, options, message):
    with pytest.raises(ConfigurationError, match=message):
        Encoder(model, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there(model):
    with pytest.raises(ConfigurationError, match="Expected a GPU for 'cuda:0', got none"):
        Encoder(model, device="cuda:0")


def test_a_folder_that_transformers_cannot_load(model, tmp_path):
    folder = tmp_path / "torn"
    folder.mkdir()
    for file in model.iterdir():
        if file.is_file():
            data = file.read_bytes()
            (folder / file.name).write_bytes(data[:100] if file.suffix == ".safetensors" else data)
    with pytest.raises(ConfigurationError, match="Expected a model that transformers loads"):
        Encoder(folder, EncoderCard("mean"))


def test_a_missing_package_is_named(model, monkeypatch):
    found = module.importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: None if name == "faiss" else found(name)
    )
    with pytest.raises(
        ConfigurationError, match=r'no faiss. Run `pip install "search-env\[dense\]"'
    ):
        Encoder(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
def test_equal_to_sentence_transformers(tmp_path, pooling):
    package = pytest.importorskip("sentence_transformers")
    folder = as_sentence_transformer(save_encoder(tmp_path / "tiny"), pooling)
    theirs = package.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(Encoder(folder, device="cpu").encode(TEXTS), theirs, atol=1e-5)
