"""Environment time of an episode: this project's vector environment beside GEM's.

Run it in an environment of its own, which the peer is installed into::

    pip install gem-llm==0.1.0 datasets requests .
    SEARCH_ENV_DATA=<data folder> python -m search_env.benchmarks.speed.peers \
        --output benchmarks/results/speed_peers.md

Both replay the 625 published trajectories of R1-Searcher without network or model; a request is a
look-up. The peer steps once a turn, with text; this environment once a token, with ids.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.benchmarks.harness.spec import data_folder
from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.published_trajectories import (
    FILES,
    PublishedTrajectory,
    read_trajectories,
)
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import Document

ROWS, TOP_K, LENGTH = 64, 5, 8192
_TURNS = 16  # more than any trajectory has
_FILLERS = 500  # tokens that an uncounted episode may hold; a segment has 512 at most
_SEARCH = re.compile(r"<search>(.*?)</search>", re.DOTALL)  # the peer's rule
# CPU time: nothing here waits, and what else the machine runs stays out of it.
_clock = time.thread_time_ns


class Replayed(NamedTuple):
    """One trajectory as it is sent: the policy's ids, and its segments in the peer's tags."""

    trajectory: PublishedTrajectory
    ids: list[int]
    turns: list[str]


class Pass(NamedTuple):
    """Nanoseconds of one pass, episodes that ended by their answer, and searches that were run."""

    nanoseconds: int
    finished: int
    searches: int


def load_episodes(data: Path, tokenizer: Tokenizer) -> list[Replayed]:
    """Return all published trajectories, ready to be sent."""
    episodes = []
    for trajectory in (t for dataset in FILES for t in read_trajectories(data, dataset)):
        ids = [token for s in trajectory.segments for token in tokenizer.encode(s).tolist()]
        turns = [
            s.replace("<|begin_of_query|>", "<search>").replace("<|end_of_query|>", "</search>")
            for s in trajectory.segments
        ]
        episodes.append(Replayed(trajectory, ids, turns))
    return episodes


class Recorded:
    """The recorded documents by query: this project's retriever, and the peer's answer."""

    def __init__(self, episodes: Sequence[Replayed]) -> None:
        self._documents: dict[str, list[Document]] = {}
        self.parsed: dict[str, list[dict[str, Any]]] = {}
        for trajectory, _, turns in episodes:
            searches = zip(trajectory.queries, trajectory.documents, turns, strict=False)
            for query, documents, turn in searches:
                self._documents[query] = list(documents)
                self.parsed[_SEARCH.findall(turn)[0].strip()] = [
                    {"document": {"contents": f"{d.title}\n{d.text}"}, "score": 1.0}
                    for d in documents
                ]

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Look each query up."""
        return [self._documents[query][:k] for query in queries]


class VectorReplay:
    """:class:`SearchQAVectorEnv`, a token a row and step; ``warm`` keeps passages encoded."""

    def __init__(
        self,
        episodes: Sequence[Replayed],
        recorded: Recorded,
        *,
        questions: Path,
        tokenizer: str,
        rows: int = ROWS,
        warm: bool,
    ) -> None:
        when = "before" if warm else "when met"
        self.name = f"SearchQAVectorEnv, {rows} side by side, passages encoded {when}"
        make = partial(
            SearchQAVectorEnv,
            rows,
            dataset=str(questions),
            tokenizer=tokenizer,
            retriever=recorded,
            top_k=TOP_K,
            max_tokens=LENGTH,
            autoreset_mode="Disabled",
            copy=False,
        )
        self._actions, self._begins = schedule([episode.ids for episode in episodes], rows)
        self._env = make
        if warm:
            env = make()
            self._env = lambda: env
            self.run()

    def run(self) -> Pass:
        """Replay all episodes once."""
        env = self._env()
        results = []
        env.reset(options={"index": 0})
        start = _clock()
        for number, actions in enumerate(self._actions):
            if number in self._begins:
                env.reset(options=self._begins[number])
            results.append(env.step(actions))
        took = _clock() - start
        searches = sum(int(np.sum(infos.get("_query", 0))) for *_, infos in results)
        return Pass(took, sum(int(result[2].sum()) for result in results), searches)


def schedule(
    streams: Sequence[Sequence[int]], rows: int
) -> tuple[list[NDArray[np.int64]], dict[int, dict[str, Any]]]:
    """Return the actions of each step, and the options of the resets before some of them.

    A free row begins the longest stream left; rows left over play episodes that are not counted.
    """
    lines: list[list[int]] = [[] for _ in range(rows)]
    starts: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for index in sorted(range(len(streams)), key=lambda i: -len(streams[i])):
        row = min(range(rows), key=lambda i: len(lines[i]))
        starts[len(lines[row])][row] = index
        lines[row] += streams[index]
    last = max(map(len, lines))
    for row, line in enumerate(lines):
        for start in range(len(line), last, _FILLERS):
            starts[start][row] = 0
        line += [streams[0][0]] * (last - len(line))
    begins = {}
    for step, indices in starts.items():
        mask, index = np.zeros(rows, np.bool_), np.zeros(rows, np.int64)
        mask[list(indices)] = True
        index[list(indices)] = list(indices.values())
        begins[step] = {"reset_mask": mask, "index": index}
    return list(np.array(lines).T), begins


