"""One run: an agent, a protocol, a file of results that can be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path

from search_env.benchmarks.harness.ablations import ABLATIONS, SWAPPED, ablated_retriever
from search_env.benchmarks.harness.results_file import (
    EpisodeResult,
    Results,
    ResultsWriter,
    read_results,
)
from search_env.benchmarks.harness.spec import BenchmarkProtocol
from search_env.benchmarks.players.base import (
    BenchmarkAgent,
    Decoding,
    EpisodeKey,
    EpisodeToRecord,
    Evaluation,
)
from search_env.datasets.rows import one_line
from search_env.envs.config import EnvComponents, EnvConfig
from search_env.evaluation.causal_evidence import Swap, SwappedDocuments, plan_swaps
from search_env.interrupts import watch_signals
from search_env.provenance import run_provenance
from search_env.recording.files import EpisodeWriter
from search_env.redaction import redacted
from search_env.retrieval.base import Retriever
from search_env.retrieval.registry import register_retriever
from search_env.types import Question
from search_env.validation import check_choice

__all__ = ["run"]

GREEDY = Decoding()
_STOPPING = "Stopping after this episode ..."


def run(
    protocol: BenchmarkProtocol,
    agent: BenchmarkAgent,
    path: Path,
    *,
    ablation: str | None = None,
    decoding: Decoding = GREEDY,
    limit: int | None = None,
    seed: int = 0,
    command: str = "",
    episodes: Path | None = None,
    begin: Callable[[int, int], None] | None = None,
    progress: Callable[[EpisodeResult], None] | None = None,
) -> Results:
    """Play what a file of results does not hold yet, and return all of it.

    Episodes in which retrieval or an endpoint failed are not written; the next call plays them
    again.

    Args:
        protocol: Fixes everything but the agent.
        agent: Plays the episodes.
        path: File of results: a new one, or one that the same run has begun.
        ablation: One of :data:`~search_env.benchmarks.harness.ablations.ABLATIONS`, or None. Under
            ``swapped-documents`` questions are played one at a time, those that have a swap.
        decoding: How a model's tokens are chosen, and how often.
        limit: Only the first questions; None for all. The id then says so.
        seed: Seed of environment and agent.
        command: Command line, for the record.
        episodes: A file to record the episodes in that are played now.
        begin: Called before the first episode with the numbers of episodes done and in all.
        progress: Called with each finished episode.

    Raises:
        DigestMismatchError: Questions, corpus or rules are not those of the id.
        ResultsError: The file holds something else, or is damaged.
    """
    check_choice("ablation", ablation, [None, *ABLATIONS])
    components = EnvComponents(EnvConfig(**protocol.environment()))
    protocol.check(components)
    count = len(components.questions) if limit is None else min(limit, len(components.questions))
    keys = list(product(range(count), range(decoding.samples)))
    swaps = plan_swaps(components.questions) if ablation == SWAPPED else None
    if swaps is not None:
        keys = [key for key in keys if components.questions[key[0]].id in swaps]
    ablated = ablated_retriever(ablation, components.retriever, components.questions)
    retriever = _registered(ablation, protocol, ablated) if ablation else None
    header = {
        "protocol": result_id(protocol, decoding, limit, len(components.questions)),
        "digests": protocol.digests(components),
        "agent": dict(agent.description),
        "decoding": {"temperature": decoding.temperature, "top_p": decoding.top_p},
        "ablation": ablation,
        "seed": seed,
        "command": redacted(command),
        **run_provenance(),
    }
    with ResultsWriter(path, header) as writer, watch_signals(_STOPPING) as interrupts:
        missing = [key for key in keys if key not in writer.done]
        recorder = _Recorder(episodes)
        if begin is not None:
            begin(len(keys) - len(missing), len(keys))

        def on_episode(result: EpisodeResult, episode: EpisodeToRecord) -> None:
            if result.record.valid:
                with interrupts.blocked():
                    recorder.write(episode)
                    writer.write(result)
                interrupts.check()
            if progress is not None:
                progress(result)

        evaluation = Evaluation(protocol, retriever, seed, decoding)
        for some in _at_a_time(missing, ablated, swaps, components.questions):
            agent.play(evaluation, some, on_episode)
    return read_results(path)


def _at_a_time(
    missing: Sequence[EpisodeKey],
    ablated: Retriever,
    swaps: Mapping[str, Swap] | None,
    questions: Sequence[Question],
) -> Iterator[Sequence[EpisodeKey]]:
    """Yield what is played at a time: everything, or one question with its own swap."""
    if swaps is None or not isinstance(ablated, SwappedDocuments):
        if missing:
            yield missing
        return
    for index, some in groupby(missing, key=itemgetter(0)):
        ablated.swap = swaps[questions[index].id]
        yield list(some)


def result_id(
    protocol: BenchmarkProtocol,
    decoding: Decoding = GREEDY,
    limit: int | None = None,
    questions: int | None = None,
) -> str:
    """Return the id that results are filed under: the protocol's, and what departs from it.

    Example:
        >>> from search_env.benchmarks.question_sets.registry import get_benchmark
        >>> world = get_benchmark("world-2hop/r1-searcher/bm25-world1k/v1")
        >>> result_id(world, Decoding(1.0, samples=8), limit=50)
        'world-2hop/r1-searcher/bm25-world1k/v1@t1x8+first50'
    """
    first = f"first{limit}" if limit is not None and limit < (questions or limit + 1) else ""
    departures = [part for part in (decoding.label, first) if part]
    return protocol.id + ("@" + "+".join(departures) if departures else "")


class _Recorder:
    """Writes whole episodes, each by the writer of its own environment."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writers: dict[EnvComponents, EpisodeWriter] = {}
        self._is_first = True

    def write(self, episode: EpisodeToRecord) -> None:
        if self._path is None:
            return
        components = episode.env.components
        if components not in self._writers:
            self._writers[components] = EpisodeWriter(self._path, episode.env)
        # An episode is recorded before it is scored: a run killed between the two left it here.
        self._writers[components].write(
            episode.transcript,
            seed=episode.seed,
            signals=episode.signals,
            unless_last=self._is_first,
        )
        self._is_first = False


def _registered(ablation: str, protocol: BenchmarkProtocol, retriever: Retriever) -> str:
    """Make an ablation's retriever known by name, so that recorded episodes can say what it was."""
    name = f"{ablation} of {protocol.id}"
    register_retriever(name, lambda: retriever)
    return name


def overlap(trained_on: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """Return the ids of questions whose text (case, white space aside) a model was trained on."""
    texts = {one_line(question.text).casefold() for question in trained_on}
    return [q.id for q in questions if one_line(q.text).casefold() in texts]
