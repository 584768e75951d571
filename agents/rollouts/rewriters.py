"""Rewriters: from a right rollout to a path that states the facts from memory, without a search.

=================  =============================================================================
:class:`Oracle`    writes down the question's known steps
:class:`Model`     the model in training, asked with the question and what was retrieved
``Endpoint``       another model, of :mod:`search_env.agents.rollouts.rewriting_endpoint`
=================  =============================================================================

They return ids of the policy, without a prompt. Whether a path is any good is not theirs to say:
:mod:`search_env.agents.rollouts.memorisation` checks it by the rules of the environment.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from search_env.agents.inference.rollout_engine import RolloutEngine
from search_env.core.dynamics import Dynamics
from search_env.errors import ConfigurationError
from search_env.protocols.grammar import prompt_thoughts
from search_env.protocols.protocol import Consequence, Protocol
from search_env.protocols.tagged_text import answer_text, without_tags
from search_env.rewards.evidence import passages_seen
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Question, Source, TagRole, TokenIds, Transcript


class Rewriter(typing.Protocol):
    """Writes search-free paths."""

    @property
    def varies(self) -> bool:
        """Whether another seed may give another path."""

    def rewrite(
        self, rollouts: Sequence[Transcript], seeds: Sequence[int]
    ) -> list[TokenIds | None]:
        """Return the ids of a path for each right rollout, None where it could not be written."""


def oracle_path(
    protocol: Protocol, question: Question, thoughts: Sequence[str], statement: str
) -> str:
    r"""Return the text that states a question's known steps from memory, then its answer.

    Each step is a thought of its own, in the protocol's first tags for thoughts that the prompt did
    not open; where it opened the only ones, the steps stand in them; and without such tags there is
    the answer alone.

    Args:
        protocol: The protocol.
        question: A question with known hops.
        thoughts: Names of the thoughts that the prompt left open.
        statement: A step, with ``{query}`` and ``{answer}``.

    Example:
        >>> from search_env.protocols.registry import get_protocol
        >>> from search_env.types import Hop
        >>> asked = Question("q", "Where is Ulm?", ("Germany",), hops=(Hop("Ulm", "Germany"),))
        >>> oracle_path(get_protocol("r1-searcher++"), asked, (), "{query} is in {answer}.")
        '<internal> Ulm is in Germany. </internal>\n\\boxed{ Germany }'
    """
    facts = [
        without_tags(
            protocol, statement.replace("{query}", hop.query).replace("{answer}", hop.answer)
        )
        for hop in question.hops
    ]
    free = [pair for pair in protocol.pairs(TagRole.REASON) if pair.name not in thoughts]
    if free:
        text = "".join(f"{free[0].open} {fact} {free[0].close}\n" for fact in facts)
    else:
        text = "".join(f" {fact}\n" for fact in facts) if thoughts else ""
    return text + answer_text(protocol, question.answers[0], thoughts=thoughts)


class Oracle:
    """Writes down the known steps of a question, for datasets that have them."""

    varies = False

    def __init__(self, protocol: Protocol, tokenizer: Tokenizer, statement: str) -> None:
        self._protocol, self._tokenizer, self._statement = protocol, tokenizer, statement

    def rewrite(
        self, rollouts: Sequence[Transcript], seeds: Sequence[int]
    ) -> list[TokenIds | None]:
        """Return the ids of the known steps; a question without any is not rewritten."""
        del seeds
        return [self._path(rollout) if rollout.question.hops else None for rollout in rollouts]

    def _path(self, rollout: Transcript) -> TokenIds:
        thoughts = prompt_thoughts(rollout)
        text = oracle_path(self._protocol, rollout.question, thoughts, self._statement)
        return self._tokenizer.encode(text)


class RewritingTask:
    """What a rewriter is asked: rules in the protocol's tags, the documents, the question.

    ``prompt`` replaces the package's own words; it holds ``{documents}`` and ``{question}``.
    """

    def __init__(self, protocol: Protocol, prompt: str | None = None) -> None:
        self._protocol, self._prompt = protocol, prompt
        answer = protocol.pair(TagRole.ANSWER)
        reasons = protocol.pairs(TagRole.REASON)
        place = f", as {reasons[0].open} the fact {reasons[0].close}" if reasons else ""
        self._rules = (
            "You are given a question and what a search found for it. Write the solution as if all "
            f"of it were known from memory: state each fact that is needed{place}. Do not search, "
            "and do not mention what was found. At the end, give the final answer, a few words "
            f"without explanations, as {answer.open} the final answer {answer.close}."
        )

    def protocol(self, max_policy_tokens: int) -> Protocol:
        """Return the protocol whose prompt asks to rewrite, whose questions are :meth:`of`.

        Its prompt ends as the policy's does, so that the same thoughts are open. Nothing can be
        searched, and no notice is inserted.
        """
        protocol, own = self._protocol, self._prompt is not None
        tail = protocol.base_prompt.partition("{question}")[2]
        ends = dict.fromkeys(protocol.faults, Consequence.END)
        return replace(
            protocol,
            name=f"{protocol.name} (rewriting)",
            base_prompt="{question}" + tail if own else f"{self._rules}\n\n{{question}}{tail}",
            chat_system="" if own else self._rules,
            chat_user="{question}",
            clean_question=str,  # it is cleaned already
            faults=ends,
            max_searches=0,
            max_policy_tokens=max_policy_tokens,
        )

    def of(self, rollout: Transcript) -> Question:
        """Return the question of the rewriting protocol for a rollout."""
        documents = "\n".join(text.strip() for text in passages_seen(rollout)) or "None"
        question = self._protocol.clean_question(rollout.question.text)
        template = self._prompt or "Found:\n{documents}\n\nQuestion:{question}"
        head, _, tail = template.partition("{documents}")  # documents may hold {question}
        text = documents.join(part.replace("{question}", question) for part in (head, tail))
        return replace(rollout.question, text=text)


class Model:
    """The model in training rewrites, by the engine that samples its rollouts.

    ``style`` and ``chat_template_kwargs`` are those of the policy's prompts; rows of the engine are
    in use only during a call.
    """

    varies = True

    def __init__(
        self,
        engine: RolloutEngine,
        task: RewritingTask,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        style: str = "base",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._engine, self._task = engine, task
        self._dynamics = Dynamics(
            replace(task.protocol(max_tokens), max_tokens=engine.max_tokens),
            tokenizer,
            rows=engine.rows,
            prompt=style,
            chat_template_kwargs=chat_template_kwargs,
        )

    def rewrite(
        self, rollouts: Sequence[Transcript], seeds: Sequence[int]
    ) -> list[TokenIds | None]:
        """Return what the model writes; None where the engine has no room for the prompt."""
        paths: list[TokenIds | None] = []
        for start in range(0, len(rollouts), self._engine.rows):
            part = slice(start, start + self._engine.rows)
            paths += self._write(rollouts[part], seeds[part])
        return paths

    def _write(self, rollouts: Sequence[Transcript], seeds: Sequence[int]) -> list[TokenIds | None]:
        """Return the paths of at most as many rollouts as the engine has rows."""
        dynamics, engine = self._dynamics, self._engine
        begun = [row for row, rollout in enumerate(rollouts) if self._begin(row, rollout)]
        prompts = [dynamics.tokens[row, : dynamics.length(row)].copy() for row in begun]
        if begun:
            engine.begin(begun, prompts, [seeds[row] for row in begun])
        live = np.array(begun, np.int64)
        while len(live):
            dynamics.append(live, engine.decode(live).ids)  # nothing is searched for
            if dynamics.settled:
                ended = [r for r in dynamics.settled if dynamics.episodes[r].stop_reason]
                live = np.setdiff1d(live, ended)
        engine.release(begun)
        paths: list[TokenIds | None] = [None] * len(rollouts)
        for row in begun:
            episode = dynamics.transcript(row)
            paths[row] = episode.tokens[episode.sources == Source.POLICY]
        return paths

    def _begin(self, row: int, rollout: Transcript) -> bool:
        """Write the prompt of a row; return whether it leaves room."""
        try:
            self._dynamics.begin(row, self._task.of(rollout))
        except ConfigurationError:
            return False
        return True