class GemVectorReplay:
    """GEM's ``SyncVectorEnv`` over ``QaEnv`` with its ``SearchTool``, a turn in each row a step."""

    name = f"GEM's vector environment, {ROWS} side by side, one turn a step"

    def __init__(self, episodes: Sequence[Replayed], recorded: Recorded) -> None:
        import datasets
        from gem.envs.qa_env import QaEnv
        from gem.tools.search_tool import SearchTool
        from gem.tools.tool_env_wrapper import ToolEnvWrapper
        from gem.vector.sync_vector_env import SyncVectorEnv

        datasets.disable_progress_bars()
        self._bases: list[Any] = []
        self._queues: list[list[Replayed]] = []
        self._searches = 0

        def make(share: Sequence[Replayed]) -> Any:
            tool = SearchTool(topk=TOP_K)

            def answer(query: str) -> Any:
                self._searches += 1
                return tool._passages2string(recorded.parsed[query][: tool.topk])

            tool._search = answer
            questions = datasets.Dataset.from_dict(
                {
                    "number": list(range(len(share))),
                    "question": [e.trajectory.question.text for e in share],
                    "answer": [list(e.trajectory.question.answers) for e in share],
                }
            )
            base = QaEnv(dataset=questions)
            self._bases.append(base)
            self._queues.append([share[number] for number in base.dataset["number"]])
            return ToolEnvWrapper(base, [tool], max_tool_uses=_TURNS)

        shares = [episodes[row::ROWS] for row in range(ROWS)]
        makers = [lambda share=share: make(share) for share in shares]
        self._env = SyncVectorEnv(["search"] * ROWS, makers)

    def run(self) -> Pass:
        """Replay all episodes once."""
        for base in self._bases:
            base.idx = 0
        written: defaultdict[int, dict[int, str]] = defaultdict(dict)
        for row, queue in enumerate(self._queues):
            for step, turn in enumerate(turn for episode in queue for turn in episode.turns):
                written[step][row] = turn
        env, self._searches = self._env, 0
        start = _clock()
        env.reset()
        results = [env.step(written[step]) for step in sorted(written)]
        took = _clock() - start
        return Pass(took, sum(int(np.sum(result[2])) for result in results), self._searches)


def write_questions(episodes: Sequence[Replayed], path: Path) -> Path:
    """Write the episodes' questions as FlashRAG does, in order."""
    with path.open("w", encoding="utf-8") as file:
        for question in (episode.trajectory.question for episode in episodes):
            row = {"id": question.id, "question": question.text}
            file.write(json.dumps({**row, "golden_answers": list(question.answers)}) + "\n")
    return path


def check(done: Pass, episodes: Sequence[Replayed]) -> None:
    """Raise unless all searches were run and all answers taken."""
    whole = len(episodes), sum(len(e.trajectory.queries) for e in episodes)
    if (done.finished, done.searches) != whole:
        raise RuntimeError(
            f"Expected {whole} episodes and searches, got {done.finished} and {done.searches}. "
            "Compare what the peer's rule reads out of a turn with the recorded query."
        )


def page(args: argparse.Namespace) -> str:
    """Measure everything and return the table."""
    data = data_folder()
    path = str(data / "tokenizers" / "qwen2.json.xz")
    tokenizer = load_tokenizer(path)
    episodes = load_episodes(data, tokenizer)
    recorded, count = Recorded(episodes), len(episodes)
    with tempfile.TemporaryDirectory() as folder:
        questions = write_questions(episodes, Path(folder) / "questions.jsonl")
        systems: list[Any] = [
            VectorReplay(episodes, recorded, questions=questions, tokenizer=path, warm=warm)
            for warm in (False, True)
        ]
        systems.append(GemVectorReplay(episodes, recorded))
        times = np.empty((args.repeats, len(systems)))
        for repeat, column in np.ndindex(times.shape):
            gc.collect()
            done = systems[column].run()
            check(done, episodes)
            times[repeat, column] = done.nanoseconds / count / 1e3
    rows = [
        [system.name, f"{np.median(own):,.0f}", f"{own.min():,.0f} to {own.max():,.0f}"]
        for system, own in zip(systems, times.T, strict=True)
    ]
    tokens = np.mean([len(episode.ids) for episode in episodes])
    turns = np.mean([len(episode.turns) for episode in episodes])
    return f"""{count} published trajectories of R1-Searcher; an episode has {tokens:.0f} policy
tokens (qwen2) and {turns:.1f} turns. CPU time of the one thread that runs, microseconds an episode,
medians of {args.repeats} passes in turn. `passages encoded when met` starts each pass with no
passage or prompt kept encoded, `before` with all of them kept. GEM returns text, which its user has
yet to encode. Its copies of observations and infos are in its figures; ours hands out views
(`copy=False`).

{table(["system", "whole episode", "range"], rows)}
"""


if __name__ == "__main__":
    options = parser(__doc__, __spec__.name)
    options.add_argument("--repeats", type=int, default=7, help="passes of each system")
    packages = ["gem-llm", "gymnasium", "numpy", "tokenizers"]
    measure(options, "Environment time of an episode, beside GEM", packages, page)
