"""Retro-Search with an engine: roll-outs from the prefixes of many episodes side by side.

The algorithm is :mod:`search_env.recording.revise.retro_search`, which samples nothing; here its
branches are played in the rows of a vector environment. The roll-outs of a branch begin together,
so that their prefix is forwarded once, and as soon as rows are free another branch takes them. The
files are those of :mod:`search_env.agents.rollouts.revision_file`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from search_env.agents.errors import ContextLengthError
from search_env.agents.rollouts.branches import BranchQueue
from search_env.agents.rollouts.episode_queue import PlannedEpisode
from search_env.agents.rollouts.player import Player, check_rows
from search_env.agents.rollouts.revision_file import RevisionFile
from search_env.errors import ConfigurationError
from search_env.recording.files import read_episodes
from search_env.recording.revise.playback import Playback
from search_env.recording.revise.retro_search import RetroSearch, Revision
from search_env.types import Transcript

if TYPE_CHECKING:
    from search_env.agents.inference.rollout_engine import ForbiddingEngine
    from search_env.envs.search_qa import EnvState
    from search_env.envs.search_qa_vector import SearchQAVectorEnv


@dataclass(frozen=True, slots=True)
class RevisionCounts:
    """Totals of a file of revised episodes; pairs are sums before and after."""

    episodes: int
    revised: int
    searches: tuple[int, int]
    steps: tuple[int, int]
    tokens: tuple[int, int]
    tried: Counter[str]  # branches by operator and outcome, as "skip taken"
    from_memory: int  # revised ones whose documents hold neither the answer nor its support

    @property
    def failed(self) -> int:
        """Number of branches of which nothing is known, because a search failed in them."""
        return sum(n for name, n in self.tried.items() if name.endswith(" failed"))


@dataclass(frozen=True, slots=True)
class Played:
    """What a call has sampled: policy tokens, and seconds by name as of a collection."""

    policy_tokens: int
    branches: int
    seconds: Mapping[str, float]


def revise_episodes(
    envs: SearchQAVectorEnv,
    engine: ForbiddingEngine,
    search: RetroSearch,
    episodes: Sequence[Transcript],
    path: str | Path,
    *,
    reviser: str,
    keep: str = "all",
    seed: int = 0,
    settings: Mapping[str, Any] = MappingProxyType({}),
    progress: Callable[[int, int], None] | None = None,
) -> Played:
    """Revise right episodes and write them in their order.

    What is sampled for an episode depends on the seed, its number and its branches alone (in
    bfloat16, but for rounding), so neither the number of rows nor interruptions change the files.
    Branches of an earlier call are taken from the progress.

    Args:
        envs: As for :func:`~search_env.agents.rollouts.collect.collect`, with the arguments that
            the episodes were recorded with
            (:func:`~search_env.recording.replay.recorded_envs`); at least as many rows as a branch
            has roll-outs.
        engine: Likewise; it forbids ids.
        search: What revises; its tokenizer is that of ``envs``.
        episodes: Right ones, see :func:`~search_env.recording.revise.checks.check_episodes`.
        path: The file of episodes; one that a call with the same settings began is continued.
        reviser: Name of the engine's model, for the records.
        keep: ``"all"``, or ``"revised"`` for those in which a branch was taken.
        seed: Non-negative.
        settings: What names the engine's model, as JSON; only a call with equal ones goes on.
        progress: Called with the number of episodes that are done, and of all of them.

    Returns:
        What this call has sampled.

    Raises:
        ConfigurationError: A bad argument, or the file was begun with other settings.
        ContextLengthError: An episode is longer than the environment's context.
        DataFormatError: The file's progress is damaged.
        StorageError: The files cannot be written; what was written before is kept.
    """
    check_rows(envs, engine)
    _check(envs, search, episodes)
    own = {"sampling": dataclasses.asdict(engine.sampling), "seed": seed, **settings}
    options: dict[str, Any] = {"reviser": reviser, "keep": keep, "settings": own}
    with RevisionFile(path, envs, search, episodes, **options) as file:

        def written() -> None:
            if progress is not None:
                progress(file.done, len(episodes))

        def finished(revision: Revision) -> None:
            file.write(revision)
            written()

        written()
        queue = BranchQueue(
            search,
            episodes,
            seed,
            first=file.done,
            known=file.outcome,
            judged=file.add_outcome,
            finished=finished,
        )
        player = Player(envs, engine, _Rollouts(queue, Playback(envs)))
        if file.done < len(episodes):
            player.play()
        file.finish()
    return Played(player.num_policy_tokens, queue.played, player.seconds)


def count_revisions(path: str | Path) -> RevisionCounts:
    """Return the totals of a file of revised episodes.

    Raises:
        DataNotFoundError: There is no such file.
        EpisodeFileError: A line is damaged.
        ConfigurationError: An episode was not written by Retro-Search.
    """
    sums, tried = Counter[str](), Counter[str]()
    for episode in read_episodes(path):
        record = episode.revision
        if record is None:
            raise ConfigurationError(
                f"{episode.place}: expected an episode that was revised, got another. Name a file "
                "of search-env revise."
            )
        fields = record._asdict()
        sums.update({name: n for name, n in fields.items() if name.endswith(("_before", "_after"))})
        sums.update(episodes=1, revised=bool(record.ops_accepted))
        sums.update(memory=bool(record.ops_accepted) and not record.grounded)
        tried.update(record.tried)
    return RevisionCounts(
        episodes=sums["episodes"],
        revised=sums["revised"],
        searches=(sums["n_search_before"], sums["n_search_after"]),
        steps=(sums["steps_before"], sums["steps_after"]),
        tokens=(sums["tokens_before"], sums["tokens_after"]),
        tried=tried,
        from_memory=sums["memory"],
    )


class _Rollouts:
    """The roll-outs of a queue of branches as episodes that go on from their states."""

    def __init__(self, queue: BranchQueue, playback: Playback) -> None:
        self._queue, self._playback = queue, playback
        self.total = 0

    def take(self, count: int, policy_tokens: int) -> list[PlannedEpisode]:
        """Return the roll-outs of whole branches for rows that are free."""
        del policy_tokens
        planned = []
        states: dict[int, EnvState] = {}  # by branch
        for group, member, branch, seed, ban in self._queue.take(count):
            if group not in states:
                states[group] = self._playback.state(branch.trace, branch.position)
            order, self.total = self.total, self.total + 1
            state, question = states[group], 0  # the state has a question of its own
            planned.append(
                PlannedEpisode(order, group, member, question, seed, state, ban, branch.limit)
            )
        return planned

    def ended(self, episode: PlannedEpisode, transcript: Transcript) -> None:
        """Hand a roll-out back."""
        self._queue.ended(episode.group, episode.member, transcript)


def _check(envs: SearchQAVectorEnv, search: RetroSearch, episodes: Sequence[Transcript]) -> None:
    if envs.num_envs < search.settings.rollouts:
        raise ConfigurationError(
            f"Expected at least as many rows as roll-outs of a branch, {search.settings.rollouts}, "
            f"got {envs.num_envs}. Raise num_envs."
        )
    for episode in episodes:
        if len(episode.tokens) > envs.protocol.max_tokens:
            raise ContextLengthError(
                f"Expected episodes of at most max_tokens={envs.protocol.max_tokens} tokens, got "
                f"{len(episode.tokens)} of question {episode.question.id!r}. Raise max_tokens, or "
                "leave the episode out."
            )
