"""Random arguments: protocols, tokenizers, budgets, datasets, retrievers, rewards."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from search_env.envs.config import EnvComponents, EnvConfig
from search_env.errors import ProtocolError
from search_env.protocols.protocol import Consequence, Protocol
from search_env.protocols.r1_searcher import without_quotes
from search_env.protocols.r1_searcher_plus_plus import without_style
from search_env.protocols.registry import get_protocol, register_protocol
from search_env.protocols.search_r1 import with_question_mark
from search_env.retrieval.registry import register_retriever
from search_env.rewards import Reward, register_reward
from search_env.tokens.tag_automaton import build_tag_automaton
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import SEARCH, FaultKind, TagPair, TagRole, Transcript
from search_env.worlds.diagnostics import DIAGNOSTIC_DATASETS
from tests.fuzz.retrievers import HARMLESS, MOODS, Moody, number_of

RETRIEVER, TAME, PROTOCOL, REWARD = "fuzz", "fuzz-tame", "fuzz", "fuzz-moody"
_REAL = ("gpt2.json", "smollm2.json", "qwen2.json.xz")
_REWARDS = ("f1", "exact-match", "cover-exact-match", "answer-found", "evidence-recall")
_WORLD = {"articles": 100, "questions": 40}


@dataclass(frozen=True)
class Drawn:
    """The arguments of a case, all JSON, and the objects that their names stand for."""

    arguments: dict[str, Any]
    protocol: Protocol  # with the limits of the arguments
    retriever: Moody | None  # None: the dataset's own

    @property
    def raises(self) -> bool:
        """Whether an error of the retriever is raised."""
        return self.arguments["on_retrieval_error"] == "raise"


def draw(rng: random.Random, *, large: bool = True) -> Drawn:
    """Return arguments that an environment accepts; ``large`` allows the real vocabularies.

    Protocol, retriever and reward are registered under names of the fuzzer, in place of those of
    the case before.
    """
    tokenizer, size = _draw_tokenizer(rng, large=large)
    custom = rng.random() < 0.6
    while custom:
        try:
            protocol = _draw_protocol(rng)
            build_tag_automaton(load_tokenizer("toy"), protocol.tag_texts)
            break
        except ProtocolError:  # of two random tags, one holds the other
            continue
    else:
        names = ("toy", "r1-searcher", "r1-searcher++", "search-r1")
        protocol = get_protocol(rng.choice(names))
    if custom:
        register_protocol(protocol, replace=True)
    dataset = rng.choice(("toy", "world", *DIAGNOSTIC_DATASETS))
    moody = _draw_retriever(rng)
    arguments: dict[str, Any] = {
        "dataset": dataset,
        "split": rng.choice((None, "train", "test")),
        "dataset_options": dict(_WORLD) if dataset == "world" else None,
        "protocol": protocol.name,
        "prompt": "base",
        "tokenizer": tokenizer,
        "vocab_size": size,
        "retriever": None if rng.random() < 0.25 else RETRIEVER,
        "reward": _draw_reward(rng, protocol.name),
        "action_mask": (size or 0) < 2000 and rng.random() < 0.25,
        "on_retrieval_error": rng.choice(("raise", "truncate")),
        **_draw_limits(rng, protocol),
    }
    arguments["max_tokens"] = _draw_context(rng, arguments)
    limits = {key: arguments[key] for key in ("top_k", "max_policy_tokens", "max_searches")}
    limited = protocol.limited(max_tokens=arguments["max_tokens"], **limits)
    return Drawn(arguments, limited, moody if arguments["retriever"] else None)


# Protocols.


def _draw_protocol(rng: random.Random) -> Protocol:
    roles = [TagRole.TOOL, TagRole.ANSWER, TagRole.DOCUMENTS]
    roles += [TagRole.TOOL] * (rng.random() < 0.3) + [TagRole.REASON] * rng.choice((0, 0, 1, 2))
    rng.shuffle(roles)
    style = rng.randrange(4)
    pairs = []
    for number, role in enumerate(roles):
        name = f"{role.value}_{number}"
        opening, closing = _draw_tags(rng, style, number)
        tool = SEARCH if role is TagRole.TOOL else ""
        if role is TagRole.ANSWER and rng.random() < 0.25:
            opening, closing = rng.choice(("\\boxed{", "a{", "{")), "}"
            pairs.append(TagPair(name, role, opening, closing, bracket="{"))
        else:
            pairs.append(TagPair(name, role, opening, closing, tool=tool))
    documents = next(pair for pair in pairs if pair.role is TagRole.DOCUMENTS)
    thoughts = [pair.open for pair in pairs if pair.role is TagRole.REASON]
    consequences = {kind: rng.choice(tuple(Consequence)) for kind in FaultKind}
    faults = {kind: value for kind, value in consequences.items() if rng.random() < 0.7}
    start = rng.choice(("", "", "\n", *thoughts))
    return Protocol(
        name=PROTOCOL,
        source="the fuzzer",
        tags=tuple(pairs),
        base_prompt=rng.choice(("{question}", "Q: {question}\nA:", "東京 {question} ")) + start,
        documents_prefix=rng.choice(("", "\n\n")) + documents.open + rng.choice(("", "\n")),
        document_rank=rng.choice(("", "({rank})", "Doc {rank}")),
        document_body=rng.choice(("{text}", "(Title: {title}) {text}\n", "{title}東{text}")),
        documents_suffix=documents.close + rng.choice(("", "\n\n")),
        no_documents=rng.choice(("", "None\n")),
        notice=rng.choice(("\nNot valid: " + pairs[0].open, "key1 ")),
        faults=faults,
        first_opening=rng.random() < 0.5,
        clean_question=rng.choice((str.strip, with_question_mark)),
        clean_query=rng.choice((str.strip, without_quotes, str.upper)),
        clean_answer=rng.choice((str.strip, str.strip, without_style)),
        top_k=rng.randint(1, 4),
        max_tokens=4096,
        max_policy_tokens=_maybe(rng, 1, 300),
        max_segment_tokens=_maybe(rng, 1, 120),
        max_documents_tokens=_maybe(rng, 60, 200),
        max_searches=_maybe(rng, 0, 6),
        max_turns=_maybe(rng, 0, 6),
    )


def _draw_tags(rng: random.Random, style: int, number: int) -> tuple[str, str]:
    """Return the texts of a pair: of the toy, as usual, of any letters, or with common parts."""
    letter = string.ascii_lowercase[number]
    if style == 0:
        word = ("q", "a", "d")[number % 3] * (1 + number // 3)
        return f"<{word}>", f"</{word}>"
    if style == 1:
        return f"<|begin_of_{letter}|>", f"<|end_of_{letter}|>"
    alphabet = "ab<>/" if style == 2 else "<】東\U0001f701é|"
    texts = ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 5))) for _ in range(2)]
    return texts[0], texts[1]


def _maybe(rng: random.Random, least: int, most: int) -> int | None:
    return rng.randint(least, most) if rng.random() < 0.2 else None


def _draw_limits(rng: random.Random, protocol: Protocol) -> dict[str, Any]:
    return {
        "top_k": rng.choice((None, rng.randint(1, 5))),
        "max_policy_tokens": _maybe(rng, 1, 300),
        "max_searches": _maybe(rng, 0, 6),
    }


def _draw_context(rng: random.Random, arguments: dict[str, Any]) -> int:
    """Return a ``max_tokens`` in which the prompts of all questions have room."""
    components = EnvComponents(EnvConfig(**{**arguments, "max_tokens": 30_000}))
    dynamics = components.dynamics(1)
    longest = 0
    for question in components.questions:
        dynamics.begin(0, question)
        longest = max(longest, dynamics.length(0))
    least, most = rng.choice(((1, 20), (20, 120), (120, 500), (120, 500), (300, 1200)))
    return longest + rng.randint(least, most)


# Tokenizers.


def _draw_tokenizer(rng: random.Random, *, large: bool) -> tuple[str, int | None]:
    """Return a name and a number of ids, None for the tokenizer's own."""
    kind = rng.random()
    folder = os.environ.get("SEARCH_ENV_DATA")
    if large and folder and kind < 0.04:
        name = str(Path(folder) / "tokenizers" / rng.choice(_REAL))
    elif kind < 0.3:
        name = _trained(rng.randrange(6))
    else:
        name = rng.choice(("byte", "world-1k", "toy"))
    size = load_tokenizer(name).size
    return name, rng.choice((None if size < 2000 else size, size + rng.randint(0, 70)))


