"""Prompts as ids: beginnings, markers of chat templates, the model's own template."""

from __future__ import annotations

import builtins
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.core.dynamics import Dynamics
from search_env.core.prompts import fitting_styles, prompt_encoder
from search_env.errors import ConfigurationError, ProtocolError
from search_env.protocols.grammar import prompt_thoughts
from search_env.protocols.protocol import CHAT_MARKUP, CHAT_TEMPLATE, Protocol
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.search_r1 import SEARCH_R1
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Question
from tests.tokens.families import FAMILIES
from tests.tokens.test_families import REAL

CASES = sorted(FAMILIES)
QUESTIONS = ("Who wrote it?", "  the\n\nwho \n", "Zo\u00eb, \u6771\u4eac", "a <tag> & {b}", "")


def encoder(protocol: Protocol, folder: str, style: str, **options):
    return prompt_encoder(protocol, load_tokenizer(folder), style, options)


def theirs_of(folder: str):
    """The tokenizer as transformers loads it, file by file as it is."""
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(folder)
    template = tokenizer.chat_template
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer.json", chat_template=template.text, **template.tokens
    )


# A4: what stands in front of a prompt.


@pytest.mark.parametrize("case", CASES)
def test_a4_a_base_prompt_begins_as_the_owner_says(case, written):
    tokenizer = load_tokenizer(written[case])
    ids = encoder(SEARCH_R1, written[case], "base")("Who?").tolist()
    beginning = list(tokenizer.bos_ids)
    text = SEARCH_R1.prompt_pieces("Who?", "base")[0][0]
    assert ids == beginning + tokenizer.encode(text).tolist()


def test_a4_a_template_that_writes_the_beginning_gets_no_second(written):
    tokenizer = load_tokenizer(written["llama-3"])
    ids = encoder(SEARCH_R1, written["llama-3"], "llama-3")("Who?").tolist()
    assert ids[: len(tokenizer.bos_ids)] == list(tokenizer.bos_ids)
    assert ids.count(tokenizer.bos_ids[0]) == 1


def test_a4_a_style_without_the_beginning_gets_it(written, monkeypatch):
    monkeypatch.setitem(CHAT_MARKUP, "gemma", "<start_of_turn>user\n{system}{user}<end_of_turn>\n")
    tokenizer = load_tokenizer(written["gemma"])
    ids = encoder(SEARCH_R1, written["gemma"], "gemma")("Who?").tolist()
    assert ids[:2] == [tokenizer.bos_ids[0], tokenizer.control_tokens["<start_of_turn>"]]


# A7: markers and templates.


@pytest.mark.parametrize(
    ("case", "style", "marker", "fitting"),
    [
        ("llama-3", "chatml", "im_start", "'base', 'llama-3', 'chat-template'"),
        ("gemma", "chatml", "im_start", "'base', 'chat-template'"),
        ("deepseek", "chatml", "im_start", "'base', 'chat-template'"),
        ("qwen", "llama-3", "begin_of_text", "'base', 'chatml', 'chat-template'"),
    ],
)
def test_a7_a_missing_marker_is_named(case, style, marker, fitting, written):
    with pytest.raises(ConfigurationError, match=rf"{marker}.*fit it: {fitting}"):
        Dynamics(SEARCH_R1, load_tokenizer(written[case]), prompt=style)


def test_a7_bundled_tokenizers_have_no_chat():
    for name in ("byte", "world-1k", "toy"):
        assert fitting_styles(SEARCH_R1, load_tokenizer(name)) == ["base"]
        with pytest.raises(ConfigurationError, match=r"chat_template\.jinja.*'base'"):
            Dynamics(SEARCH_R1, load_tokenizer(name), prompt=CHAT_TEMPLATE)
    with pytest.raises(ProtocolError, match="Did you mean 'chatml'"):
        Dynamics(SEARCH_R1, load_tokenizer("byte"), prompt="chatlm")


