"""The published trajectories as episodes, and each system that replays them.

Every system gets the same policy's segments, the same documents and no network: what would be a
request is a look-up in a dictionary, of documents that are already parsed. A pass replays all
episodes once and times only the calls into the system; what its user prepares is not timed.
"""

from __future__ import annotations

import functools
import heapq
import json
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from typing import Protocol as Structural

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.published_trajectories import FILES, PublishedTrajectory, read_trajectories
from search_env.dynamics import Dynamics
from search_env.env import SearchQAEnv
from search_env.protocols import Protocol
from search_env.retrieval.base import retrieve
from search_env.tokenizer import Tokenizer
from search_env.types import Document

TOP_K = 5
LONGEST = 8192
_TURNS = 16  # more than any trajectory has
_SEARCH = re.compile(r"<search>(.*?)</search>", re.DOTALL)  # both peers' rule
# CPU time: nothing here waits, and what else the machine runs stays out of it.
_clock = time.thread_time_ns


@dataclass(frozen=True, slots=True)
class Episode:
    """One trajectory, ready to be sent.

    Attributes:
        trajectory: As published.
        ids: The policy's tokens, each segment encoded on its own.
        turns: The policy's segments in the tags of both peers.
    """

    trajectory: PublishedTrajectory
    ids: tuple[int, ...]
    turns: tuple[str, ...]


@dataclass(slots=True)
class Pass:
    """Nanoseconds of one pass over all episodes, and what came out of it.

    Attributes:
        begin: In resets.
        steps: In steps.
        finished: Episodes that ended by their answer.
        searches: Searches that were run.
        texts: What a text environment returned and its user must turn into ids.
    """

    begin: int = 0
    steps: int = 0
    finished: int = 0
    searches: int = 0
    texts: list[str] = field(default_factory=list)


class Replay(Structural):
    """A system that replays all episodes."""

    name: str

    def run(self) -> Pass:
        """Replay all episodes once."""
        ...


def load_episodes(data: Path, tokenizer: Tokenizer) -> list[Episode]:
    """Return all published trajectories as episodes."""
    episodes = []
    for dataset in FILES:
        for trajectory in read_trajectories(data, dataset):
            segments = trajectory.segments
            ids = [token for text in segments for token in tokenizer.encode(text).tolist()]
            turns = tuple(_in_peer_tags(text) for text in segments)
            episodes.append(Episode(trajectory, tuple(ids), turns))
    return episodes


def _in_peer_tags(text: str) -> str:
    return text.replace("<|begin_of_query|>", "<search>").replace("<|end_of_query|>", "</search>")


class Recorded:
    """The recorded documents by query: this project's retriever, and both peers' answer."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        self._documents: dict[str, list[Document]] = {}
        self.parsed: dict[str, list[dict[str, Any]]] = {}
        for episode in episodes:
            trajectory = episode.trajectory
            found = zip(trajectory.queries, trajectory.documents, episode.turns, strict=False)
            for query, documents, turn in found:
                self._documents[query] = list(documents)
                self.parsed[_SEARCH.findall(turn)[0].strip()] = [
                    {"document": {"contents": f"{d.title}\n{d.text}"}, "score": 1.0}
                    for d in documents
                ]

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Look each query up."""
        return [self._documents[query][:k] for query in queries]


