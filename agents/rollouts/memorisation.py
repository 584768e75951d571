"""Memorisation: right rollouts become search-free paths, which are imitated beside the policy loss.

R1-Searcher++ (arXiv 2505.17005) rewrites right rollouts, with what they retrieved, into solutions
that state the facts from memory, keeps those whose answer is right, and adds their negative
log-likelihood, times .1, to the loss. Here the rewriters, which are in
:mod:`search_env.agents.rollouts.rewriters`, return ids; each path is written into an episode of the
environment's own rules, and what it learns from is that episode. How the paper chooses rollouts,
how often and how many it rewrites, and how the loss is normalised is not published: these are
settings, and the loss is a mean over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from search_env.agents.rollouts.rewriters import Rewriter
from search_env.agents.rollouts.sample_file import RULES
from search_env.agents.types import Example, Trajectory
from search_env.core.dynamics import Dynamics
from search_env.errors import ConfigurationError
from search_env.typed_values import check_fields
from search_env.types import Question, Source, TagRole, TagWritten, TokenIds, Transcript
from search_env.validation import check_amount, check_choice, check_count

MODEL, ORACLE = "model", "oracle"


@dataclass(frozen=True, kw_only=True, slots=True)
class MemorisationConfig:
    """What is memorised, when, and by whom it is rewritten.

    Attributes:
        weight: Weight of the paths' negative log-likelihood, a mean over their tokens, beside the
            policy loss: .1 as published; 0 for no memorisation.
        source: Who rewrites: ``"model"``, the model in training; ``"oracle"``, the questions' known
            steps; or the address of an OpenAI-compatible endpoint. The paper has a separate model
            of unknown origin.
        endpoint_model: Name of the model at an endpoint.
        keep: Names of rules of :mod:`search_env.agents.rollouts.sample_file`, which all must hold
            of a rollout before it is rewritten, and of its path. The paper asks for right answers;
            the default also asks for the right format, which else would be taught against.
        min_searches: Rollouts with fewer searches are not rewritten. With 0 they may be, as in the
            paper's figure, where some come without retrieved information.
        per_question: Paths of each question in a step, those of rollouts that searched first, then
            of those with the fewest searches. Not published; rollouts of one question retrieve the
            same facts, and rewriting takes time.
        share: Share of the questions with a right rollout that are rewritten in a step.
        first_step: The first step with memorisation, from 0.
        last_step: The last one; None for that of the run.
        every: Steps from one with memorisation to the next.
        tries: How often a rollout is rewritten until a path is kept.
        max_tokens: Most tokens of a path.
        prompt: What the rewriter is asked, with ``{documents}`` and ``{question}``; None for the
            package's own words.
        statement: How the oracle states a fact, with ``{query}`` and ``{answer}``.
        temperature: Sampling temperature at an endpoint. The model samples as in its rollouts.
        timeout: Seconds for a reply of an endpoint.
        retries: Further tries where an endpoint was not reached, was busy or failed.
        concurrency: Requests to an endpoint at a time.

    Raises:
        ConfigurationError: A value out of its range.

    Example:
        >>> [step for step in range(8) if MemorisationConfig(weight=0.1, every=3).is_due(step)]
        [0, 3, 6]
    """

    weight: float = 0.0
    source: str = MODEL
    endpoint_model: str = ""
    keep: tuple[str, ...] = ("r1-searcher++",)
    min_searches: int = 0
    per_question: int = 1
    share: float = 1.0
    first_step: int = 0
    last_step: int | None = None
    every: int = 1
    tries: int = 1
    max_tokens: int = 256
    prompt: str | None = None
    statement: str = "{query}: {answer}."
    temperature: float = 0.0
    timeout: float = 120.0
    retries: int = 3
    concurrency: int = 8

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self)
        for name in self.keep:
            check_choice("keep of the memorisation", name, list(RULES))
        check_amount("weight of the memorisation", self.weight)
        check_amount("temperature of the memorisation", self.temperature)
        for name, value, least in (
            ("min_searches", self.min_searches, 0),
            ("per_question", self.per_question, 1),
            ("first_step", self.first_step, 0),
            ("last_step", self.first_step if self.last_step is None else self.last_step, 0),
            ("every", self.every, 1),
            ("tries", self.tries, 1),
            ("max_tokens", self.max_tokens, 1),
            ("retries", self.retries, 0),
            ("concurrency", self.concurrency, 1),
        ):
            check_count(f"{name} of the memorisation", value, least)
        if not 0.0 < self.share <= 1.0:
            raise ConfigurationError(
                f"Expected share of the memorisation above 0 and at most 1, got {self.share!r}. "
                "Set weight=0 for no memorisation."
            )
        self._check_source()
        for name, text, places in (
            ("prompt", self.prompt, ("{documents}", "{question}")),
            ("statement", self.statement, ("{answer}",)),
        ):
            if text is not None and not all(place in text for place in places):
                raise ConfigurationError(
                    f"Expected {name} of the memorisation to hold {' and '.join(places)}, got "
                    f"{text!r}. Add what is missing."
                )

    def _check_source(self) -> None:
        if self.uses_endpoint != bool(self.endpoint_model):
            raise ConfigurationError(
                f"Expected endpoint_model of the memorisation with an endpoint as its source, and "
                f"only then, got source={self.source!r}, endpoint_model={self.endpoint_model!r}. "
                "Change one of them."
            )
        if not self.uses_endpoint:
            advice = "Pass one of these, or the address of an endpoint, http://HOST/v1."
            check_choice("source of the memorisation", self.source, (MODEL, ORACLE), advice)

    @property
    def uses_endpoint(self) -> bool:
        """Whether an endpoint rewrites."""
        return self.source.startswith(("http://", "https://"))

    def is_due(self, step: int) -> bool:
        """Return whether rollouts of a step, counted from 0, are rewritten."""
        is_before_end = self.last_step is None or step <= self.last_step
        since = step - self.first_step
        return self.weight > 0.0 and since >= 0 and is_before_end and since % self.every == 0


class RightRollout(NamedTuple):
    """A rollout that may be rewritten; group and member are those of its trajectory."""

    group: int
    member: int
    transcript: Transcript


class RightRollouts:
    """Collects the rollouts of a step that may be rewritten; its method is for ``collect``."""

    def __init__(self, config: MemorisationConfig) -> None:
        self._config = config
        self._groups: dict[int, list[RightRollout]] = {}
        self.count = 0  # of right rollouts, with enough searches or not

    def played(self, question: int, transcript: Transcript, trajectory: Trajectory) -> None:
        """Take a finished episode; an ``OnEpisode`` of :mod:`search_env.agents.rollouts.collect`.

        ``question`` is its index, and not used.
        """
        del question
        if not trajectory.valid or not keeps(self._config, transcript):
            return
        self.count += 1
        if len(transcript.searches) >= self._config.min_searches:
            rollout = RightRollout(trajectory.group, trajectory.member, transcript)
            self._groups.setdefault(trajectory.group, []).append(rollout)

    def chosen(self, seed: int) -> list[RightRollout]:
        """Return the rollouts to rewrite, whatever the order in which they were played."""
        chosen: list[RightRollout] = []
        for group, members in sorted(self._groups.items()):
            if np.random.default_rng((seed, group)).random() >= self._config.share:
                continue
            in_order = sorted(members, key=_effort)
            chosen += in_order[: self._config.per_question]
        return chosen


def _effort(rollout: RightRollout) -> tuple[bool, int, int]:
    """Return what rollouts of a question are ordered by: those with documents come first."""
    searches = len(rollout.transcript.searches)
    return not searches, searches, rollout.member


def keeps(config: MemorisationConfig, transcript: Transcript) -> bool:
    """Return whether the rules of a configuration hold of an episode."""
    return all(RULES[name](transcript) for name in config.keep)


def search_free_episode(dynamics: Dynamics, question: Question, ids: TokenIds) -> Transcript | None:
    """Return the episode in which a policy writes a path, up to its answer.

    Args:
        dynamics: Of the environment's rules, with one row.
        question: The question.
        ids: What the policy writes, without prompt; ids after the answer are left out.

    Returns:
        The finished episode; None where the path tries to search, or gives no answer.
    """
    dynamics.begin(0, question)
    episode = dynamics.episodes[0]
    for token in ids.tolist():
        if episode.stop_reason is not None:
            break
        if dynamics.append(slice(None), np.array([token])):
            return None
    transcript = dynamics.transcript(0)
    tools = {pair.name for pair in dynamics.protocol.pairs(TagRole.TOOL)}
    events = transcript.events
    searched = any(isinstance(e, TagWritten) and e.tag.pair in tools for e in events)
    return None if searched or transcript.answer is None else transcript


def imitated(transcript: Transcript) -> Example:
    """Return an episode to imitate: the policy's tokens count."""
    weights = (transcript.sources == Source.POLICY).astype(np.float32)
    return Example(transcript.tokens, weights)


