"""A score depends on the transcript alone, whatever is registered by now."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from search_env import SearchQAEnv, Transcript
from search_env.errors import ConfigurationError, RewardError
from search_env.protocols.grammar import format_violations, open_thoughts
from search_env.protocols.protocol import Protocol
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.registry import register_protocol
from search_env.protocols.search_r1 import SEARCH_R1
from search_env.protocols.toy import TOY
from search_env.recording.record import common_fields, decode, encode
from search_env.rewards import get_reward, reward_names
from search_env.rewards.evidence import passages_seen
from search_env.types import Source
from tests.rewards.episodes import QUESTION, B, E, by_hand, play

R1_TEXT = f"so {B}engine{E}{B}<answer>{E}</think>\n\n<answer>Ada Lovelace</answer>"
SR1_TEXT = (
    "</search><think>a</think> <search>engine</search> <think>b</think> <answer>Ada King</answer>"
)
TEXTS = ((R1_SEARCHER, R1_TEXT), (SEARCH_R1, SR1_TEXT), (TOY, "<q>engine</q><a>Ada</a>"))


def changed(protocol: Protocol) -> Protocol:
    """The same name, and all else that rewards could read is another one."""
    tags = [
        dataclasses.replace(pair, open=f"[{pair.name}]", close=f"[/{pair.name}]")
        for pair in protocol.tags
        if pair.name != "think"
    ]
    return dataclasses.replace(
        protocol,
        tags=tuple(tags),
        faults={},
        documents_prefix="\n\n\n[documents]",
        document_rank="document number {rank}",
        document_body="{text}, longer than it was before",
        documents_suffix="[/documents]",
    )


def readings(transcript: Transcript) -> list[object]:
    found: list[object] = [format_violations(transcript), open_thoughts(transcript)]
    found.append(passages_seen(transcript))
    return found + [score_or_error(name, transcript) for name in reward_names()]


def score_or_error(name: str, transcript: Transcript) -> object:
    try:
        return get_reward(name)(transcript)
    except RewardError as error:  # some read the tags of one protocol alone
        return str(error)


@pytest.mark.parametrize(("protocol", "text"), TEXTS, ids=lambda p: getattr(p, "name", ""))
def test_registering_another_protocol_changes_no_score(protocol, text):
    own = dataclasses.replace(protocol, name="own-scored", max_tokens=4096)
    register_protocol(own, replace=True)
    transcript = play(text, protocol="own-scored")
    assert transcript.searches
    before = readings(transcript)
    register_protocol(changed(own), replace=True)
    assert readings(transcript) == before
    assert readings(play(text, protocol="own-scored")) != before


def test_a_recorded_episode_has_the_markup_of_its_protocol():
    env = SearchQAEnv(dataset="toy", protocol="r1-searcher", tokenizer="byte")
    env.reset(seed=0)
    for token in env.tokenizer.encode("</think><answer>value1</answer>"):
        env.step(token)
    played, common = env.transcript(), common_fields(env)
    line = encode(common, played, seed=0, reward=env.reward)
    assert decode("here", line).transcript.markup == played.markup == R1_SEARCHER.markup
    other = dataclasses.replace(played, protocol="nobody's")
    line = encode(common, other, seed=0, reward=env.reward)
    transcript = decode("here", line).transcript
    assert transcript.markup is None
    assert get_reward("f1")(transcript) == get_reward("f1")(played)  # reads the answer alone
    with pytest.raises(RewardError, match="register the protocol before you read"):
        get_reward("r1-searcher-stage2")(transcript)


def test_a_transcript_by_hand_says_what_it_lacks():
    bare = Transcript(
        QUESTION, "mine", np.zeros(1, np.int32), np.full(1, Source.POLICY, np.int8), ()
    )
    for read in (format_violations, open_thoughts, passages_seen):
        with pytest.raises(ConfigurationError, match="markup of its protocol 'mine'"):
            read(bare)
    assert format_violations(by_hand("so")) == ("unclosed_tag", "no_answer")
    assert get_reward("f1")(bare).total == 0.0
