"""Episodes that are written to order, so that contenders do the same work.

A script is all turns of one episode: thoughts of random words, a query for each step of the
question, an answer that is right in every other episode of a group. The model computes and samples
as usual; then the script's token takes the place of the sampled one, not of its log-probability.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.rollout_engine import Decoded, Rows
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.update import update
from search_env.agents.rollouts.collect import Rollouts, collect
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.protocols.tagged_text import answer_text, query_text

TokenIds = NDArray[np.int64]
Script = list[TokenIds]  # the policy's tokens of one episode, turn by turn
ModelT = TypeVar("ModelT", bound=PreTrainedModel)

END = 0  # the id that ends a sequence

STEP_PARTS = ("environment", "retrieval", "prefill", "decode", "score", "learn")
"""Parts of a training step."""

_WORDS = "the river rises in the northern hills and passes an old mill "
_WRONG = "nobody knows"


def tiny_model(max_tokens: int, model_class: type[ModelT], **options: Any) -> ModelT:
    """Return a model of two million random parameters, the same at every call."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 1024,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": max_tokens,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": END,
    }
    return model_class(model_class.config_class(**{**shape, **options}))


def write_scripts(
    envs: SearchQAVectorEnv,
    questions: Sequence[int],
    group_size: int,
    thought: tuple[int, int] = (10, 40),
    seed: int = 0,
) -> list[Script]:
    """Return what the policy writes, group by group; thoughts have ``range(*thought)`` tokens."""
    random = np.random.default_rng(seed)
    words = envs.tokenizer.encode(_WORDS)

    def turn(text: str) -> TokenIds:
        begin = random.choice(words, random.integers(*thought))
        return np.concatenate([begin, envs.tokenizer.encode(text)]).astype(np.int64)

    scripts = []
    for index in questions:
        question = envs.questions[index]
        queries = [query_text(envs.protocol, hop.query) for hop in question.hops]
        for member in range(group_size):
            answer = _WRONG if member % 2 else question.answers[0]
            texts = [*queries, answer_text(envs.protocol, answer, thoughts=["think"])]
            scripts.append([turn(text) for text in texts])
    return scripts


class ScriptedEngine(Engine):
    """The built-in engine, but rows write the scripts that :meth:`follow` has taken."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting: dict[bytes, list[TokenIds]] = {}
        self._lines: TokenIds = np.zeros((self.rows, self.max_tokens), np.int64)
        self._next: TokenIds = np.zeros(self.rows, np.int64)

    def follow(
        self, envs: SearchQAVectorEnv, questions: Sequence[int], scripts: Sequence[Script]
    ) -> None:
        """Take the scripts of the next collection in ``envs``, whose rows are all reset."""
        size = len(scripts) // len(questions)
        waiting: dict[bytes, list[TokenIds]] = defaultdict(list)
        for group, question in enumerate(questions):
            obs, _ = envs.reset(options={"index": [question] * envs.num_envs})
            prompt = obs["tokens"][0, : obs["length"][0]].astype(np.int64).tobytes()
            own = scripts[group * size : (group + 1) * size]
            waiting[prompt] += [np.concatenate(script) for script in reversed(own)]
        self._waiting = dict(waiting)

    def begin(self, rows: Rows, prompts: Sequence[TokenIds], seeds: Sequence[int]) -> None:
        """Begin, and give each row the next script of its prompt."""
        super().begin(rows, prompts, seeds)
        for row, prompt in zip(rows, prompts, strict=True):
            line = self._waiting[np.asarray(prompt, np.int64).tobytes()].pop()
            self._lines[row, : len(line)] = line
            self._next[row] = 0

    def decode(self, rows: Rows) -> Decoded:
        """Decode as usual, then write what the scripts say."""
        decoded = super().decode(rows)
        index = np.asarray(rows, np.int64)
        ids = self._lines[index, self._next[index]]
        self._next[index] += 1
        self._tokens[index, self.lengths[index] - 1] = ids
        return Decoded(ids, decoded.log_probs, decoded.values)


def scripted_step(
    learner: Learner,
    engine: ScriptedEngine,
    envs: SearchQAVectorEnv,
    questions: Sequence[int],
    algorithm: Algorithm,
    seed: int,
) -> tuple[Rollouts, dict[str, float]]:
    """Take a training step that plays what ``engine`` follows; return the seconds of its parts."""
    rollouts = collect(envs, engine, questions, group_size=algorithm.group_size, seed=seed)
    metrics = update(learner, rollouts.trajectories, algorithm)
    learning = {part: metrics[f"time/{part}"] for part in ("score", "learn")}
    return rollouts, {**rollouts.seconds, **learning}


class _ForcedLogits(LogitsProcessor):
    """Leaves one id a row: the turn's, then the end of sequence."""

    def __init__(self, turns: Sequence[TokenIds], start: int) -> None:
        longest = max(map(len, turns)) + 1
        padded = [np.pad(t, (0, longest - len(t)), constant_values=END) for t in turns]
        self._ids, self._start = torch.from_numpy(np.stack(padded)), start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        next_ids = self._ids[:, input_ids.shape[1] - self._start, None]
        return torch.full_like(scores, -torch.inf).scatter_(1, next_ids, 0.0)


def forced_to(turns: Sequence[TokenIds], start: int) -> LogitsProcessorList:
    """Return what makes ``generate`` write these turns, one a row, behind ``start`` tokens."""
    return LogitsProcessorList([_ForcedLogits(turns, start)])