class Memorised(NamedTuple):
    """The paths of a step."""

    examples: list[Example]
    chosen: int  # rollouts that were to be rewritten
    written: int  # paths that were written for them, repeated tries included


def memorise(
    dynamics: Dynamics,
    rewriter: Rewriter,
    rollouts: Sequence[RightRollout],
    config: MemorisationConfig,
    seed: int,
) -> Memorised:
    """Rewrite right rollouts, and return the paths that are kept, in the order of the rollouts.

    A path is kept if it neither searches nor tries to, and the rules of the configuration hold of
    it. What is sampled depends on the seed, the rollout's group and member and the try alone.
    """
    kept: dict[int, Example] = {}
    left, written = list(range(len(rollouts))), 0
    for number in range(config.tries if rewriter.varies else 1):
        if not left:
            break
        asked = [rollouts[place] for place in left]
        seeds = [_seed(seed, r.group, r.member, number) for r in asked]
        paths = rewriter.rewrite([r.transcript for r in asked], seeds)
        for place, path in zip(left, paths, strict=True):
            if path is None:
                continue
            written += 1
            question = rollouts[place].transcript.question
            episode = search_free_episode(dynamics, question, path)
            if episode is not None and keeps(config, episode):
                kept[place] = imitated(episode)
        left = [place for place in left if place not in kept]
    return Memorised([kept[place] for place in sorted(kept)], len(rollouts), written)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
