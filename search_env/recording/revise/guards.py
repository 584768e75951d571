"""What keeps bad traces out: only right and well-formed ones are revised, and none by luck.

A verifier says whether a trace is right. That of search episodes compares the answer as the
environment does and asks for a well-formed episode; plain traces bring their own.
"""

from __future__ import annotations

from collections.abc import Callable

from search_env.metrics.answers import cover_exact_match, exact_match, token_f1
from search_env.metrics.golds_in_text import any_gold_in
from search_env.protocols.grammar import format_violations
from search_env.recording.revise.settings import RevisionSettings
from search_env.rewards.evidence import passages_seen
from search_env.types import Transcript

Verifier = Callable[[Transcript], bool]
"""Says whether a finished trace is right."""

_SCORES = {
    "exact_match": exact_match,
    "f1": token_f1,
    "cover_exact_match": cover_exact_match,
}


def episode_verifier(settings: RevisionSettings) -> Verifier:
    """Return the verifier of search episodes: a right answer in a well-formed episode."""
    return lambda episode: not what_is_wrong(episode, settings)


def what_is_wrong(episode: Transcript, settings: RevisionSettings) -> str:
    """Return what keeps an episode from being right and well formed, "" where nothing does."""
    stop = episode.stop_reason
    if stop is None or not stop.valid:
        return "an episode that did not end" if stop is None else "one whose retrieval failed"
    score = _SCORES[settings.matcher](episode.answer, episode.question.answers)
    if score < settings.least_score:
        golds = list(episode.question.answers)
        return f"the answer {episode.answer!r} of {settings.matcher} {score:g} for {golds}"
    violations = format_violations(episode)
    return f"one that is not well formed ({', '.join(violations)})" if violations else ""


def is_grounded(new: Transcript, before: Transcript, grounding: str) -> bool:
    """Return whether what an episode retrieved still holds its answer, or its support.

    Args:
        new: The revised episode.
        before: The episode that it was made of.
        grounding: See :class:`~search_env.recording.revise.settings.RevisionSettings`; ``"off"``
            asks whether either holds. Answers that are not looked for in texts (yes, no) need their
            supporting documents, and questions without known ones their answer.
    """
    if grounding != "supporting" and _holds_answer(new):
        return True
    return grounding != "answer" and _keeps_support(new, before)


def _holds_answer(episode: Transcript) -> bool:
    return bool(any_gold_in(passages_seen(episode), episode.question.answers))


def _keeps_support(new: Transcript, before: Transcript) -> bool:
    """Return whether all supporting documents that were retrieved before, if any, still are."""
    supporting = set(new.question.supporting)
    kept = supporting & _retrieved(before)
    return bool(kept) and kept <= _retrieved(new)


def _retrieved(episode: Transcript) -> set[str]:
    return {document for search in episode.searches for document in search.document_ids}
