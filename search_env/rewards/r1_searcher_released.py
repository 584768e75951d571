"""R1-Searcher's rewards as its released servers compute them: from substrings of the whole text.

The text is everything after the prompt, documents included. Only the first gold answer counts; the
answer is the text between the last ``<answer>`` and the next ``</answer>``. These presets exist to
reproduce published numbers, with their quirks:

* a passage that mentions an assistant costs 2 under the Qwen preset, and document tags in a passage
  cost the format reward under every preset;
* a search without results counts as a wrong format, since no ``(1)`` follows;
* the order of tags, and text after the answer, are not checked.

For training, use the presets by events (:mod:`search_env.rewards.r1_searcher`). Not reproduced: the
unused second number that the first server returns with each score.

Source: RUCAIBox/R1-Searcher@631167c, ``train/reward_server_llama_stage1.py``,
``reward_server_llama_stage2.py``, ``reward_server_qwen_zero.py``; the two presets named "paper"
combine the amounts of arXiv 2503.05592 v2 with the rules of these servers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from search_env.errors import ConfigurationError
from search_env.metrics.answers import cover_exact_match, token_f1
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.rewards.base import Reward, RewardFunction, register_reward
from search_env.rewards.r1_searcher import GARBLED
from search_env.types import Markup, Source, Transcript

_BLOCKS = re.compile(r"<\|begin_of_documents\|>.*?<\|end_of_documents\|>", re.DOTALL)
_COUNTED = (
    *("<|begin_of_query|>", "<|end_of_query|>"),
    *("<|begin_of_documents|>", "<|begin_of_documents|>\n", "<|begin_of_documents|>\n(1)"),
    *("<|end_of_documents|>", "<|end_of_documents|>\n\n"),
)
_RETRIEVAL = "<|end_of_query|>\n\n<|begin_of_documents|>\n"
_MAX_ANSWER_WORDS = 10


def _check_tags(protocol: str, markup: Markup) -> None:
    if markup.tags != R1_SEARCHER.tags:
        raise ConfigurationError(
            f"Expected a protocol with R1-Searcher's tags, got {protocol!r}. Choose a reward by "
            "events, such as 'r1-searcher-stage2', which reads any protocol."
        )


@dataclass(frozen=True, slots=True)
class _Text:
    """The text and the gold answer that the servers read."""

    solution: str
    gold: str

    @classmethod
    def of(cls, transcript: Transcript) -> _Text:
        _check_tags(transcript.protocol, transcript.required_markup())
        solution = transcript.text(Source.POLICY, Source.RETRIEVED, Source.NOTICE)
        return cls(solution, transcript.question.answers[0])

    @property
    def answer(self) -> str | None:
        """The last answer, or None where either tag is missing."""
        if "<answer>" not in self.solution or "</answer>" not in self.solution:
            return None
        return self.solution.split("<answer>")[-1].split("</answer>")[0].strip()

    @property
    def queries_answered(self) -> bool:
        """Whether all texts of ``_COUNTED`` occur equally often, possibly never."""
        return len({self.solution.count(text) for text in _COUNTED}) == 1

    @property
    def tags_right(self) -> bool:
        """Whether the prompt's thought is closed once and one answer is given."""
        counts = [self.solution.count(t) for t in ("<think>", "</think>", "<answer>", "</answer>")]
        return counts == [0, 1, 1, 1]

    @property
    def llama_format(self) -> bool:
        """Whether the rules of the Llama server of stage 2 hold."""
        garbled = GARBLED.search(_BLOCKS.sub("", self.solution)) is not None
        return self.tags_right and self.queries_answered and not garbled

    @property
    def qwen_format(self) -> bool:
        """Whether the rules of the Qwen server hold: Llama's and three more."""
        answer = self.answer or ""
        return (
            self.llama_format
            and not re.search("[Aa]ssistant", self.solution)
            and not re.search("begin_of_(query|documents)", answer)
            and len(answer.split()) <= _MAX_ANSWER_WORDS
        )

    @property
    def f1(self) -> float:
        return token_f1(self.answer, [self.gold])


def _stage1_paper(transcript: Transcript) -> dict[str, float]:
    text = _Text.of(transcript)
    searched = _RETRIEVAL in text.solution
    return {"retrieval": 0.5 * searched, "format": 0.5 * text.llama_format}


def _stage1_released(transcript: Transcript) -> dict[str, float]:
    text = _Text.of(transcript)
    searched = text.queries_answered and "<|begin_of_documents|>\n" in text.solution
    return {
        "answer": 1.0 if cover_exact_match(text.answer, [text.gold]) else -1.0,
        "retrieval": 0.5 * searched,
        "format": 0.5 * text.tags_right,
    }


def _stage2_paper(transcript: Transcript) -> dict[str, float]:
    text = _Text.of(transcript)
    return {"answer": text.f1, "format": 0.0 if text.llama_format else -2.0}


def _stage2_llama(transcript: Transcript) -> dict[str, float]:
    text = _Text.of(transcript)
    return {"answer": text.f1, "format": 0.0 if text.llama_format else -1.0}


def _qwen_zero(transcript: Transcript) -> dict[str, float]:
    text = _Text.of(transcript)
    return {"answer": text.f1, "format": 0.0 if text.qwen_format else -2.0}


def _registered(name: str, parts: tuple[str, ...], function: RewardFunction) -> Reward:
    return register_reward(Reward(name, parts, function, check=_check_tags))


R1_SEARCHER_TEXT_STAGE1_PAPER = _registered(
    "r1-searcher-text-stage1-paper", ("retrieval", "format"), _stage1_paper
)
"""Phase 1 with the paper's amounts, by text: 0.5 for a search, 0.5 for the format; [0, 1]."""

R1_SEARCHER_TEXT_STAGE1_RELEASED = _registered(
    "r1-searcher-text-stage1-released", ("answer", "retrieval", "format"), _stage1_released
)
"""The Llama server of stage 1: cover exact match as +1 or -1, plus twice 0.5; [-1, 2]."""

R1_SEARCHER_TEXT_STAGE2_PAPER = _registered(
    "r1-searcher-text-stage2-paper", ("answer", "format"), _stage2_paper
)
"""Phase 2 with the paper's amounts, by text: F1, less 2 for the wrong format; [-2, 1]."""

R1_SEARCHER_TEXT_STAGE2_LLAMA = _registered(
    "r1-searcher-text-stage2-llama-released", ("answer", "format"), _stage2_llama
)
"""The Llama server of stage 2: F1, less 1 for the wrong format; [-1, 1]."""

R1_SEARCHER_TEXT_QWEN_ZERO = _registered(
    "r1-searcher-text-qwen-zero-released", ("answer", "format"), _qwen_zero
)
"""The Qwen server, which has no stages: F1, less 2 for the wrong format; [-2, 1]."""
