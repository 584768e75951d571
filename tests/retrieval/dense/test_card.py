"""What a folder says of its encoder: four places, in their order."""

from __future__ import annotations

import json

import pytest

from search_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from search_env.retrieval.dense.card import CARD_NAME, EncoderCard, fingerprint, read_card
from search_env.types import Document
from tests.retrieval.dense.conftest import as_sentence_transformer, save_encoder, write


def folder_of(tmp_path, name, **config):
    write(tmp_path / name / "config.json", {"max_position_embeddings": 512, **config})
    return tmp_path / name


BGE = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("e5-base-v2", EncoderCard("mean", True, "query: ", "passage: ")),
        ("multilingual-e5-large", EncoderCard("mean", True, "query: ", "passage: ")),
        ("bge-large-en-v1.5", EncoderCard("cls", True, BGE)),
        ("bge-m3", EncoderCard("cls")),
        ("all-MiniLM-L6-v2", EncoderCard("mean")),
        ("contriever-msmarco", EncoderCard("mean", normalize=False)),
    ],
)
def test_known_families(tmp_path, name, card):
    assert read_card(folder_of(tmp_path, name)) == card


def test_qwen3_pools_the_last_token_and_instructs(tmp_path):
    card = read_card(folder_of(tmp_path, "Qwen3-Embedding-0.6B"))
    assert card.pooling == "last"
    assert card.query_text("who?").startswith("Instruct: Given a web search query, retrieve")
    assert card.query_text("who?").endswith("\nQuery:who?")


def test_the_name_may_stand_in_a_hub_cache(tmp_path):
    folder = folder_of(tmp_path, "models--intfloat--e5-small-v2/snapshots/0f1e")
    assert read_card(folder).query_prefix == "query: "


def test_the_name_may_stand_in_the_configuration(tmp_path):
    folder = folder_of(tmp_path, "mine", _name_or_path="BAAI/bge-small-en-v1.5")
    assert read_card(folder).query_prefix == BGE


@pytest.mark.parametrize("name", ["mine", "multilingual-e5-large-instruct"])
def test_no_pooling_is_guessed(tmp_path, name):
    folder = folder_of(tmp_path, name)
    with pytest.raises(
        ConfigurationError, match=r"Expected the pooling of .* Write .*" + CARD_NAME
    ):
        read_card(folder)


@pytest.mark.parametrize(
    ("mode", "pooling"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")]
)
def test_files_of_sentence_transformers(tmp_path, mode, pooling):
    folder = as_sentence_transformer(folder_of(tmp_path, "mine"), mode)
    assert read_card(folder) == EncoderCard(pooling, max_length=48)


def test_the_new_spelling_of_the_pooling(tmp_path):
    folder = as_sentence_transformer(folder_of(tmp_path, "mine"))
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "cls", "include_prompt": True})
    assert read_card(folder).pooling == "cls"


def test_without_a_module_that_normalises(tmp_path):
    folder = as_sentence_transformer(folder_of(tmp_path, "mine"))
    modules = json.loads((folder / "modules.json").read_text())
    write(folder / "modules.json", modules[:2])
    assert read_card(folder).normalize is False


def test_prompts_are_prefixes_and_empty_ones_state_nothing(tmp_path):
    folder = as_sentence_transformer(folder_of(tmp_path, "e5-base-v2"))
    prompts = {"query": "Q: ", "document": ""}
    write(folder / "config_sentence_transformers.json", {"prompts": prompts})
    card = read_card(folder)
    assert (card.query_prefix, card.passage_prefix) == ("Q: ", "passage: ")


def test_a_card_counts_most(tmp_path):
    folder = as_sentence_transformer(folder_of(tmp_path, "e5-base-v2"))
    write(folder / CARD_NAME, {"pooling": "cls", "max_length": 32})
    assert read_card(folder) == EncoderCard("cls", True, "query: ", "passage: ", max_length=32)
    write(tmp_path / "other.json", {"pooling": "last"})
    assert read_card(folder, tmp_path / "other.json").pooling == "last"


def test_no_card_asks_for_more_tokens_than_the_model_takes(tmp_path):
    folder = folder_of(tmp_path, "all-MiniLM-L6-v2")
    write(folder / "tokenizer_config.json", {"model_max_length": 128})
    assert read_card(folder).max_length == 128
    write(folder / CARD_NAME, {"max_length": 1000})
    assert read_card(folder).max_length == 128


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"poling": "mean"}, ConfigurationError, "Did you mean 'pooling'"),
        ({"pooling": "sum"}, ConfigurationError, "Expected pooling among"),
        ({"normalize": "yes"}, ConfigurationError, "Expected normalize to be True or False"),
        ({"query_prefix": 3}, ConfigurationError, "Expected query_prefix to be a string"),
        ({"passage_template": "{title}"}, ConfigurationError, "Expected {text} in passage"),
        ({"max_length": 2}, ConfigurationError, "Expected max_length to be an integer of at least"),
        ([1], DataFormatError, "expected a JSON object"),
    ],
)
def test_bad_cards(tmp_path, content, error, message):
    folder = folder_of(tmp_path, "all-MiniLM-L6-v2")
    write(folder / CARD_NAME, content)
    with pytest.raises(error, match=message):
        read_card(folder)


def test_other_layers_and_poolings_are_refused(tmp_path):
    folder = as_sentence_transformer(folder_of(tmp_path, "mine"), "max_tokens")
    with pytest.raises(ConfigurationError, match=r"Expected one pooling among .* got \['max_tok"):
        read_card(folder)
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "cls", "include_prompt": False})
    with pytest.raises(ConfigurationError, match="pools its prompt too"):
        read_card(folder)
    write(
        folder / "modules.json",
        [{"path": "", "type": "x.Transformer"}, {"path": "2", "type": "x.Dense"}],
    )
    with pytest.raises(ConfigurationError, match=r"got 'Dense'.*not supported"):
        read_card(folder)
    write(folder / "modules.json", {"a": 1})
    with pytest.raises(DataFormatError, match="a list of modules"):
        read_card(folder)


def test_a_missing_folder_or_card(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"got no config\.json"):
        read_card(tmp_path / "nowhere")
    with pytest.raises(DataNotFoundError, match="Expected a JSON file at"):
        read_card(folder_of(tmp_path, "all-MiniLM-L6-v2"), tmp_path / "nowhere.json")


def test_passages_are_written_by_the_template():
    card = EncoderCard("mean", passage_prefix="passage: ", passage_template='"{title}"\n{text}')
    assert (
        card.passage_text(Document("1", "Ulm {text}", "A {title}."))
        == 'passage: "Ulm {text}"\nA {title}.'
    )
    assert card.passage_text(Document("1", "", "A town.")) == "passage: A town."


def test_fingerprints_tell_models_apart(tmp_path):
    one = save_encoder(tmp_path / "one", seed=1)
    same = save_encoder(tmp_path / "same", seed=1)
    other = save_encoder(tmp_path / "other", seed=2)
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
