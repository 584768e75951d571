"""The same seed and ids through any door: the same ids, mask, reward and ending.

:func:`reference` plays a case token by token in the bare Gymnasium environment. A door is a
function that plays the same case its own way; :func:`check` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import gymnasium as gym

import search_env  # noqa: F401 - registers the ids
from search_env.agents.bridges.episodes import PlayedEpisode
from search_env.agents.bridges.session import Session, Turn
from search_env.envs.search_qa import bare_env
from search_env.errors import ConformanceError
from search_env.types import Source


@dataclass(frozen=True)
class Case:
    """An episode to play: what begins it, and its segments as texts, or as ids in ``tokens``."""

    name: str
    env_id: str
    segments: tuple[str, ...]
    seed: int = 0
    index: int | None = None
    split: str = "train"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tokens: tuple[tuple[int, ...], ...] = ()

    def options(self) -> dict[str, Any]:
        """Return the arguments of the environment, its split among them."""
        return {"on_retrieval_error": "truncate", **self.arguments, "split": self.split}

    def ids(self) -> list[list[int]]:
        """Return the ids of each segment; of texts, by the environment's tokenizer."""
        if self.tokens:
            return [list(segment) for segment in self.tokens]
        env = bare_env(gym.make(self.env_id, disable_env_checker=True, **self.options()))
        return [env.tokenizer.encode(text, special=True).tolist() for text in self.segments]


@dataclass(frozen=True)
class Outcome:
    """What a learner sees of an episode."""

    tokens: tuple[int, ...]  # all ids, prompt included
    mask: tuple[int, ...]  # 1 where the policy wrote
    reward: float
    terminated: bool
    truncated: bool
    stop_reason: str

    @classmethod
    def of_turns(cls, turns: Iterable[Turn]) -> Outcome:
        """Return the outcome of a session's turns."""
        turns = list(turns)
        last = turns[-1]
        return cls(
            tokens=tuple(token for turn in turns for token in turn.tokens),
            mask=tuple(own for turn in turns for own in turn.mask),
            reward=sum(turn.reward for turn in turns),
            terminated=last.terminated,
            truncated=last.truncated,
            stop_reason=last.stop_reason,
        )

    @classmethod
    def of_episode(cls, episode: PlayedEpisode) -> Outcome:
        """Return the outcome of an episode of :func:`search_env.agents.bridges.episodes.play`."""
        last = episode.last
        if last is None:
            raise ConformanceError("Expected an episode with a turn, got none.")
        return cls(
            tokens=(*episode.prompt_ids, *episode.response_ids),
            mask=(*[0] * len(episode.prompt_ids), *episode.mask),
            reward=episode.reward,
            terminated=last.terminated,
            truncated=last.truncated,
            stop_reason=last.stop_reason,
        )


_TOY = "SearchQA-Toy-v0"
CASES = (
    Case("a search, the answer", _TOY, ("<q>key1 key1 </q>", "<a>value0 </a>"), index=9),
    Case("an answer before its evidence", _TOY, ("<q>key1 key1 </q><a>value3 </a>",), index=9),
    Case("the question of a seed", _TOY, ("<q>key1 key2 </q>", "<a>value3 </a>"), seed=7),
    Case("the context is full", _TOY, ("key1 " * 20,), seed=3),
    Case("a forged document", _TOY, ("<d>value0 </d>", "<a>value0 </a>"), seed=1),
    Case(
        "R1-Searcher's tags, real tokens",
        "SearchQA-v0",
        (
            "I look it up. <|begin_of_query|> city <|end_of_query|>",
            "<|begin_of_query|> river <|end_of_query|>",
            "</think>\n\n<answer> nobody </answer>",
        ),
        index=3,
    ),
    Case(
        "Search-R1's tags, bytes, another reward",
        "SearchQA-v0",
        ("<search> a river </search>", "<answer> nobody </answer>"),
        index=5,
        split="validation",
        arguments={
            "protocol": "search-r1",
            "tokenizer": "byte",
            "max_tokens": 6000,
            "reward": "cover-exact-match",
        },
    ),
)
"""Episodes that end in each way: answered, out of tokens, with ids that are not executed."""


def reference(case: Case) -> Outcome:
    """Play a case in the environment itself, one token a step.

    Of a segment, ids after a place where the environment wrote are left out, as at every door.
    """
    env = gym.make(case.env_id, **case.options())
    bare = bare_env(env)
    env.reset(seed=case.seed, options={} if case.index is None else {"index": case.index})
    total, terminated, truncated = 0.0, False, False
    for segment in case.ids():
        for token in segment:
            _, reward, terminated, truncated, _ = env.step(token)
            total += float(reward)
            wrote = bare.transcript().sources[-1] != Source.POLICY
            if wrote or terminated or truncated:
                break
        if terminated or truncated:
            break
    transcript = bare.transcript()
    stop = transcript.stop_reason
    return Outcome(
        tokens=tuple(transcript.tokens.tolist()),
        mask=tuple((transcript.sources == Source.POLICY).astype(int).tolist()),
        reward=total,
        terminated=terminated,
        truncated=truncated,
        stop_reason="" if stop is None else stop.value,
    )


def play_session(session: Session, case: Case) -> Outcome:
    """Play a case through a session, a segment at a time."""
    turns = [session.begin(seed=case.seed, split=case.split, index=case.index)]
    for segment in case.ids():
        if turns[-1].done:
            break
        turns.append(session.write(segment))
    return Outcome.of_turns(turns)


def check(door: str, play: Callable[[Case], Outcome], cases: Iterable[Case] = CASES) -> list[str]:
    """Compare a door with the environment; return a line for each case.

    Raises:
        ConformanceError: An outcome differs; the message names door, case and field.
    """
    lines = []
    for case in cases:
        expected, got = reference(case), play(case)
        for part in fields(Outcome):
            right, wrong = getattr(expected, part.name), getattr(got, part.name)
            if right != wrong:
                raise ConformanceError(
                    f"Expected {door} to give the environment's {part.name} in {case.name!r}, "
                    f"{right!r:.200}, got {wrong!r:.200}. The bridge changes the episode."
                )
        ending = expected.stop_reason or "runs"
        lines.append(
            f"{door}: {case.name}: {len(expected.tokens)} ids, {sum(expected.mask)} of the policy, "
            f"reward {expected.reward:g}, {ending}: the same"
        )
    return lines