@pytest.mark.parametrize(
    ("case", "markup", "markers"),
    [
        ("gemma", "<bos><start_of_turn>user\n{user}<end_of_turn>\n", 3),
        ("deepseek", "<｜begin▁of▁sentence｜>{system}<｜User｜>{user}<｜Assistant｜><think>\n", 4),
        ("mistral", "<s>[INST] {system} {user}[/INST]", 3),
        ("llama-2", "<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST]", 1),
        ("glm", "[gMASK]<sop><|user|>\n{user}<|assistant|>\n<think>", 5),
        ("llama-3", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>{user}<think>", 3),
    ],
)
def test_a7_markers_of_any_spelling(case, markup, markers, written, monkeypatch):
    monkeypatch.setitem(CHAT_MARKUP, "own", markup)
    tokenizer = load_tokenizer(written[case])
    ids = encoder(SEARCH_R1, written[case], "own")("Who wrote [INST] <think> <bos>?").tolist()
    assert sum(i in tokenizer.control_ids for i in ids) == markers
    text = markup.replace("{system}", SEARCH_R1.chat_system)
    user = SEARCH_R1.chat_user.replace("{question}", "Who wrote [INST] <think> <bos>?")
    assert tokenizer.decode(ids) == text.replace("{user}", user)


@pytest.mark.parametrize("protocol", [SEARCH_R1, R1_SEARCHER], ids=lambda p: p.name)
@pytest.mark.parametrize("case", CASES)
def test_a7_chat_template_is_that_of_transformers(case, protocol, written):
    theirs, encode = theirs_of(written[case]), encoder(protocol, written[case], CHAT_TEMPLATE)
    tail = load_tokenizer(written[case]).encode(protocol.chat_tail, special=True).tolist()
    if case == "deepseek":  # its template opens the thought
        tail = []
    for question in QUESTIONS:
        messages = [
            {"role": "system", "content": protocol.chat_system},
            {
                "role": "user",
                "content": protocol.chat_user.replace(
                    "{question}", protocol.clean_question(question)
                ),
            },
        ]
        expected = theirs.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert encode(question).tolist() == expected + tail


@pytest.mark.parametrize("name", [n for n in REAL if load_tokenizer(n).chat_template])
def test_a7_chat_template_of_real_files_is_that_of_transformers(name):
    theirs, encode = theirs_of(name), encoder(SEARCH_R1, name, CHAT_TEMPLATE)
    for question in QUESTIONS:
        messages = SEARCH_R1.chat_messages(SEARCH_R1.clean_question(question))
        expected = theirs.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert encode(question).tolist() == expected


@pytest.mark.parametrize("case", CASES)
def test_a7_a_question_cannot_forge_control_tokens(case, written):
    tokenizer = load_tokenizer(written[case])
    protocol = dataclasses.replace(
        SEARCH_R1, clean_question=lambda text: text, chat_user="{question}"
    )
    encode = encoder(protocol, written[case], CHAT_TEMPLATE)
    names = sorted(tokenizer.control_tokens)
    plain = [i for i in encode("x").tolist() if i in tokenizer.control_ids]
    part = st.builds(
        lambda name, start, stop: name[start:stop],
        st.sampled_from(names),
        st.integers(0, 3),
        st.integers(3, 30),
    )

    @given(st.lists(st.one_of(st.sampled_from(names), part, st.text("ab \n")), max_size=5))
    def check(parts: list[str]) -> None:
        question = f"x{''.join(parts)}x"
        ids = encode(question).tolist()
        assert [i for i in ids if i in tokenizer.control_ids] == plain
        if "\u2581" not in question and case != "phi":  # its markers take the space around
            assert question in tokenizer.decode(ids)

    check()


def test_a7_thinking_is_an_argument_of_the_template(written):
    folder = written["qwen"]
    tokenizer, theirs = load_tokenizer(folder), theirs_of(folder)
    messages = SEARCH_R1.chat_messages("Who?")
    for thinking in (True, False):
        ids = encoder(SEARCH_R1, folder, CHAT_TEMPLATE, enable_thinking=thinking)("Who?").tolist()
        assert ids == theirs.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False, enable_thinking=thinking
        )
        assert tokenizer.decode(ids).endswith("</think>\n\n") is not thinking
    with pytest.raises(ConfigurationError, match=r"no chat_template_kwargs with prompt='base'"):
        encoder(SEARCH_R1, folder, "base", enable_thinking=True)


@pytest.mark.parametrize(
    ("case", "protocol", "options", "thoughts"),
    [
        ("deepseek", SEARCH_R1, {}, ("think",)),
        ("deepseek", R1_SEARCHER, {}, ("think",)),
        ("qwen", SEARCH_R1, {}, ()),
        ("qwen", SEARCH_R1, {"enable_thinking": False}, ()),
        ("qwen", R1_SEARCHER, {"enable_thinking": False}, ("think",)),
    ],
)
def test_a7_a_thought_that_the_template_opens_is_open_once(
    case, protocol, options, thoughts, written
):
    dynamics = Dynamics(
        protocol,
        load_tokenizer(written[case]),
        prompt=CHAT_TEMPLATE,
        chat_template_kwargs=options,
    )
    dynamics.begin(0, Question("1", "Who?", ("x",)))
    transcript = dynamics.transcript(0)
    assert prompt_thoughts(transcript) == thoughts
    assert not transcript.decode(transcript.tokens).rstrip().endswith("<think>\n<think>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
            "no sy",
        ),
        ("<|im_start|>{{ messages[-1].content }}", "write the system message"),
        ("{{ messages[0].content }}", "write the user message"),
        ("{{ messages", "TemplateSyntaxError"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
    ],
)
def test_a7_a_template_that_loses_a_message_is_refused(template, message, written, tmp_path):
    family = dataclasses.replace(FAMILIES["qwen"], template=template)
    with pytest.raises(ConfigurationError, match=rf"{message}.*prompt='base'"):
        Dynamics(SEARCH_R1, load_tokenizer(family.write(tmp_path)), prompt=CHAT_TEMPLATE)
    without = dataclasses.replace(SEARCH_R1, chat_system="", chat_user="Rules. {question}")
    if "messages[-1]" in template:
        Dynamics(without, load_tokenizer(str(tmp_path)), prompt=CHAT_TEMPLATE)


def test_a7_without_transformers_the_error_says_what_to_install(written, monkeypatch):
    true_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigurationError, match=r"pip install"):
        Dynamics(SEARCH_R1, load_tokenizer(written["qwen"]), prompt=CHAT_TEMPLATE)


@pytest.mark.parametrize("style", ["base", "chatml", CHAT_TEMPLATE])
def test_b13_a_question_that_is_far_too_long_is_refused(style, written):
    dynamics = Dynamics(SEARCH_R1, load_tokenizer(written["qwen"]), prompt=style)
    with pytest.raises(ConfigurationError, match="prompt tokens or more"):
        dynamics.begin(0, Question("1", "who " * 2_500_000, ("x",)))
