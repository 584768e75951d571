"""An agent loop of verl, exact to the id: what verl's server samples is what the loss sees.

verl reads a YAML file (``actor_rollout_ref.rollout.agent.agent_loop_config_path``)::

    - name: search_qa
      _target_: search_env.agents.bridges.verl.SearchAgentLoop
      env_id: SearchQA-v0
      env_options: {tokenizer: Qwen/Qwen2.5-7B, vocab_size: 152064, max_tokens: 4096}

and each row of the data names ``agent_name: search_qa`` and its task, ``extra_info: {split: train,
index: 7}``. verl makes one loop for each sample and asks only for ``run``, so no base class is
imported here;
``tests/clients/test_bridges.py`` compares the signatures with verl's where it is installed.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from search_env.agents.bridges.episodes import (
    PlayedEpisode,
    Sampled,
    closing_tags,
    play,
    row_fields,
)
from search_env.agents.bridges.session import EnvironmentPool, Session
from search_env.errors import ConfigurationError


class SearchAgentLoop:
    """Plays one episode with verl's server.

    Args:
        trainer_config: verl's, with the configuration under ``config``.
        server_manager: Has ``generate(request_id, prompt_ids=, sampling_params=)``.
        tokenizer: verl's tokenizer of the model; its ids must be the environment's.
        processor: Not used.
        dataset_cls: Not used.
        data_config: Not used.
        hf_model_type: Not used.
        tools: Not used.
        env_id: A registered id.
        env_options: Arguments of the environment.

    Raises:
        ConfigurationError: verl has other limits of tokens than the environment, or another
            tokenizer.
    """

    def __init__(
        self,
        trainer_config: Any,
        server_manager: Any,
        tokenizer: Any,
        processor: Any = None,
        dataset_cls: Any = None,
        data_config: Any = None,
        hf_model_type: str | None = None,
        tools: Any = None,
        *,
        env_id: str = "SearchQA-v0",
        env_options: Mapping[str, Any] | None = None,
    ) -> None:
        del processor, dataset_cls, data_config, hf_model_type, tools  # passed to every loop
        self._server = server_manager
        self._pool = _pool(env_id, json.dumps(dict(env_options or {}), sort_keys=True))
        rollout = trainer_config.config.actor_rollout_ref.rollout
        self._response_length = int(rollout.response_length)
        _check(self._pool, int(rollout.prompt_length), self._response_length, tokenizer)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Play the row's task; return verl's ``AgentLoopOutput``.

        ``reward_score`` is the environment's reward, ``extra_fields`` have ``stop_reason``,
        ``truncated``, ``valid``, ``unused_actions`` and the scores. Where retrieval failed the mask
        is all zeros, so that the episode adds nothing to the loss.
        """
        from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

        episode, seconds = await self.play(sampling_params, row)
        return AgentLoopOutput(**self.fields(episode, seconds))

    async def play(
        self, sampling_params: Mapping[str, Any], row: dict[str, Any]
    ) -> tuple[PlayedEpisode, float]:
        """Play an episode; return it and the seconds that the server took."""
        session, request = Session(self._pool), uuid4().hex
        stops = {"stop": closing_tags(session), "include_stop_str_in_output": True}
        parameters = {**sampling_params, **stops}
        seconds = 0.0

        async def sample(ids: list[int]) -> Sampled:
            nonlocal seconds
            start = time.perf_counter()
            output = await self._server.generate(
                request_id=request, prompt_ids=ids, sampling_params=dict(parameters)
            )
            seconds += time.perf_counter() - start
            return Sampled(output.token_ids, output.log_probs or None)

        return await play(session, sample, **_task(row)), seconds

    def fields(self, episode: PlayedEpisode, seconds: float) -> dict[str, Any]:
        """Return the fields of verl's output."""
        last, limit = episode.last, self._response_length
        if last is None:
            raise ConfigurationError("Expected a finished episode, got one without a turn.")
        mask = episode.mask if last.valid else [0] * len(episode.mask)
        logs = episode.log_probs
        scores = {name: last.info[name] for name in ("f1", "exact_match", "num_searches")}
        return {
            "prompt_ids": episode.prompt_ids,
            "response_ids": episode.response_ids[:limit],
            "response_mask": mask[:limit],
            "response_logprobs": None if logs is None else logs[:limit],
            "reward_score": episode.reward,
            "num_turns": 2 * episode.turns,  # verl counts both sides
            "metrics": {"generate_sequences": seconds, "tool_calls": 0.0},
            "extra_fields": {
                "stop_reason": last.stop_reason,
                "truncated": last.truncated,
                "valid": last.valid,
                "unused_actions": episode.unused,
                "cut_tokens": max(len(episode.response_ids) - limit, 0),
                **scores,
            },
        }


def _task(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task of a row; its own ``index`` is not asked, which verl sets to 0."""
    task = row_fields(dict(row.get("extra_info") or {}))
    if not task.keys() & {"index", "question_id", "seed"}:
        raise ConfigurationError(
            "Expected extra_info of a row with index, question_id or seed, got "
            f"{row.get('extra_info')!r:.80}. Without one, the rollouts of a group would have "
            "different questions."
        )
    return task


@functools.lru_cache(maxsize=4)
def _pool(env_id: str, options: str) -> EnvironmentPool:
    """Return one pool for all samples of a worker."""
    return EnvironmentPool(env_id, json.loads(options))


def _check(pool: EnvironmentPool, prompt: int, response: int, tokenizer: Any) -> None:
    env = pool.environment()
    most = env.protocol.max_tokens
    if most > prompt + response:
        raise ConfigurationError(
            f"Expected episodes of at most prompt_length + response_length = {prompt + response} "
            f"tokens, got max_tokens={most}. Lower max_tokens in env_options, or raise verl's."
        )
    text = "A question with <search> tags </search> and numbers 1984."
    own = env.tokenizer.encode(text).tolist()
    theirs = list(tokenizer.encode(text, add_special_tokens=False))
    if own != theirs:
        raise ConfigurationError(
            f"Expected verl's tokenizer to be the environment's, {env.tokenizer.name!r}, got other "
            "ids for the same text. Pass the model's own as tokenizer in env_options."
        )
