"""A taskset of search_env: the environment runs in this process, one session an episode.

A text clock: the environment encodes the model's replies by its own tokenizer. Everything else is
exact: seeds, tasks, rewards and endings are those of the Gymnasium environment.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf
from pydantic import Field

from search_env.agents.bridges.session import EnvironmentPool, Session


class SearchQAConfig(vf.TasksetConfig):
    """Which environment, and which of its questions."""

    env_id: str = "SearchQA-v0"
    split: str = "train"
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the environment: protocol, retriever, reward, max_tokens ..."""


class SearchQAData(vf.TaskData):
    """A question; the environment is made again from what it names."""

    info: dict


class SearchQATask(vf.Task[SearchQAData, vf.State, vf.TaskConfig]):
    """A question to answer."""


class SearchQAEnvConfig(vf.EnvConfig):
    """One agent plays."""

    player: vf.AgentConfig = vf.AgentConfig()


class SearchQAEnv(vf.Env[SearchQAEnvConfig]):
    """The model writes, the environment answers with documents, until the episode ends."""

    async def run(self, task: SearchQATask, agents: Any) -> None:
        """Play an episode; the prompt is the task's, so the model moves first."""
        info = task.data.info
        session = Session(_pool(info["env_id"], info["split"], info["arguments"]))
        turn, total = session.begin(split=info["split"], index=info["index"]), 0.0
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated and segment.last_reply:
                turn = session.write_text(segment.last_reply)
                total += turn.reward
                if turn.done:
                    break
                segment = await interaction.turn(turn.text)
        trace = interaction.trace
        trace.record_reward("search_qa_reward", total, 1.0)
        for name in ("f1", "exact_match"):
            trace.record_metric(name, float(turn.info.get(name, 0.0)))
        trace.record_metric("num_searches", float(turn.info["num_searches"]))
        trace.info["stop_reason"] = turn.stop_reason or "model_stopped"
        trace.info["truncated"], trace.info["valid"] = turn.truncated, turn.valid


class SearchQATaskset(vf.Taskset[SearchQATask, SearchQAConfig]):
    """Every question of a split, in its order."""

    def load(self) -> Iterator[SearchQATask]:
        """Yield the questions with the protocol's prompt."""
        config = self.config
        arguments = json.dumps(config.arguments, sort_keys=True)
        pool = _pool(config.env_id, config.split, arguments)
        session = Session(pool)
        for index in range(pool.count(config.split)):
            turn = session.begin(split=config.split, index=index)
            info = {
                "env_id": config.env_id,
                "split": config.split,
                "index": index,
                "arguments": arguments,
            }
            yield SearchQATask(
                SearchQAData(name=turn.info["question_id"], prompt=turn.text, info=info),
                config.task,
            )


@functools.lru_cache(maxsize=4)
def _pool(env_id: str, split: str, arguments: str) -> EnvironmentPool:
    return EnvironmentPool(env_id, {**json.loads(arguments), "split": split})
