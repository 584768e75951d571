"""What may be revised: right episodes of one environment that can be executed again as they were.

Everything else is refused by name, before anything is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search_env.errors import ConfigurationError
from search_env.protocols.registry import get_protocol
from search_env.recording.record import RecordedEpisode
from search_env.recording.replay import recorded_env, replay_episode
from search_env.recording.revise.guards import what_is_wrong
from search_env.recording.revise.settings import RevisionSettings
from search_env.validation import check_choice

WRONG = ("raise", "skip")

# Arguments that may differ among the episodes of a file: they change no token.
_FREE = ("reward", "action_mask", "on_retrieval_error", "box_length", "stable_infos")


def check_episodes(
    episodes: Iterable[RecordedEpisode], settings: RevisionSettings, *, wrong: str = "raise"
) -> list[RecordedEpisode]:
    """Return the episodes that are revised: all of them, or the right ones of them.

    Args:
        episodes: Recorded ones, of one environment.
        settings: What counts as right.
        wrong: Treatment of episodes with a wrong answer or a fault of the format: ``"raise"``, or
            ``"skip"`` to leave them out.

    Raises:
        ConfigurationError: No episode, a wrong one, one of another environment or protocol, or one
            whose protocol is not registered.
        ReplayMismatchError: An episode cannot be executed again as it was: the corpus, the
            tokenizer or the rules have changed.
    """
    check_choice("wrong", wrong, WRONG)
    right: list[RecordedEpisode] = []
    first: RecordedEpisode | None = None
    for episode in episodes:
        first = episode if first is None else first
        _check_same_rules(episode, first)
        problem = what_is_wrong(episode.transcript, settings)
        if problem and wrong == "raise":
            raise ConfigurationError(
                f"{episode.place}, question {episode.transcript.question.id!r}: expected a right "
                f"episode, got {problem}. Only right ones are revised: keep those (search-env "
                "sample --keep right --keep well-formed), or leave the others out (--wrong skip)."
            )
        if not problem:
            right.append(episode)
    if not right:
        raise ConfigurationError(
            f"Expected right episodes to revise, got {'wrong ones alone' if first else 'none'}. "
            "Sample some: search-env sample --keep right."
        )
    _check_unchanged(right)
    return right


def _check_same_rules(episode: RecordedEpisode, first: RecordedEpisode) -> None:
    """Check that an episode is of the environment of the first one, whose protocol is known."""
    if episode.transcript.markup is None:
        get_protocol(episode.transcript.protocol)  # raises an error that names what there is
    for name, value, expected in (
        ("protocol", episode.transcript.protocol, first.transcript.protocol),
        ("environment", episode.env_id, first.env_id),
        ("tokenizer", episode.tokenizer.name, first.tokenizer.name),
        ("tokenizer", episode.tokenizer.digest[:12], first.tokenizer.digest[:12]),
        *(
            (f"argument {name}", episode.arguments.get(name), first.arguments.get(name))
            for name in {**first.arguments, **episode.arguments}
            if name not in _FREE
        ),
    ):
        if value != expected:
            raise ConfigurationError(
                f"{episode.place}: expected an episode of the same environment as {first.place}, "
                f"with {name} {expected!r}, got {value!r}. Revise them from files of their own."
            )


def _check_unchanged(episodes: Sequence[RecordedEpisode]) -> None:
    """Execute episodes again, which raises where anything differs."""
    env = recorded_env(episodes[0])
    for episode in episodes:
        replay_episode(episode, env)
    env.close()
