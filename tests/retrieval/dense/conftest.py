"""Tiny encoders, made of configurations on the fly, and a corpus with its embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("faiss")
transformers = pytest.importorskip("transformers")

from search_env.retrieval.dense.embeddings import Embeddings, embed  # noqa: E402
from search_env.retrieval.dense.encoder import Encoder  # noqa: E402
from search_env.types import Document  # noqa: E402

WORDS = """
    a an and at by capital city danube france germany hall hamlet in is italy nile of old on paris
    poet query passage river rome sea shakespeare the town ulm who wrote where : ? .
""".split()  # noqa: SIM905
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def save_tokenizer(folder: Path) -> int:
    """Write a WordPiece tokenizer with the letters as pieces; return its number of ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in range(97, 123)]
    tokens = dict.fromkeys([*SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters)])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    return len(vocabulary)


def save_encoder(folder: Path, *, seed: int = 0, head: bool = False, **changes: int) -> Path:
    """Write a BERT of two layers with random weights; with ``head``, one score a pair."""
    import torch

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_labels": 1, **changes}
    config = transformers.BertConfig(
        vocab_size=save_tokenizer(folder),
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,  # so that texts differ by much
        **size,
    )
    kind = transformers.BertForSequenceClassification if head else transformers.BertModel
    kind(config).save_pretrained(folder)
    return folder


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def as_sentence_transformer(folder: Path, pooling: str = "mean_tokens") -> Path:
    """Add the files of sentence-transformers: a pooling, and normalisation."""
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    prefix = "sentence_transformers.models."
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": prefix + kind}
        for i, kind in enumerate(kinds)
    ]
    write(folder / "modules.json", modules)
    modes = ("mean_tokens", "cls_token", "max_tokens", "lasttoken")
    flags = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **flags})
    write(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The folder of a tiny encoder with mean pooling."""
    return as_sentence_transformer(save_encoder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="session")
def reranker(tmp_path_factory) -> Path:
    """The folder of a tiny cross-encoder."""
    return save_encoder(tmp_path_factory.mktemp("models") / "rerank", seed=5, head=True)


@pytest.fixture(scope="session")
def encoder(model) -> Encoder:
    return Encoder(model)


def documents(count: int = 300) -> list[Document]:
    """Return passages of the vocabulary's words, the same ones every time, each another one."""
    import numpy as np

    rng = np.random.default_rng(0)
    words = [word for word in WORDS if word.isalpha()]
    return [
        Document(f"p{i}", str(rng.choice(words)), " ".join(rng.choice(words, rng.integers(3, 12))))
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def corpus() -> list[Document]:
    return documents()


@pytest.fixture(scope="session")
def embeddings(encoder, corpus, tmp_path_factory) -> Embeddings:
    """Vectors of the corpus in blocks of 64."""
    folder = tmp_path_factory.mktemp("embeddings") / "tiny"
    embed(corpus, folder, encoder, stored="float32", block=64)
    return Embeddings(folder)