class StepReplay:
    """:class:`SearchQAEnv`, one token a step.

    Args:
        episodes: To replay.
        recorded: Answers the searches.
        questions: File of the episodes' questions, see :func:`write_questions`.
        tokenizer: As ``gym.make`` takes it.
        length: Size of the context; longer episodes are cut.
        warm: Whether passages that a former pass encoded stay encoded.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        recorded: Recorded,
        *,
        questions: Path,
        tokenizer: str,
        length: int,
        warm: bool,
    ) -> None:
        self.name = f"SearchQAEnv, L = {length:,}, passages encoded {when(warm)}"
        self._episodes, self._warm = episodes, warm
        self._arguments: dict[str, Any] = {
            "dataset": str(questions),
            "tokenizer": tokenizer,
            "retriever": recorded,
            "top_k": TOP_K,
            "max_tokens": length,
        }
        self._env = SearchQAEnv(**self._arguments)
        if warm:
            self.run()

    def run(self) -> Pass:
        """Replay all episodes once."""
        env = self._env if self._warm else SearchQAEnv(**self._arguments)
        done = Pass()
        for index, episode in enumerate(self._episodes):
            start = _clock()
            env.reset(options={"index": index})
            begun = _clock()
            for token in episode.ids:
                _, _, terminated, truncated, info = env.step(token)
                if terminated or truncated:
                    break
            done.steps += _clock() - begun
            done.begin += begun - start
            done.finished += terminated
            done.searches += info["num_searches"]
        return done


class DynamicsReplay:
    """The bare dynamics, ``rows`` episodes side by side; a finished row begins the next episode."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        recorded: Recorded,
        *,
        protocol: Protocol,
        tokenizer: Tokenizer,
        rows: int,
        warm: bool,
    ) -> None:
        self.name = f"dynamics alone, {rows} side by side, passages encoded {when(warm)}"
        self._episodes, self._recorded, self._warm = episodes, recorded, warm
        self._schedule = schedule([episode.ids for episode in episodes], rows)
        self._make = functools.partial(Dynamics, protocol, tokenizer, rows=rows)
        self._dynamics = self._make()
        if warm:
            self.run()

    def run(self) -> Pass:
        """Replay all episodes once."""
        if not self._warm:
            self._dynamics = self._make()
        dynamics, recorded, done = self._dynamics, self._recorded, Pass()
        start = _clock()
        for begins, rows, tokens in self._schedule:
            if begins:
                before = _clock()
                for row, index in begins:
                    dynamics.begin(row, self._episodes[index].trajectory.question)
                done.begin += _clock() - before
            queries = dynamics.append(rows, tokens)
            if queries:
                found = retrieve(recorded, [query.text for query in queries], TOP_K)
                for query, documents in zip(queries, found, strict=True):
                    dynamics.insert_documents(query.row, documents)
                done.searches += len(queries)
        done.steps = _clock() - start - done.begin
        # Rows are overwritten by the next episode; those that were last can still be asked.
        ended = [episode.stop_reason is not None for episode in dynamics.episodes]
        done.finished = len(self._episodes) if all(ended) else 0
        return done


# (row, episode) pairs that begin, the running rows, their tokens
Turn = tuple[list[tuple[int, int]], "slice | NDArray[np.intp]", NDArray[np.int64]]


def schedule(streams: Sequence[Sequence[int]], rows: int) -> list[Turn]:
    """Return what to do at each step so that free rows begin the next episode at once."""
    free = [(0, row) for row in range(rows)]
    starts: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    written: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for index, ids in enumerate(streams):
        start, row = heapq.heappop(free)
        starts[start].append((row, index))
        for offset, token in enumerate(ids):
            written[start + offset][row] = token
        heapq.heappush(free, (start + len(ids), row))
    turns: list[Turn] = []
    for step in range(len(written)):  # some row writes at each of them
        running = sorted(written[step])
        where = slice(None) if len(running) == rows else np.array(running, np.intp)
        turns.append((starts[step], where, np.array([written[step][row] for row in running])))
    return turns


