"""Texts without an environment: their ends, and revision as the algorithm alone does it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from search_env.agents.errors import ContextLengthError
from search_env.agents.inference.engine import Engine
from search_env.agents.rollouts.episode_queue import draw_seed
from search_env.agents.rollouts.texts import Ends, continue_texts, revise_traces
from search_env.errors import ConfigurationError
from search_env.recording.revise.retro_search import RetroSearch, retro_search
from search_env.recording.revise.settings import PLAIN
from search_env.recording.revise.steps import plain_trace
from search_env.tokens.tokenizer import load_tokenizer
from tests.recording.revise.episodes import write

BYTE = load_tokenizer("byte")
SETTINGS = replace(
    PLAIN, keywords=("a",), separator="\n", rollouts=3, least_right=1, gamma=0.5, longest=None
)


@pytest.fixture(scope="module")
def model():
    """A small model with random weights."""
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.05,
    )
    return Qwen2ForCausalLM(config)


class Letters:
    """An engine that samples some letters only; the real one does all else."""

    def __init__(self, model, rows, max_tokens=100):
        self.engine = Engine(model, rows=rows, max_tokens=max_tokens)
        self.others = np.setdiff1d(np.arange(257), [*b"b4\n."])
        self.rows, self.max_tokens = rows, max_tokens
        self.sampling = self.engine.sampling
        self.began = []

    def begin(self, rows, prompts, seeds):
        self.began += [(p.tolist(), s) for p, s in zip(prompts, seeds, strict=True)]
        self.engine.begin(rows, prompts, seeds)

    def decode(self, rows, forbidden=None):
        forbidden = [()] * len(rows) if forbidden is None else forbidden
        banned = [np.union1d(self.others, ids).astype(np.int64) for ids in forbidden]
        return self.engine.decode(rows, banned)

    def release(self, rows):
        self.engine.release(rows)


def is_right(trace):
    return BYTE.decode(trace.tokens).endswith("4.")


ENDS = Ends(BYTE, ("4.",))
TRACES = [
    plain_trace(BYTE, "?", text)
    for text in (
        "b\na\na\nb\n" + "b\n" * 8 + "4.",
        "b\na4.",
        "4.",
        "b\na\n" * 6 + "4.",
        "b\nb\na\n4.",
    )
]


def test_where_a_text_ends():
    assert list(b"xx4.") in ENDS
    assert list(b"x4") not in ENDS
    assert [*b"4", min(BYTE.eos_ids)] in ENDS
    assert list(b"4.x") not in ENDS  # it ended before
    assert list(b"4.") not in Ends(BYTE)
    world = load_tokenizer("world-1k")
    assert world.encode("so </answer>").tolist() in Ends(world, ("</answer>",))


def test_texts_go_on_to_their_ends_whatever_the_rows(model):
    prompts = [BYTE.encode(text) for text in ("?", "??", "b\n", "a", "?")]
    found = continue_texts(Letters(model, 2), prompts, ENDS, seed=3)
    again = continue_texts(Letters(model, 5), prompts, ENDS, seed=3)
    assert [f.tolist() for f in found] == [f.tolist() for f in again]
    assert found[0].tolist() != found[4].tolist()  # another number, another seed
    for prompt, ids in zip(prompts, found, strict=True):
        text = BYTE.decode(ids)
        assert text.endswith("4.") or len(prompt) + len(ids) == 100
        assert "4." not in text[:-1]
    assert sum(BYTE.decode(ids).endswith("4.") for ids in found)


def test_revision_by_an_engine_is_the_algorithm_alone(model):
    search = RetroSearch(BYTE, SETTINGS, is_right)
    engine = Letters(model, 7)
    revisions = revise_traces(engine, search, TRACES, ENDS, seed=2)
    alone = Letters(model, 1)
    for number, (trace, revision) in enumerate(zip(TRACES, revisions, strict=True)):

        def sample(branch, count, number=number):
            rollouts = []
            for member in range(count):
                prefix = branch.trace.tokens[: branch.position]
                drawn = draw_seed((2, number, branch.number, member))
                alone.begin([0], [prefix], [drawn])
                ban, ids = search.active_ban(branch), []
                while len(prefix) + len(ids) < 100:
                    banned = not ban.is_over
                    ids.append(int(alone.decode([0], [ban.forbidden()] if banned else None).ids[0]))
                    if banned:
                        ban.advance(ids[-1])
                    if ids in ENDS:
                        break
                alone.release([0])
                rollouts.append(plain_trace(BYTE, prefix[:1].tolist(), [*prefix[1:], *ids]))
            return rollouts

        expected = retro_search(search, trace, sample, (2, number))
        assert revision.after.tokens.tolist() == expected.after.tokens.tolist()
        assert (revision.taken, revision.tried) == (expected.taken, expected.tried)
        assert is_right(revision.after)
    assert sum(len(revision.taken) for revision in revisions) >= 2
    assert revisions[2].tried == {}


def test_roll_outs_of_a_branch_begin_together(model):
    """So that the engine forwards their prefix once."""
    engine, search = Letters(model, 7), RetroSearch(BYTE, SETTINGS, is_right)
    revise_traces(engine, search, TRACES, ENDS)
    prompts = [prompt for prompt, _ in engine.began]
    groups = [prompts[i : i + 3] for i in range(0, len(prompts), 3)]
    assert all(group == [group[0]] * 3 for group in groups)


def test_traces_that_cannot_be_revised_are_named(model):
    search = RetroSearch(BYTE, SETTINGS, is_right)
    wrong = [TRACES[0], plain_trace(BYTE, "?", "b\n5.", id="q7")]
    with pytest.raises(ConfigurationError, match="got a wrong one: number 1, question 'q7'"):
        revise_traces(Letters(model, 3), search, wrong, ENDS)
    searching = write("<q>key1 key1 </q><a>value1 </a>")
    with pytest.raises(ConfigurationError, match="got one with searches: number 0"):
        revise_traces(Letters(model, 3), search, [searching], ENDS)
    with pytest.raises(ConfigurationError, match="at least 3 rows"):
        revise_traces(Letters(model, 2), search, TRACES, ENDS)
    long = [plain_trace(BYTE, "?", "b\n" * 60 + "a\n4.")]
    with pytest.raises(ContextLengthError, match="less than the 100 tokens"):
        revise_traces(Letters(model, 3), search, long, ENDS)