@functools.cache
def _trained(seed: int) -> str:
    """Return the path of a small tokenizer whose ids hold parts of tags, often of several."""
    rng = random.Random(seed)
    parts = ("</q><a>", "<q>key1 ", "<|begin_of_a|>", "</answer>\n", "<search>", "東京", "ab<>/a")
    corpus = [" ".join(rng.choice(parts) for _ in range(5)) for _ in range(60)]
    backend = tokenizers.Tokenizer(models.BPE())
    use_regex = seed % 2 == 0
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<q>"] if seed % 3 == 0 else ["<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300 + 40 * seed,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    path = Path(_folder()) / f"trained-{seed}" / "tokenizer.json"
    path.parent.mkdir(exist_ok=True)
    backend.save(str(path))
    return str(path)


@functools.cache
def _folder() -> str:
    """Return a folder that lasts as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="search-env-fuzz-")
    _FOLDERS.append(folder)
    return folder.name


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


# Retrievers and rewards.


def _draw_retriever(rng: random.Random) -> Moody:
    moods: list[str] = []
    if rng.random() < 0.6:
        moods = rng.sample(MOODS, rng.randint(1, 3))
    rate = rng.choice((0.05, 0.3, 1.0)) if HARMLESS.issuperset(moods) else rng.choice((0.05, 0.2))
    moody = Moody(moods, rate)
    register_retriever(RETRIEVER, lambda: moody)
    register_retriever(TAME, lambda: Moody(moods, rate, tame=True))
    return moody


def moody_score(transcript: Transcript) -> dict[str, float]:
    """Pay by the tokens; of some episodes, raise."""
    number = number_of(str(transcript.tokens.tolist()))
    if number % 7 == 0:
        raise ZeroDivisionError("the episode's tokens")
    return {"moody": number % 100 / 8, "length": float(len(transcript.tokens))}


def _draw_reward(rng: random.Random, protocol: str) -> str:
    register_reward(Reward(REWARD, ("moody", "length"), moody_score), replace=True)
    names = list(_REWARDS)
    if protocol == "r1-searcher":
        names += ["r1-searcher-stage1", "r1-searcher-stage2"]
    if protocol == "search-r1":
        names += ["search-r1-em", "search-r1-format"]
    return REWARD if rng.random() < 0.05 else rng.choice(names)


def described(drawn: Drawn) -> str:
    """Return the arguments of a case for a person who has to find out what went wrong."""
    lines = [f"  {key}={value!r}" for key, value in drawn.arguments.items()]
    if drawn.retriever is not None:
        lines.append(f"  moods: {drawn.retriever.moods} at {drawn.retriever.rate}")
    if drawn.protocol.name == PROTOCOL:
        fields = dataclasses.fields(drawn.protocol)
        lines += [f"  protocol {f.name}={getattr(drawn.protocol, f.name)!r}" for f in fields]
    return "\n".join(lines)
