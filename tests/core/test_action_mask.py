"""The action mask against trying every id, against whole episodes, and in the hands of others."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from search_env.core.action_mask import ActionMasks
from search_env.core.dynamics import Dynamics
from search_env.protocols.grammar import format_violations, grammar_of, prompt_thoughts
from search_env.protocols.protocol import Protocol
from search_env.protocols.registry import get_protocol
from search_env.retrieval.base import FakeRetriever
from search_env.tokens.tag_automaton import load_tag_automaton
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import (
    Document,
    FaultKind,
    FormatFault,
    Question,
    StopReason,
    Tag,
    TagRole,
    TagWritten,
)

DOCS = Path(__file__).parents[2] / "docs" / "action_mask.md"
DOCUMENT = Document("d", "Ada", "Ada wrote it.")
BUDGETS = {
    StopReason.MAX_TOKENS,
    StopReason.MAX_POLICY_TOKENS,
    StopReason.MAX_SEGMENT_TOKENS,
}
R1, PP, SR1, TOY = map(get_protocol, ("r1-searcher", "r1-searcher++", "search-r1", "toy"))


def tight(protocol: Protocol, **limits: int | None) -> Protocol:
    """The protocol with short prompts, so that small contexts hold it."""
    prompt = "{question}<think>" if protocol is R1 else "{question}"
    documents = protocol.pair(TagRole.DOCUMENTS)
    short = {"documents_prefix": documents.open, "notice": protocol.notice[:4]}
    short["documents_suffix"] = documents.close
    return dataclasses.replace(protocol, base_prompt=prompt, **short, **limits)


def rules(protocol: Protocol, tokenizer: Tokenizer, rows: int = 1, question="Q") -> Dynamics:
    automaton = load_tag_automaton(tokenizer, protocol.tag_texts)
    dynamics = Dynamics(protocol, tokenizer, rows=rows, automaton=automaton)
    for row in range(rows):
        dynamics.begin(row, Question("q", question, ("Ada",)))
    return dynamics


def step(dynamics: Dynamics, token: int, row: int = 0) -> None:
    for query in dynamics.append(np.array([row]), np.array([token])):
        dynamics.insert_documents(query.row, [DOCUMENT])


def write(dynamics: Dynamics, text: str) -> None:
    for token in dynamics.tokenizer.encode(text).tolist():
        step(dynamics, token)


def allowed(dynamics: Dynamics) -> list[str]:
    """The texts of the allowed ids."""
    mask = ActionMasks(dynamics).of(dynamics, 0)
    return [dynamics.tokenizer.token_bytes[i].decode() for i in np.flatnonzero(mask)]


def allowed_ascii(dynamics: Dynamics) -> str:
    """The allowed bytes of the byte tokenizer that are ASCII."""
    mask = ActionMasks(dynamics).of(dynamics, 0)
    return bytes(np.flatnonzero(mask[:128]).tolist()).decode()


def made(*tokens: str | bytes) -> Tokenizer:
    """A tokenizer of the given tokens; the last ends a sequence; text is read greedily."""
    table = [t.encode() if isinstance(t, str) else t for t in tokens]
    order = sorted(range(len(table) - 1), key=lambda i: -len(table[i]))
    pattern = re.compile(b"|".join(re.escape(table[i]) for i in order if table[i]) or b"(?!)")

    def encode(text: str, special: bool) -> Sequence[int]:
        return [table.index(match) for match in pattern.findall(text.encode())]

    return Tokenizer("made", table, encode, [len(table) - 1])


# What breaks the grammar, by trying.


def broken(dynamics: Dynamics) -> tuple[int, list[FormatFault]]:
    """How many tags are out of place, and the faults."""
    grammar = grammar_of(dynamics.protocol.markup)
    state, misplaced = grammar.start(prompt_thoughts(dynamics.transcript(0))), 0
    events = dynamics.episodes[0].events
    for _, tag in grammar.steps(events):
        after = grammar.advance(state, tag)
        state, misplaced = (state, misplaced + 1) if after is None else (after, misplaced)
    return misplaced, [e for e in events if isinstance(e, FormatFault)]


def breaks(dynamics: Dynamics, token: int) -> bool:
    """Whether an id is to be refused: it is tried on a copy."""
    tokenizer = dynamics.tokenizer
    if not tokenizer.token_bytes[token]:
        return True
    twin = dynamics.like()
    twin.restore(0, dynamics.save(0))
    step(twin, token)
    misplaced, faults = broken(twin)
    before, seen = broken(dynamics)
    episode = twin.episodes[0]
    if token in tokenizer.eos_ids:
        return episode.stop_reason is not StopReason.ANSWERED or misplaced > before
    # A segment that runs out is the budget's doing, whatever the id.
    new = [f for f in faults[len(seen) :] if f.kind is not FaultKind.NO_ACTION]
    if misplaced > before or new:
        return True
    tags = [
        e.tag
        for e in episode.events
        if isinstance(e, TagWritten) and e.position == dynamics.length(0)
    ]
    opened = tags[-1:] == [Tag("query", "open")]
    turns = dynamics.episodes[0].num_turns + tags.count(Tag("query", "close"))
    return opened and not could_run(dynamics, episode.num_searches, turns)


def could_run(dynamics: Dynamics, searches: int, turns: int) -> bool:
    """Whether the budgets have room for a query closed by the next token."""
    protocol, encode = dynamics.protocol, dynamics.tokenizer.encode
    length, written = dynamics.length(0) + 1, dynamics.policy_tokens(0) + 1
    frame = len(encode(protocol.documents_prefix)) + len(encode(protocol.documents_suffix))
    return (
        length < protocol.max_tokens
        and length + frame <= protocol.max_tokens
        and (protocol.max_policy_tokens is None or written < protocol.max_policy_tokens)
        and (protocol.max_searches is None or searches < protocol.max_searches)
        and (protocol.max_turns is None or turns < protocol.max_turns)
    )


def expected(dynamics: Dynamics) -> np.ndarray:
    size = dynamics.tokenizer.size
    if dynamics.episodes[0].stop_reason is not None:
        return np.ones(size, np.int8)
    mask = np.array([not breaks(dynamics, token) for token in range(size)], np.int8)
    return mask if mask.any() else np.ones(size, np.int8)


LIMITS = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(24, 60),
        "max_policy_tokens": st.none() | st.integers(4, 30),
        "max_segment_tokens": st.none() | st.integers(3, 12),
        "max_searches": st.none() | st.integers(0, 3),
        "max_turns": st.none() | st.integers(0, 3),
    }
)


@st.composite
def vocabularies(draw: st.DrawFn, protocol: Protocol) -> Tokenizer:
    """Tokens made of tags and their halves: many end several tags, some vocabularies none."""
    parts = [*protocol.tag_texts, " ", "x", '"', "\u00e9"]
    parts += ["{", "{x}", "}}", "}" + protocol.tag_texts[1]] if protocol.name == PP.name else []
    for tag in protocol.tag_texts:
        parts += [tag[: len(tag) // 2], tag[len(tag) // 2 :], tag[:-1], tag[-1]]
    token = st.lists(st.sampled_from(parts), max_size=4).map("".join)
    tokens = draw(st.lists(token, min_size=1, max_size=12, unique=True))
    if draw(st.booleans()):  # so that deep states are reached
        tokens = [*dict.fromkeys([*tokens, *protocol.tag_texts, "x"])]
    return made(
        *tokens, draw(st.sampled_from(["<end>", protocol.pair(TagRole.ANSWER).close + "."]))
    )


@given(st.data())
def test_an_id_is_refused_exactly_if_trying_it_breaks_the_grammar(data):
    protocol = tight(data.draw(st.sampled_from([R1, PP, SR1, TOY])), **data.draw(LIMITS))
    tokenizer = data.draw(vocabularies(protocol))
    dynamics = rules(protocol, tokenizer)
    masks = ActionMasks(dynamics)
    obedient = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(0, 20))):
        mask = masks.of(dynamics, 0)
        assert mask.any()
        if dynamics.episodes[0].stop_reason is not None:
            break
        choices = np.flatnonzero(mask).tolist() if obedient else range(tokenizer.size)
        step(dynamics, data.draw(st.sampled_from(choices)))
    np.testing.assert_array_equal(masks.of(dynamics, 0), expected(dynamics))


@given(st.data())
@pytest.mark.parametrize("name", ["toy", "byte"])
def test_so_also_with_bundled_tokenizers(name, data):
    protocol = TOY if name == "toy" else data.draw(st.sampled_from([R1, PP, SR1, TOY]))
    limits = {"max_tokens": 16} if name == "toy" else {"max_tokens": 200, "max_searches": 2}
    dynamics = rules(tight(protocol, **limits), load_tokenizer(name))
    texts = st.sampled_from([*protocol.tag_texts, "key1 ", " ", "\n", "{"])
    for text in data.draw(st.lists(texts, max_size=8)):
        ids = dynamics.tokenizer.encode(text).tolist()
        # The last byte of a tag is where it matters: stop before it as often as not.
        for token in ids[: len(ids) - data.draw(st.booleans())]:
            if dynamics.episodes[0].stop_reason is None:
                step(dynamics, token)
    mask = ActionMasks(dynamics).of(dynamics, 0)
    assert mask.any()
    np.testing.assert_array_equal(mask, expected(dynamics))


# By hand.


def test_the_toy_by_hand():
    dynamics = rules(TOY, load_tokenizer("toy"), question="key1 key2")
    words = list(load_tokenizer("toy").token_bytes[7:])
    words = [w.decode() for w in words]
    assert allowed(dynamics) == ["<q>", "<a>", *words]
    write(dynamics, "<q>")
    assert allowed(dynamics) == words  # an empty query may not be closed
    write(dynamics, "key1")
    assert allowed(dynamics) == ["</q>", *words]
    write(dynamics, "</q><q>key2</q>")
    assert dynamics.episodes[0].num_searches == 2
    assert allowed(dynamics) == ["<a>", *words]  # no search is left
    write(dynamics, "<a>")
    assert allowed(dynamics) == ["</a>", *words]
    write(dynamics, "</a>")
    assert len(allowed(dynamics)) == 24  # the episode is over


def test_a_bracket_closes_the_answer_where_it_matches():
    vocabulary = ("<internal>", "</internal>", "\\boxed{", "{", "}", "}}", "}</internal>", "x", "E")
    dynamics = rules(tight(PP, max_tokens=99), made(*vocabulary))
    plain = ["{", "}", "}}"]
    assert allowed(dynamics) == ["<internal>", "\\boxed{", *plain, "x"]
    write(dynamics, "<internal>}{")
    assert allowed(dynamics) == ["</internal>", *plain, "}</internal>", "x"]
    write(dynamics, "</internal>\\boxed{{{")
    assert allowed(dynamics) == [*plain, "x"]  # }</internal> does not close the answer first
    write(dynamics, "}}")
    assert dynamics.episodes[0].stop_reason is None
    assert allowed(dynamics) == [*plain, "}</internal>", "x"]
    step(dynamics, 6)
    assert dynamics.transcript(0).answer == "{{}}"
    assert not format_violations(dynamics.transcript(0))


def test_a_token_may_end_several_tags():
    vocabulary = (
        "<q>",
        "x",
        "</q><q>",
        "</q><a>",
        "</q><a></a>",
        "<q></q>",
        "<q>x</q>",
        "<q> </q>",
    )
    dynamics = rules(
        tight(TOY, max_tokens=99, max_searches=2), made(*vocabulary, "x</q><q>x</q>", "E")
    )
    assert allowed(dynamics) == ["<q>", "x", "<q>x</q>"]
    write(dynamics, "<q>x")
    assert allowed(dynamics) == ["x", "</q><q>", "</q><a>"]
    step(dynamics, 2)
    assert allowed(dynamics) == ["x"]  # what </q><q> opened is empty yet
    write(dynamics, "x")
    assert allowed(dynamics) == ["x", "</q><a>"]  # the search now closed is the last


def test_text_before_the_tag_in_its_token_counts():
    vocabulary = ("<q>", "x</q>", " </q>", "</q>", "x", "E")
    dynamics = rules(tight(TOY, max_tokens=99), made(*vocabulary))
    write(dynamics, "<q>")
    assert allowed(dynamics) == ["x</q>", "x"]


def test_what_is_broken_already_is_not_broken_again():
    """The environment may hold open what the grammar does not, and the other way round."""
    dynamics = rules(tight(TOY, max_tokens=99), load_tokenizer("toy"))
    words = allowed(dynamics)[2:]
    write(dynamics, "<a><q>key1")
    assert allowed(dynamics) == ["</a>", *words]
    write(dynamics, "</q>")  # run, which also drops the answer
    assert allowed(dynamics) == words
    dynamics = rules(tight(R1, max_tokens=99), made(*R1.tag_texts, "x", "E"))
    write(dynamics, "<answer>")  # within the thought
    assert allowed(dynamics) == ["</think>", "x"]
    dynamics = rules(tight(SR1, max_tokens=99), made(*SR1.tag_texts, "x", "E"))
    write(dynamics, "<answer><search>x")
    assert allowed(dynamics) == ["</answer>", "x"]


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_a_query_is_closed_only_where_its_documents_fit(spare):
    tokenizer = load_tokenizer("byte")
    context = tight(TOY, max_tokens=len("Q<q>Ada</q><d></d>") + spare)
    turn = tight(TOY, max_tokens=99, max_policy_tokens=len("<q>Ada</q>") + 1 + spare)
    for protocol in (context, turn):
        dynamics = rules(protocol, tokenizer)
        write(dynamics, "<q>Ada</q")
        assert (">" in allowed_ascii(dynamics)) == (spare >= 0)
        step(dynamics, ord(">"))
        assert ([f.kind for f in broken(dynamics)[1]] == []) == (spare >= 0)


def test_the_last_token_closes_no_query_even_where_documents_take_no_room():
    dynamics = rules(tight(TOY, max_tokens=4), made("<q>", "</q>", "Q", "E"))
    write(dynamics, "<q>Q")
    assert allowed(dynamics) == ["Q"]


def test_emptiness_is_the_protocols_own():
    dynamics = rules(tight(R1, max_tokens=300), load_tokenizer("byte"))
    write(dynamics, '<|begin_of_query|>" "<|end_of_query|')
    assert ">" not in allowed_ascii(dynamics)  # R1-Searcher takes quotes out
    dynamics = rules(tight(SR1, max_tokens=300), load_tokenizer("byte"))
    write(dynamics, '<search>" "</search')
    assert ">" in allowed_ascii(dynamics)


def test_after_a_notice_nothing_is_open():
    """A segment that runs out inside a query drops the query; another may be opened."""
    protocol = tight(SR1, max_tokens=300, max_segment_tokens=12)
    dynamics = rules(protocol, load_tokenizer("byte"))
    write(dynamics, "<search>Ada.")
    assert broken(dynamics)[1][0].kind is FaultKind.NO_ACTION
    write(dynamics, "<search")
    assert ">" in allowed_ascii(dynamics)
    write(dynamics, ">a")
    assert format_violations(dynamics.transcript(0)) == ("no_action", "unclosed_tag", "no_answer")


def test_padded_ids_are_refused_and_where_all_would_be_none_is():
    tokenizer = load_tokenizer("toy").padded(30)
    mask = ActionMasks(rules(TOY, tokenizer)).of(rules(TOY, tokenizer), 0)
    assert mask[24:].tolist() == [0] * 6
    hopeless = rules(TOY, made("</q>", "<q>", "E"))
    step(hopeless, 1)
    assert ActionMasks(hopeless).of(hopeless, 0).tolist() == [1, 1, 1]


def test_rows_and_copies_have_masks_of_their_own():
    dynamics = rules(TOY, load_tokenizer("toy"), rows=3)
    masks = ActionMasks(dynamics)
    step(dynamics, 1, row=1)
    saved = dynamics.save(1)
    batch = masks.batch(dynamics, [2, 1])
    assert batch.shape == (2, 24)
    assert batch.dtype == np.int8
    np.testing.assert_array_equal(batch[0], masks.of(dynamics, 0))
    np.testing.assert_array_equal(batch[1], masks.of(dynamics, 1))
    assert not np.array_equal(batch[0], batch[1])
    other = dynamics.like()
    other.restore(0, saved)
    np.testing.assert_array_equal(masks.of(other, 0), batch[1])
    dynamics.begin(1, Question("q", "again", ("Ada",)))
    np.testing.assert_array_equal(masks.of(dynamics, 1), batch[0])
    masks.of(dynamics, 0)[:] = 7  # a caller's array is the caller's
    assert masks.of(dynamics, 0).max() == 1
    assert masks.batch(dynamics, []).shape == (0, 24)


def test_an_episode_that_never_began_has_a_mask():
    env = gym.make("SearchQA-Toy-v0").unwrapped
    assert env.action_masks().tolist() == [1] * 24


# Whole episodes.


def sampled(env: gym.Env, seed: int, *, tags: float, limit: int = 2000) -> dict:
    """Play by the mask, starting to write a random tag at a rate of ``tags``; the last info."""
    base, random, script = env.unwrapped, np.random.default_rng(seed), []
    env.action_space.seed(seed)
    _, info = env.reset(seed=seed)
    for _ in range(limit):
        mask = info["action_mask"]
        assert mask.shape == (env.action_space.n,)
        assert mask.dtype == np.int8
        if not script and random.random() < tags:
            tag = random.choice(base.protocol.tag_texts)
            script = base.tokenizer.encode(str(tag)).tolist()
        if script and mask[script[0]]:
            action = script.pop(0)
        else:
            script, action = [], env.action_space.sample(mask=mask)
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return info
    raise AssertionError("the episode does not end")


def check_ending(env: gym.Env, info: dict) -> None:
    violations = set(format_violations(env.unwrapped.transcript()))
    # A segment that runs out is a budget, which Search-R1 answers with a notice.
    violations -= {"no_action"} if env.unwrapped.protocol.notice else set()
    if info["stop_reason"] == "answered":
        assert not violations
    else:
        assert info["stop_reason"] in {reason.value for reason in BUDGETS}
        assert violations <= {"unclosed_tag", "no_answer"}


CASES = {
    "toy": {"protocol": "toy", "max_tokens": 100},
    "r1-searcher": {"protocol": "r1-searcher", "max_tokens": 1800, "max_policy_tokens": 400},
    "r1-searcher chatml": {
        "protocol": "r1-searcher",
        "prompt": "chatml",
        "max_tokens": 1800,
        "max_policy_tokens": 400,
    },
    "r1-searcher++": {"protocol": "r1-searcher++", "max_tokens": 1800, "max_policy_tokens": 400},
    "search-r1": {"protocol": "search-r1", "max_tokens": 2500, "max_policy_tokens": 1100},
}


VOCABULARIES = ("toy", "byte", "world-1k", "gpt2.json", "qwen2.json.xz")


@pytest.mark.parametrize(
    ("name", "case"),
    [(n, c) for n in VOCABULARIES for c in CASES if "chatml" not in c or "qwen" in n],
)
def test_sampled_episodes_are_well_formed(case, name, request):
    path = name
    if "json" in name:
        path = str(request.getfixturevalue("data_dir") / "tokenizers" / name)
    retriever = FakeRetriever({})
    arguments = {**CASES[case], "tokenizer": path, "action_mask": True, "retriever": retriever}
    env = gym.make("SearchQA-Toy-v0", **arguments)
    infos = []
    for seed in range(8):
        infos.append(sampled(env, seed, tags=0.4))
        check_ending(env, infos[-1])
    if name != "toy" or case == "toy":  # the toy's ids cannot write the tags of the others
        assert any(info["num_searches"] for info in infos)
        assert any(info["answer"] for info in infos)


@given(st.integers(0, 2**32 - 1), st.integers(6, 40), st.integers(0, 3))
def test_so_also_in_any_budget(seed, max_tokens, searches):
    env = gym.make(
        "SearchQA-Toy-v0", action_mask=True, max_tokens=max_tokens, max_searches=searches
    )
    check_ending(env, sampled(env, seed, tags=0.5))


def answered(max_tokens: int, *, masked: bool, episodes: int = 200) -> float:
    """The share of well-formed answers of a uniform policy on the toy."""
    env = gym.make("SearchQA-Toy-v0", action_mask=True, max_tokens=max_tokens)
    env.action_space.seed(0)
    count = 0
    for seed in range(episodes):
        _, info = env.reset(seed=seed)
        over = False
        while not over:
            action = env.action_space.sample(mask=info["action_mask"] if masked else None)
            *_, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        count += info["stop_reason"] == "answered" and info["well_formed"]
    return count / episodes


def test_a_uniform_policy_answers_where_it_has_room():
    assert answered(100, masked=True) > 0.8
    assert answered(100, masked=False) < 0.05
    assert answered(16, masked=True) > 0.08  # the mask does not plan
    assert answered(16, masked=False) < 0.03


# In the hands of others.


@pytest.mark.parametrize("env_id", ["SearchQA-Toy-v0", "SearchQA-v0"])
def test_check_env_without_a_warning(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, action_mask=True).unwrapped)


def test_the_vector_environment_has_the_masks_of_its_rows():
    envs = gym.make_vec("SearchQA-Toy-v0", num_envs=3, action_mask=True)
    singles = [gym.make("SearchQA-Toy-v0", action_mask=True) for _ in range(3)]
    _, infos = envs.reset(seed=5)
    masks = [env.reset(seed=5 + i)[1]["action_mask"] for i, env in enumerate(singles)]
    for actions in ([1, 3, 8], [8, 8, 8], [2, 9, 3]):
        np.testing.assert_array_equal(infos["action_mask"], masks)
        assert infos["action_mask"].dtype == np.int8
        *_, infos = envs.step(np.array(actions))
        masks = [env.step(a)[-1]["action_mask"] for env, a in zip(singles, actions, strict=True)]
    np.testing.assert_array_equal(infos["action_mask"], masks)


def test_infos_hold_fresh_masks_only_where_asked():
    env = gym.make("SearchQA-Toy-v0", action_mask=True)
    _, first = env.reset(seed=0)
    *_, second = env.step(7)
    assert second["action_mask"] is not first["action_mask"]
    np.testing.assert_array_equal(first["action_mask"], second["action_mask"])
    first["action_mask"][:] = 0
    *_, third = env.step(7)
    np.testing.assert_array_equal(second["action_mask"], third["action_mask"])
    assert "action_mask" not in gym.make("SearchQA-Toy-v0").reset(seed=0)[1]


class Faults(gym.Wrapper):
    """Keeps what the infos say of faults and endings."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.faults: list[str] = []
        self.endings: list[str] = []

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.faults += info.get("format_faults", [])
        if terminated or truncated:
            self.endings.append(info["stop_reason"])
        return observation, reward, terminated, truncated, info


def test_maskable_ppo_makes_no_fault():
    sb3_contrib = pytest.importorskip("sb3_contrib")
    dummy = pytest.importorskip("stable_baselines3.common.vec_env").DummyVecEnv
    envs = [Faults(gym.make("SearchQA-Toy-v0", action_mask=True)) for _ in range(2)]
    model = sb3_contrib.MaskablePPO(
        "MultiInputPolicy",
        dummy([lambda env=env: env for env in envs]),
        n_steps=64,
        batch_size=64,
        seed=0,
        device="cpu",
    )
    model.learn(256)
    endings = [ending for env in envs for ending in env.endings]
    assert len(endings) > 10
    assert set(endings) <= {"answered", "max_tokens"}
    assert [fault for env in envs for fault in env.faults] == []


def test_the_pages_examples_run():
    scope: dict = {}
    for code in re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.S):
        if "sb3_contrib" in code:
            pytest.importorskip("sb3_contrib")
        exec(code, scope)
    assert not format_violations(scope["env"].unwrapped.transcript())
