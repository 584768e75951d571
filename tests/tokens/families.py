"""Small tokenizers with the traits of published families, written as their owners' files.

Each has a few hundred ids. What differs between the families is where they say how a sequence
begins and ends, which added tokens are marked as special, and how a chat is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_env.tokens.json_vocabulary import BYTE_ALPHABET

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
GPT_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def added(content: str, index: int, **flags: Any) -> dict[str, Any]:
    """An entry of added_tokens, special unless said otherwise."""
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **usual, "special": True, **flags}


def begins_with(*names: str, ids: Mapping[str, int]) -> dict[str, Any]:
    """A post-processor that puts tokens in front of a text."""
    prefix = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"Sequence": {"id": "B", "type_id": 1}}]
    special = {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in names}
    single = prefix + sequence
    pair = single + second
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def byte_level(
    entries: Sequence[str | tuple[str, dict[str, Any]]],
    *,
    bos: Sequence[str] = (),
    normalizer: dict[str, Any] | None = None,
    words: Sequence[str] = ("th", "the", "wh", "who", "\u0120the"),
    **parts: Any,
) -> dict[str, Any]:
    """A byte-level BPE, as of GPT-2, Llama 3 or Qwen."""
    vocabulary = {c: i for i, c in enumerate(BYTE_ALPHABET)}
    merges = []
    for word in words:
        merges.append([word[:-1], word[-1]] if word != "\u0120the" else ["\u0120", "the"])
        vocabulary[word] = len(vocabulary)
    tokens = []
    for entry in entries:
        name, flags = entry if isinstance(entry, tuple) else (entry, {})
        tokens.append(added(name, len(vocabulary) + len(tokens), **flags))
    ids = {t["content"]: t["id"] for t in tokens}
    return {
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": normalizer,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": GPT_SPLIT},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**BYTE_LEVEL, "use_regex": False},
            ],
        },
        "post_processor": begins_with(*bos, ids=ids) if bos else None,
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, **parts},
    }


def sentencepiece(
    entries: Sequence[str | tuple[str, dict[str, Any]]],
    *,
    bos: Sequence[str] = (),
    prefix_space: bool = False,
    pieces: Sequence[str] = (),
    merges: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:
    """A BPE with byte fallback, as of Llama 2 or Gemma. The added tokens come first."""
    names = [e if isinstance(e, str) else e[0] for e in entries]
    letters = [chr(c) for c in range(33, 127)]
    order = [
        *names,
        *(f"<0x{b:02X}>" for b in range(256)),
        *("\u2581", "\n"),
        *letters,
        *("th", "the", "\u2581the", "Wh", "Who"),
        *pieces,
    ]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(order))}
    tokens = []
    for entry in entries:
        name, flags = entry if isinstance(entry, tuple) else (entry, {})
        tokens.append(added(name, vocabulary[name], **flags))
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    decoders = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix_space:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    usual = [["t", "h"], ["th", "e"], ["\u2581", "the"], ["W", "h"], ["Wh", "o"]]
    return {
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": {"type": "Sequence", "normalizers": [prepend, space]}
        if prefix_space
        else space,
        "pre_tokenizer": None,
        "post_processor": begins_with(*bos, ids=vocabulary) if bos else None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>" if "<unk>" in vocabulary else None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": [*usual, *merges],
        },
    }


TEXT = {"special": False}  # flags of an added token that is not marked as special

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
)


@dataclass(frozen=True)
class Family:
    """A tokenizer's files, and what is to be read from them."""

    spec: Callable[[], dict[str, Any]]
    bos: tuple[str, ...]
    ends: frozenset[str]
    config: dict[str, Any] = field(default_factory=dict)
    special_map: dict[str, Any] = field(default_factory=dict)
    generation: Callable[[Mapping[str, int]], dict[str, Any]] | None = None
    template: str | None = None
    template_in: str = "tokenizer_config.json"

    def write(self, folder: Path) -> str:
        """Write the files into a folder, which is the tokenizer's name."""
        spec = self.spec()
        ids = {t["content"]: t["id"] for t in spec["added_tokens"]}
        config = dict(self.config)
        if self.template is not None and self.template_in == "tokenizer_config.json":
            config["chat_template"] = self.template
        elif self.template is not None and self.template_in == "named":
            config["chat_template"] = [
                {"name": "tool_use", "template": "TOOLS"},
                {"name": "default", "template": self.template},
            ]
        elif self.template is not None and self.template_in == "chat_template.json":
            (folder / self.template_in).write_text(json.dumps({"chat_template": self.template}))
        elif self.template is not None:
            (folder / "chat_template.jinja").write_text(self.template, "utf-8")
        (folder / "tokenizer.json").write_text(json.dumps(spec), "utf-8")
        if config:
            (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
        if self.special_map:
            (folder / "special_tokens_map.json").write_text(json.dumps(self.special_map))
        if self.generation is not None:
            (folder / "generation_config.json").write_text(json.dumps(self.generation(ids)))
        return str(folder)


FAMILIES = {
    "llama-2": Family(
        lambda: sentencepiece(["<unk>", "<s>", "</s>"], bos=["<s>"], prefix_space=True),
        bos=("<s>",),
        ends=frozenset(["</s>"]),
        config={"add_bos_token": True, "bos_token": "<s>", "eos_token": {"content": "</s>"}},
        template=(
            "{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' "
            "if messages[0].role == 'system' else '' %}"
            "{{ bos_token + '[INST] ' + system + messages[-1].content + ' [/INST]' }}"
        ),
        template_in="chat_template.json",
    ),
    "llama-3": Family(
        lambda: byte_level(
            [
                *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"),
                *("<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
            ],
            bos=["<|begin_of_text|>"],
            ignore_merges=True,
        ),
        bos=("<|begin_of_text|>",),
        ends=frozenset(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]),
        config={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        generation=lambda ids: {
            "eos_token_id": [ids["<|end_of_text|>"], ids["<|eom_id|>"], ids["<|eot_id|>"]]
        },
        template=(
            "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
            "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        ),
    ),
    "gemma": Family(
        lambda: sentencepiece(
            [
                *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
                *[(t, TEXT) for t in ("<unused5>", "\n\n", "\u2581\u2581", "</s>", "<h1>")],
            ],
            pieces=["<h", "1>"],
            merges=[["<", "h"], ["1", ">"], ["<h", "1>"], ["\u2581", "\u2581"]],
        ),
        bos=("<bos>",),
        ends=frozenset(["<eos>", "<end_of_turn>"]),
        config={"add_bos_token": True, "bos_token": "<bos>", "eos_token": "<eos>"},
        generation=lambda ids: {"eos_token_id": [ids["<eos>"], ids["<end_of_turn>"]]},
        template=(
            "{{ bos_token }}{% if messages[0].role == 'system' %}"
            "{% set first = messages[0].content + '\n\n' %}{% else %}{% set first = '' %}"
            "{% endif %}{{ '<start_of_turn>user\n' + first + messages[-1].content | trim + "
            "'<end_of_turn>\n<start_of_turn>model\n' }}"
        ),
        template_in="chat_template.jinja",
    ),
    "qwen": Family(
        lambda: byte_level(
            [
                *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
                *[(t, TEXT) for t in ("<tool_call>", "</tool_call>", "<think>", "</think>")],
            ],
            normalizer={"type": "NFC"},
        ),
        bos=(),
        ends=frozenset(["<|endoftext|>", "<|im_end|>"]),
        config={"add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>"},
        generation=lambda ids: {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]},
        template=(
            CHATML + "{% if enable_thinking is defined and enable_thinking is false %}"
            "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
        ),
        template_in="named",
    ),
    "deepseek": Family(
        lambda: byte_level(
            [
                *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
                ("<｜User｜>", {"special": False, "normalized": True}),
                *[(t, TEXT) for t in ("<｜Assistant｜>", "<think>", "</think>")],
            ]
        ),
        bos=("<｜begin▁of▁sentence｜>",),
        ends=frozenset(["<｜end▁of▁sentence｜>"]),
        config={
            "add_bos_token": True,
            "bos_token": {"content": "<｜begin▁of▁sentence｜>"},
            "eos_token": {"content": "<｜end▁of▁sentence｜>"},
        },
        template=(
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
            "{{ '<｜User｜>' + m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
            "{{ '<｜Assistant｜><think>\n' }}"
        ),
    ),
    "gpt-oss": Family(
        lambda: byte_level(
            [
                *("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>"),
                *("<|start|>", "<|end|>", "<|message|>", "<|call|>"),
            ]
        ),
        bos=(),
        ends=frozenset(["<|return|>", "<|endoftext|>", "<|call|>"]),
        config={"bos_token": "<|startoftext|>", "eos_token": "<|return|>"},
        generation=lambda ids: {
            "eos_token_id": [ids["<|return|>"], ids["<|endoftext|>"], ids["<|call|>"]]
        },
        template=(
            "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content + "
            "'<|end|>' }}{% endfor %}{{ '<|start|>assistant' }}"
        ),
        template_in="chat_template.jinja",
    ),
    "glm": Family(
        lambda: byte_level(
            [
                *("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|system|>", "<|user|>"),
                *("<|assistant|>", "<|observation|>", ("<think>", TEXT), ("</think>", TEXT)),
            ],
            bos=["[gMASK]", "<sop>"],
        ),
        bos=("[gMASK]", "<sop>"),
        ends=frozenset(["<|endoftext|>", "<|user|>", "<|observation|>"]),
        special_map={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        generation=lambda ids: {
            "eos_token_id": [ids["<|endoftext|>"], ids["<|user|>"], ids["<|observation|>"]]
        },
        template=(
            "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
            "{% endfor %}<|assistant|>"
        ),
    ),
    "mistral": Family(
        lambda: sentencepiece(
            ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"],
            bos=["<s>"],
            prefix_space=True,
        ),
        bos=("<s>",),
        ends=frozenset(["</s>"]),
        config={"bos_token": "<s>", "eos_token": "</s>"},
        template=(
            "{{ bos_token + '[INST] ' }}{% if messages[0].role == 'system' %}"
            "{{ messages[0].content + '\n\n' }}{% endif %}{{ messages[-1].content + '[/INST]' }}"
        ),
    ),
    "phi": Family(
        lambda: sentencepiece(
            [
                *("<unk>", "<s>", ("</s>", {"special": False, "rstrip": True}), "<|endoftext|>"),
                *[
                    (t, {"rstrip": True})
                    for t in ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
                ],
            ],
            prefix_space=True,
        ),
        bos=(),
        ends=frozenset(["<|endoftext|>", "<|assistant|>", "<|end|>"]),
        config={"add_bos_token": False, "bos_token": "<s>", "eos_token": "<|endoftext|>"},
        generation=lambda ids: {
            "eos_token_id": [ids["<|endoftext|>"], ids["<|assistant|>"], ids["<|end|>"]]
        },
        template=(
            "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}"
            "{% endfor %}{{ '<|assistant|>\n' }}"
        ),
    ),
}
"""The families by name."""