class GemReplay:
    """GEM: ``QaEnv`` in ``ToolEnvWrapper`` with ``SearchTool``, its request replaced."""

    name = "GEM, one turn a step"

    def __init__(self, episodes: Sequence[Episode], recorded: Recorded) -> None:
        import datasets
        from gem.envs.qa_env import QaEnv
        from gem.tools.search_tool import SearchTool
        from gem.tools.tool_env_wrapper import ToolEnvWrapper

        tool = SearchTool(topk=TOP_K)
        tool._search = lambda query: tool._passages2string(recorded.parsed[query][: tool.topk])
        datasets.disable_progress_bars()
        questions = [episode.trajectory.question for episode in episodes]
        rows = datasets.Dataset.from_dict(
            {
                "number": list(range(len(questions))),
                "question": [question.text for question in questions],
                "answer": [list(question.answers) for question in questions],
            }
        )
        self._qa = QaEnv(dataset=rows)
        self._env = ToolEnvWrapper(self._qa, [tool], max_tool_uses=_TURNS)
        # It shuffles the questions; resets without a seed go through them in that order.
        self._order = [episodes[number] for number in self._qa.dataset["number"]]

    def run(self) -> Pass:
        """Replay all episodes once."""
        env, done = self._env, Pass()
        self._qa.idx = 0
        for episode in self._order:
            start = _clock()
            observation, _ = env.reset()
            begun = _clock()
            observations = [observation]
            for turn in episode.turns:
                observation, _, terminated, _, info = env.step(turn)
                observations.append(observation)
            done.steps += _clock() - begun
            done.begin += begun - start
            done.finished += terminated
            done.searches += info["tool_use_counter"]
            done.texts += observations[:-1]  # the last one only says that the episode is over
        return done


class SkyRLReplay:
    """SkyRL-gym: ``SearchEnv`` with its tool group, its request replaced."""

    name = "SkyRL-gym, one turn a step"

    def __init__(
        self, episodes: Sequence[Episode], recorded: Recorded, prompts: Sequence[str]
    ) -> None:
        from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig
        from skyrl_gym.tools import search

        def call_search_api(query: str, topk: int, **_: Any) -> tuple[dict[str, Any], None]:
            return {"result": [recorded.parsed[query][:topk]]}, None

        search.call_search_api = call_search_api
        self._make, self._config = SearchEnv, SearchEnvConfig(topk=TOP_K)
        self._episodes = episodes
        self._prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
        self._extras = [
            {
                "reward_spec": {
                    "ground_truth": {"target": list(episode.trajectory.question.answers)}
                },
                "max_turns": _TURNS,
            }
            for episode in episodes
        ]

    def run(self) -> Pass:
        """Replay all episodes once."""
        done = Pass()
        for episode, prompt, extras in zip(
            self._episodes, self._prompts, self._extras, strict=True
        ):
            start = _clock()
            env = self._make(self._config, extras)
            messages, _ = env.init(prompt)
            begun = _clock()
            returned = list(messages)
            for turn in episode.turns:
                output = env.step(turn)
                returned += output["observations"]
            done.steps += _clock() - begun
            done.begin += begun - start
            done.finished += output["done"]
            done.searches += len(returned) - 1
            done.texts += [message["content"] for message in returned]
        return done


def write_questions(episodes: Sequence[Episode], path: Path) -> Path:
    """Write the episodes' questions in this project's own layout, in order."""
    with path.open("w", encoding="utf-8") as file:
        for episode in episodes:
            question = episode.trajectory.question
            row = {
                "id": question.id,
                "dataset": question.dataset,
                "split": "dev",
                "question": question.text,
                "answers": list(question.answers),
                "supporting": [],
                "kind": "",
                "source": "",
            }
            file.write(json.dumps(row) + "\n")
    return path


def encode_time(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """Return the nanoseconds that turning these texts into ids takes."""
    start = _clock()
    for text in texts:
        tokenizer.encode(text)
    return _clock() - start


def decode_time(tokenizer: Tokenizer, sequences: Sequence[Sequence[int]]) -> int:
    """Return the nanoseconds that turning these ids into text takes."""
    start = _clock()
    for ids in sequences:
        tokenizer.decode(ids)
    return _clock() - start


def when(warm: bool) -> str:
    """Return how a system's name says whether passages were encoded in a former pass."""
    return "before" if warm else "when met"
