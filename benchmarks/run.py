"""One run: a player, a protocol, a file of results that can be gone on with.

::

    from benchmarks.question_sets.registry import get_protocol
    from benchmarks.players.base import AgentPlayer
    from benchmarks.run import run

    protocol = get_protocol("world-2hop/r1-searcher/bm25-world1k/v1")
    results = run(protocol, AgentPlayer("mine", agent), Path("runs/mine.jsonl"))
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.harness.ablations import CONTROLS, controlled
from benchmarks.harness.results_file import Played, Results, ResultsWriter, read_results
from benchmarks.harness.spec import BenchmarkProtocol
from benchmarks.players.base import Ask, Decoding, Ending, Game, Player
from benchmarks.reports.measurement_page import processor
from search_env.arguments import check_choice
from search_env.datasets.records import one_line
from search_env.episode_files import EpisodeWriter
from search_env.setting import EnvConfig, Setting
from search_env.tasks import register_retriever
from search_env.types import Question

_PACKAGES = ("gymnasium", "numpy", "tokenizers", "bm25s", "torch", "transformers", "openai")
GREEDY = Decoding()


def run(
    protocol: BenchmarkProtocol,
    player: Player,
    path: Path,
    *,
    control: str | None = None,
    decoding: Decoding = GREEDY,
    limit: int | None = None,
    seed: int = 0,
    command: str = "",
    episodes: Path | None = None,
    begin: Callable[[int, int], None] | None = None,
    progress: Callable[[Played], None] | None = None,
) -> Results:
    """Play what a file of results does not hold yet, and return all of it.

    Episodes in which retrieval or an endpoint failed are not written; the next call plays them
    again.

    Args:
        protocol: Fixes everything but the agent.
        player: Plays.
        path: Of the results: a new file, or one that the same run has begun.
        control: One of :data:`~benchmarks.harness.ablations.CONTROLS`, or None.
        decoding: How a model's tokens are chosen, and how often.
        limit: Only the first questions; None for all. The id then says so.
        seed: Of environment and player.
        command: That began it, for the record.
        episodes: A file to record whole episodes in, to look at them; None for none. Episodes that
            an earlier call has played are in the file that it was given.
        begin: Told how many episodes are there and how many there will be, before the first.
        progress: Told of each episode that was finished.

    Raises:
        DigestMismatchError: Questions, corpus or rules are not those of the id.
        ResultsError: The file holds something else, or is damaged.
        ConfigurationError: A bad argument.
    """
    check_choice("control", control, [None, *CONTROLS])
    setting = Setting(EnvConfig(**protocol.environment()))
    protocol.check(setting)
    asked = _asked(setting.questions, limit, decoding.samples)
    retriever = _registered(control, protocol, setting) if control else None
    header = {
        "protocol": result_id(protocol, decoding, limit, len(setting.questions)),
        "digests": protocol.digests(setting),
        "agent": dict(player.description),
        "decoding": {"temperature": decoding.temperature, "top_p": decoding.top_p},
        "control": control,
        "seed": seed,
        "command": command,
        **circumstances(),
    }
    with ResultsWriter(path, header) as writer:
        left = [ask for ask in asked if ask not in writer.done]
        recorder = _Recorder(episodes)
        if begin is not None:
            begin(len(asked) - len(left), len(asked))

        def finished(played: Played, ending: Ending) -> None:
            if played.record.valid:
                writer.write(played)
                recorder.write(ending)
            if progress is not None:
                progress(played)

        if left:
            player.play(Game(protocol, retriever, seed, decoding), left, finished)
    return read_results(path)


def result_id(
    protocol: BenchmarkProtocol,
    decoding: Decoding = GREEDY,
    limit: int | None = None,
    questions: int | None = None,
) -> str:
    """Return the id that results are filed under: the protocol's, and what departs from it.

    A control is no part of it: it stands beside the agent that it takes the evidence from.

    Example:
        >>> from benchmarks.question_sets.registry import get_protocol
        >>> world = get_protocol("world-2hop/r1-searcher/bm25-world1k/v1")
        >>> result_id(world, Decoding(1.0, samples=8), limit=50)
        'world-2hop/r1-searcher/bm25-world1k/v1@t1x8+first50'
    """
    first = f"first{limit}" if limit is not None and limit < (questions or limit + 1) else ""
    said = [part for part in (decoding.label, first) if part]
    return protocol.id + ("@" + "+".join(said) if said else "")


def circumstances() -> dict[str, Any]:
    """Return when, where and with what a run is made."""
    found = {package: _version(package) for package in ("search-env", *_PACKAGES)}
    known = {package: number for package, number in found.items() if number is not None}
    versions = {"python": platform.python_version(), **known}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "hardware": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
    }


class _Recorder:
    """Writes whole episodes, each by the writer of its own environment."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writers: dict[int, EpisodeWriter] = {}

    def write(self, ending: Ending) -> None:
        if self._path is None:
            return
        key = id(ending.env.setting)
        if key not in self._writers:
            self._writers[key] = EpisodeWriter(self._path, ending.env)
        self._writers[key].write(ending.transcript, seed=ending.seed, signals=ending.signals)


def _registered(control: str, protocol: BenchmarkProtocol, setting: Setting) -> str:
    """Make a control's retriever known by name, so that recorded episodes can say what it was."""
    name = f"{control} of {protocol.id}"
    retriever = controlled(control, setting.retriever, setting.questions)
    register_retriever(name, lambda: retriever)
    return name


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def overlap(trained_on: Sequence[Question], asked: Sequence[Question]) -> list[str]:
    """Return the ids of asked questions whose text a model was trained on.

    Case and white space do not matter.

    Args:
        trained_on: Questions of the training set.
        asked: Questions of the benchmark.
    """
    known = {one_line(question.text).casefold() for question in trained_on}
    return [q.id for q in asked if one_line(q.text).casefold() in known]


def _asked(questions: Sequence[Question], limit: int | None, samples: int) -> list[Ask]:
    count = len(questions) if limit is None else min(limit, len(questions))
    return list(product(range(count), range(samples)))
