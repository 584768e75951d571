"""The published trajectories in vector environments: this project's and GEM's, rows side by side.

See :mod:`benchmarks.speed.replays`: the same segments, documents and clock. A row that finished
begins the next episode at once, in both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.replays import (
    _TURNS,
    TOP_K,
    Episode,
    Pass,
    Recorded,
    _clock,
    schedule,
    when,
)
from search_env.vector_env import SearchQAVectorEnv

_FILLERS = 500  # tokens that an uncounted episode may hold


class VectorReplay:
    """:class:`SearchQAVectorEnv`, one token in each row a step, ended rows reset by mask."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        recorded: Recorded,
        *,
        questions: Path,
        tokenizer: str,
        length: int,
        rows: int,
        warm: bool,
    ) -> None:
        self.name = f"SearchQAVectorEnv, {rows} side by side, passages encoded {when(warm)}"
        self._warm = warm
        self._arguments: dict[str, Any] = {
            "dataset": str(questions),
            "tokenizer": tokenizer,
            "retriever": recorded,
            "top_k": TOP_K,
            "max_tokens": length,
            "autoreset_mode": "Disabled",
            "copy": False,
        }
        self._rows = rows
        self._actions, self._begins = _plan(episodes, rows)
        self._env = SearchQAVectorEnv(rows, **self._arguments)
        if warm:
            self.run()

    def run(self) -> Pass:
        """Replay all episodes once."""
        env = self._env if self._warm else SearchQAVectorEnv(self._rows, **self._arguments)
        begins, done, results = self._begins, Pass(), []
        env.reset(options={"index": 0})
        start = _clock()
        for number, actions in enumerate(self._actions):
            if number in begins:
                before = _clock()
                env.reset(options=begins[number])
                done.begin += _clock() - before
            results.append(env.step(actions))
        done.steps = _clock() - start - done.begin
        for _, _, terminated, _, infos in results:
            done.searches += int(np.sum(infos.get("_query", 0)))
            done.finished += int(terminated.sum())
        return done


def _plan(
    episodes: Sequence[Episode], rows: int
) -> tuple[list[np.ndarray[Any, Any]], dict[int, dict[str, Any]]]:
    """Return the actions of each step and the resets before it; rows left over repeat a token."""
    # Longest first, so that no row is left alone with a long one at the end.
    order = sorted(range(len(episodes)), key=lambda i: -len(episodes[i].ids))
    turns = schedule([episodes[i].ids for i in order], rows)
    filler = episodes[0].ids[0]
    actions, begins = [], {}
    idle: dict[int, int] = {}  # since when; a segment has 512 tokens at most
    for number, (starts, running, tokens) in enumerate(turns):
        mask, index = np.zeros(rows, np.bool_), np.zeros(rows, np.int64)
        for row, question in starts:
            mask[row], index[row] = True, order[question]
        busy = set(range(rows)) if isinstance(running, slice) else set(running.tolist())
        for row in set(range(rows)) - busy:
            if number - idle.get(row, -_FILLERS) >= _FILLERS:
                mask[row], idle[row] = True, number  # an episode that is not counted
        if mask.any():
            begins[number] = {"reset_mask": mask, "index": index}
        line = np.full(rows, filler)
        line[running] = tokens
        actions.append(line)
    return actions, begins


class GemVectorReplay:
    """GEM's ``SyncVectorEnv`` over the environment of ``GemReplay``, one turn in each row a step.

    Each row has its share of the questions, in GEM's own order.
    """

    def __init__(self, episodes: Sequence[Episode], recorded: Recorded, *, rows: int) -> None:
        import datasets
        from gem.envs.qa_env import QaEnv
        from gem.tools.search_tool import SearchTool
        from gem.tools.tool_env_wrapper import ToolEnvWrapper
        from gem.vector.sync_vector_env import SyncVectorEnv

        self.name = f"GEM's vector environment, {rows} side by side, one turn a step"
        datasets.disable_progress_bars()
        self._bases: list[Any] = []
        self._queues: list[list[Episode]] = []
        self._searched: list[int] = []

        def make(share: Sequence[Episode]) -> Any:
            tool = SearchTool(topk=TOP_K)

            def answer(query: str) -> Any:
                self._searched.append(1)
                return tool._passages2string(recorded.parsed[query][: tool.topk])

            tool._search = answer
            rows_of = datasets.Dataset.from_dict(
                {
                    "number": list(range(len(share))),
                    "question": [e.trajectory.question.text for e in share],
                    "answer": [list(e.trajectory.question.answers) for e in share],
                }
            )
            base = QaEnv(dataset=rows_of)
            self._bases.append(base)
            self._queues.append([share[number] for number in base.dataset["number"]])
            return ToolEnvWrapper(base, [tool], max_tool_uses=_TURNS)

        shares = [episodes[row::rows] for row in range(rows)]
        makers = [lambda share=share: make(share) for share in shares]
        self._env = SyncVectorEnv(["search"] * rows, makers)

    def run(self) -> Pass:
        """Replay all episodes once."""
        for base in self._bases:
            base.idx = 0
        written: defaultdict[int, dict[int, str]] = defaultdict(dict)
        for row, queue in enumerate(self._queues):
            turns = [turn for episode in queue for turn in episode.turns]
            for step, turn in enumerate(turns):
                written[step][row] = turn
        steps = [written[step] for step in sorted(written)]
        env, done = self._env, Pass()
        self._searched.clear()
        start = _clock()
        observations, _ = env.reset()
        done.begin = _clock() - start
        done.texts += observations
        start = _clock()
        results = [env.step(step) for step in steps]
        done.steps = _clock() - start
        for observations, _, terminated, _, _ in results:
            done.texts += observations
            done.finished += int(np.sum(terminated))
        done.searches = sum(self._searched)
        return done
