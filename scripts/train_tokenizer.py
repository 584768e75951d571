"""Train the bundled tokenizer: byte-level BPE of 1,024 ids on the procedural world.

    python scripts/train_tokenizer.py            # writes search_env/tokens/world_1k.json
    python scripts/train_tokenizer.py --check    # fails if the committed file is not what comes out

It reads articles, questions and oracle episodes (so that tags and prompts are short) of three
worlds that nobody trains or evaluates on. Digits stay single, so numbers are copied digit by digit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from search_env.protocols.protocol import Protocol
from search_env.protocols.registry import get_protocol
from search_env.tokens.tokenizer import END_OF_TEXT
from search_env.types import Question, TagRole
from search_env.worlds.encyclopaedia import World

ASSET = Path(__file__).parents[1] / "search_env" / "tokens" / "world_1k.json"
SIZE = 1024
SEEDS = (9001, 9002, 9003)
PROTOCOLS = ("r1-searcher", "search-r1")


def texts() -> Iterator[str]:
    """Yield the training texts, always the same."""
    for seed in SEEDS:
        world = World(articles=2000, seed=seed, split="train")
        by_id = {document.id: document for document in world.documents()}
        yield from (f"{d.title}   {d.text}" for d in by_id.values())
        for question in world.questions(600, seed=seed):
            for name in PROTOCOLS:
                yield from episode(get_protocol(name), question, by_id)


def episode(protocol: Protocol, question: Question, by_id: dict) -> Iterator[str]:
    """Yield the pieces of an oracle episode as policy and environment write them."""
    query, answer = protocol.pair(TagRole.TOOL), protocol.pair(TagRole.ANSWER)
    yield from (text for text, _ in protocol.prompt_pieces(question.text, "base"))
    for hop in question.hops:
        yield f"{query.open} {hop.query} {query.close}"
        body = protocol.document_text(by_id[hop.document_id])
        rank = protocol.document_rank.replace("{rank}", "1")
        yield f"{protocol.documents_prefix}{rank}{body}{protocol.documents_suffix}"
    yield f"{protocol.pair(TagRole.REASON).close}\n\n{answer.open} {question.answers[0]} "
    yield answer.close


def trained() -> Tokenizer:
    """Return the tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def main() -> None:
    """Write the file, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    text = trained().to_str(pretty=False) + "\n"
    if not check:
        ASSET.parent.mkdir(exist_ok=True)
        ASSET.write_text(text, "utf-8")
    elif ASSET.read_text("utf-8") != text:
        sys.exit(f"Expected {ASSET.name} to be what this script makes, got another. Run it again.")
    print(f"{ASSET.name}: {len(text)} bytes")


if __name__ == "__main__":
    main()
