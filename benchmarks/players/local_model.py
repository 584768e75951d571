"""A causal language model of transformers as an agent: many episodes side by side in one engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from search_env.agents.inference.engine import Engine
from search_env.agents.inference.opening import ScriptedEngine
from search_env.agents.inference.rollout_engine import RolloutEngine
from search_env.agents.inference.sampling import Sampling
from search_env.agents.learning.precision import TORCH_DTYPES, resolve_dtype
from search_env.agents.models import (
    check_fits,
    count_ids,
    load_model,
    weights_digest,
    with_tokenizer,
)
from search_env.agents.rollouts.collect import collect, make_envs
from search_env.agents.types import Trajectory
from search_env.benchmarks.harness.results_file import EpisodeResult
from search_env.benchmarks.players.base import EpisodeKey, EpisodeToRecord, Evaluation, OnEpisode
from search_env.benchmarks.players.forced import FORCED, forced_script
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.evaluation.evaluate import measure_episode
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Transcript
from search_env.validation import check_choice, check_count


class ModelAgent:
    """Plays a model through :class:`~search_env.agents.inference.engine.Engine`.

    ``name`` is a bundled name, folder or hub id; ``tokenizer`` None is the one beside the model
    (``world-1k`` for bundled ones), ``prompt`` ``"base"`` or the chat template of the model's
    family, ``max_tokens`` None the shorter of the protocol's and the model's, ``dtype`` as of
    :func:`~search_env.agents.learning.precision.resolve_dtype`, ``forced`` one of
    :data:`~search_env.benchmarks.players.forced.FORCED`, what it is made to write, or None.
    """

    def __init__(
        self,
        name: str,
        *,
        tokenizer: str | None = None,
        prompt: str = "base",
        num_envs: int = 64,
        max_tokens: int | None = None,
        dtype: str = "auto",
        device: str | None = None,
        forced: str | None = None,
    ) -> None:
        check_choice("forced", forced, [None, *FORCED])
        check_count("num_envs", num_envs, 1)
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        precision = resolve_dtype(dtype, chosen)
        self._model = load_model(name, dtype=TORCH_DTYPES[precision], device=chosen)
        self._ids = count_ids(self._model)
        self._num_envs, self._max_tokens, self._forced = num_envs, max_tokens, forced
        self._options = with_tokenizer({"tokenizer": tokenizer}, self._model)
        if prompt != "base":
            self._options["prompt"] = prompt
        self.description: Mapping[str, Any] = {
            "name": name if forced is None else f"{name}, {forced}",
            "kind": "model",
            "weights": weights_digest(self._model),
            "dtype": precision,
            "prompt": prompt,
            "tokenizer": self._tokenizer_digest(),
            "max_tokens": max_tokens,
            **({} if forced is None else {"forced": forced}),
        }

    def play(
        self, evaluation: Evaluation, keys: Sequence[EpisodeKey], on_episode: OnEpisode
    ) -> None:
        """Play the episodes, as many side by side as there are rows."""
        envs, inner = self.make_rows(evaluation, len(keys))
        engine: RolloutEngine = inner
        if self._forced is not None:
            played = [index for index, _ in keys]
            script = forced_script(self._forced, envs.components, played)
            engine = ScriptedEngine(inner, script)
        for sample in sorted({sample for _, sample in keys}):
            start = time.perf_counter()

            def hand_on(index: int, transcript: Transcript, trajectory: Trajectory) -> None:
                seconds = time.perf_counter() - start  # noqa: B023 - called within this round
                record = measure_episode(transcript, trajectory.reward)
                result = EpisodeResult(index, sample, record, seconds)  # noqa: B023
                signals = {"log_prob": trajectory.log_probs[trajectory.policy]}
                on_episode(result, EpisodeToRecord(envs, transcript, None, signals))

            questions = [index for index, of in keys if of == sample]
            collect(envs, engine, questions, seed=evaluation.seed + sample, on_episode=hand_on)

    def make_rows(
        self, evaluation: Evaluation, episodes: int | None = None
    ) -> tuple[SearchQAVectorEnv, Engine]:
        """Return an environment and an engine, of no more rows than there are episodes."""
        context = self._context(evaluation)
        envs = make_envs(
            evaluation.protocol.env_id,
            num_envs=min(self._num_envs, episodes or self._num_envs),
            vocabulary=self._ids,
            options=evaluation.arguments(**self._options, max_tokens=context),
        )
        check_fits(self._model, envs.tokenizer)
        decoding = evaluation.decoding
        sampling = Sampling(temperature=decoding.temperature, top_p=decoding.top_p)
        engine = Engine(self._model, rows=envs.num_envs, max_tokens=context, sampling=sampling)
        return envs, engine

    def _tokenizer_digest(self) -> str:
        """Return the start of the digest of bytes, beginning and ends: the tokenizer's policy."""
        return load_tokenizer(self._options["tokenizer"]).digest[:12]

    def _context(self, evaluation: Evaluation) -> int:
        """Return the context that the agent asks for, or the longest that both can have."""
        if self._max_tokens is not None:
            return self._max_tokens
        config = self._model.config.get_text_config(decoder=True)
        longest = evaluation.protocol.environment()["max_tokens"]
        return int(min(longest, getattr(config, "max_position_embeddings", None) or longest))
