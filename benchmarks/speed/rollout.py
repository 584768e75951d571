"""Rollouts against the environment: the engine beside ``generate`` called turn by turn.

Run ``python -m benchmarks.speed.rollout --output benchmarks/results/speed_rollout.md``.

Both contenders write the same scripted episodes with the same random model in the same
environment, so both make the same tokens and read the same documents; a script is thoughts of
random words, a query for each step of the question, and an answer. Policies are forced to follow
it after they have sampled as usual, and that both wrote the same is checked. The peer is the loop
of Search-R1 (``search_r1/llm_agent/generation.py``): all active rows are left-padded, ``generate``
writes until each of them has closed its query, the documents are appended and the next turn starts
from the texts alone. It is given a stopping criterion for each row, which the original lacks.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from agents.engine import Engine
from agents.rollout import collect
from agents.rollout_engine import Decoded, Rows
from agents.sampling import Sampling
from benchmarks.reports.measurement_page import heading, publish, table
from search_env.env import Observation
from search_env.moves import answer_text, query_text
from search_env.vector_env import SearchQAVectorEnv

TARGET = 2.0
GROUP = 8
THOUGHT = (10, 40)
"""Least and most tokens of a thought before a query or the answer."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Ids = NDArray[np.int64]
Script = list[Ids]
"""The policy's tokens of one episode, turn by turn."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender's run.

    Attributes:
        episodes: All tokens of each episode, in order.
        policy_tokens: How many of them the policy wrote.
        seconds: Wall time by part, ``total`` among them.
    """

    episodes: list[list[int]]
    policy_tokens: int
    seconds: dict[str, float]


def make_envs(rows: int, max_tokens: int) -> SearchQAVectorEnv:
    """Return the environment that both contenders play in."""
    envs = gym.make_vec(
        "SearchQA-v0", num_envs=rows, autoreset_mode="Disabled", copy=False, max_tokens=max_tokens
    ).unwrapped
    assert isinstance(envs, SearchQAVectorEnv)
    return envs


def make_model(vocabulary: int, max_tokens: int, dtype: torch.dtype) -> PreTrainedModel:
    """Return a Llama of two million random parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: PreTrainedModel = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    return model


def write_scripts(envs: SearchQAVectorEnv, questions: int) -> list[Script]:
    """Return what the policy writes in each episode: whole groups, questions in order."""
    random = np.random.default_rng(0)
    words = envs.tokenizer.encode("the river rises in the northern hills and passes an old mill ")

    def turn(text: str) -> Ids:
        thought = random.choice(words, random.integers(*THOUGHT))
        return np.concatenate([thought, envs.tokenizer.encode(text)]).astype(np.int64)

    scripts = []
    for question in envs.questions[:questions]:
        queries = [query_text(envs.protocol, hop.query) for hop in question.hops]
        answer = answer_text(envs.protocol, question.answers[0], thinking=True)
        scripts += [[turn(text) for text in [*queries, answer]] for _ in range(GROUP)]
    return scripts


@dataclass(frozen=True)
class _Forced(Sampling):
    """Samples, and then takes the ids that it was told to."""

    ids: list[Tensor] = field(default_factory=list)

    def draw(self, log_probs: Tensor, uniforms: Tensor) -> Tensor:
        super().draw(log_probs, uniforms)
        return self.ids.pop()


class _ScriptedEngine(Engine):
    """Rows follow the scripts of their prompts."""

    def __init__(
        self, model: PreTrainedModel, scripts: dict[bytes, list[Ids]], rows: int, max_tokens: int
    ) -> None:
        self._forced = _Forced()
        super().__init__(model, rows=rows, max_tokens=max_tokens, sampling=self._forced)
        self._scripts = {prompt: list(reversed(own)) for prompt, own in scripts.items()}
        self._lines = np.zeros((rows, max_tokens), np.int64)
        self._next = np.zeros(rows, np.int64)

    def begin(self, rows: Rows, prompts: Sequence[Ids], seeds: Sequence[int]) -> None:
        """Begin, and look up the script of each row."""
        super().begin(rows, prompts, seeds)
        for row, prompt in zip(rows, prompts, strict=True):
            line = self._scripts[prompt.tobytes()].pop()
            self._lines[row, : len(line)] = line
            self._next[row] = 0

    def decode(self, rows: Rows) -> Decoded:
        """Decode what the scripts say."""
        self._forced.ids.append(torch.from_numpy(self._lines[rows, self._next[rows]]))
        self._next[rows] += 1
        return super().decode(rows)


def run_engine(
    envs: SearchQAVectorEnv, model: PreTrainedModel, scripts: list[Script], max_tokens: int
) -> Measured:
    """Play all episodes with the engine, rows refilled as they end."""
    questions = range(len(scripts) // GROUP)
    by_prompt: dict[bytes, list[Ids]] = defaultdict(list)
    for question in questions:
        obs, _ = envs.reset(options={"index": [question] * envs.num_envs})
        prompt = obs["tokens"][0, : obs["length"][0]].tobytes()
        group = scripts[question * GROUP : (question + 1) * GROUP]
        by_prompt[prompt] += [np.concatenate(script) for script in group]
    engine = _ScriptedEngine(model, by_prompt, envs.num_envs, max_tokens)
    start = time.perf_counter()
    rollouts = collect(envs, engine, questions, group_size=GROUP)
    seconds = {**rollouts.seconds, "total": time.perf_counter() - start}
    episodes = [trajectory.tokens.tolist() for trajectory in rollouts.trajectories]
    return Measured(episodes, rollouts.policy_tokens, seconds)


class _ForcedLogits(LogitsProcessor):
    """Leaves one id a row."""

    def __init__(self, turns: list[Ids], start: int) -> None:
        longest = max(map(len, turns))
        padded = [np.pad(turn, (0, longest - len(turn)), mode="edge") for turn in turns]
        self._ids, self._start = torch.from_numpy(np.stack(padded)), start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        wanted = self._ids[:, input_ids.shape[1] - self._start, None]
        return torch.full_like(scores, -torch.inf).scatter_(1, wanted, 0.0)


class _ClosedQuery(StoppingCriteria):
    """Ends each row where its turn ends."""

    def __init__(self, turns: list[Ids], start: int) -> None:
        self._ends = torch.tensor([start + len(turn) for turn in turns])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        return input_ids.shape[1] >= self._ends


def generate_turn(model: PreTrainedModel, texts: Sequence[Ids], turns: list[Ids]) -> list[Ids]:
    """Return what ``generate`` writes behind each text, all rows padded to the longest."""
    width = max(map(len, texts))
    ids = np.zeros((len(texts), width), np.int64)
    mask = np.zeros((len(texts), width), np.int64)
    for row, text in enumerate(texts):
        ids[row, width - len(text) :] = text
        mask[row, width - len(text) :] = 1
    output = model.generate(  # type: ignore[operator]
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        do_sample=True,
        top_k=0,
        max_new_tokens=max(map(len, turns)),
        logits_processor=LogitsProcessorList([_ForcedLogits(turns, width)]),
        stopping_criteria=StoppingCriteriaList([_ClosedQuery(turns, width)]),
        pad_token_id=0,
    )
    written = output.numpy()[:, width:]
    return [line[: len(turn)] for line, turn in zip(written, turns, strict=True)]


def run_generate(
    envs: SearchQAVectorEnv, model: PreTrainedModel, scripts: list[Script]
) -> Measured:
    """Play all episodes batch by batch, turn by turn."""
    episodes, seconds = [], {"generate": 0.0, "environment": 0.0}
    begun = time.perf_counter()
    for first in range(0, len(scripts), envs.num_envs):
        batch = scripts[first : first + envs.num_envs]
        asked = [(first + row) // GROUP for row in range(len(batch))]
        obs, _ = envs.reset(options={"index": asked + asked[:1] * (envs.num_envs - len(batch))})
        finished: dict[int, list[int]] = {}
        for turn in range(max(map(len, batch))):
            active = [row for row in range(len(batch)) if row not in finished]
            texts = [obs["tokens"][row, : obs["length"][row]].astype(np.int64) for row in active]
            start = time.perf_counter()
            written = generate_turn(model, texts, [batch[row][turn] for row in active])
            middle = time.perf_counter()
            obs = _write(envs, dict(zip(active, written, strict=True)), finished)
            seconds["generate"] += middle - start
            seconds["environment"] += time.perf_counter() - middle
        episodes += [finished[row] for row in range(len(batch))]
    seconds["total"] = time.perf_counter() - begun
    tokens = sum(len(turn) for script in scripts for turn in script)
    return Measured(episodes, tokens, seconds)


def _write(
    envs: SearchQAVectorEnv, lines: dict[int, Ids], finished: dict[int, list[int]]
) -> Observation:
    """Hand the environment a turn of each row; return the observation with the documents."""
    for step in range(max(map(len, lines.values()))):
        going = [row for row, line in lines.items() if step < len(line) and row not in finished]
        rows = np.array(going, np.int64)
        envs.send(np.array([lines[row][step] for row in rows]), rows)
        obs, *_ = envs.recv(len(rows))
        finished.update({row: list(t.tokens) for row, t in envs.transcripts.items()})
    return obs


def measure(
    rows: int, questions: int, dtype: str, repeats: int, max_tokens: int
) -> tuple[list[Measured], list[Measured]]:
    """Return the runs of the engine and of ``generate``, taken in turn.

    Raises:
        RuntimeError: The contenders did not write the same.
    """
    envs = make_envs(rows, max_tokens)
    model = make_model(envs.setting.size, max_tokens, DTYPES[dtype])
    scripts = write_scripts(envs, questions)
    ours, peers = [], []
    for _ in range(repeats):
        ours.append(run_engine(envs, model, scripts, max_tokens))
        peers.append(run_generate(envs, model, scripts))
        if ours[-1].episodes != peers[-1].episodes:
            raise RuntimeError("Expected equal episodes of both contenders, got others.")
    return ours, peers


def rate(runs: Sequence[Measured]) -> float:
    """Return the median of the tokens that the policy wrote in a second."""
    return float(np.median([run.policy_tokens / run.seconds["total"] for run in runs]))


def result(given: argparse.Namespace, command: str) -> str:
    """Measure everything and return the result as Markdown."""
    packages = ["search-env", "torch", "transformers", "numpy"]
    head = heading("Rollouts", command, packages).replace(
        "one thread;", f"{torch.get_num_threads()} thread(s) of torch;"
    )
    speeds, shares, lengths = [], [], ""
    for dtype in given.dtypes.split(","):
        for rows in given.rows:
            ours, peers = measure(rows, given.questions, dtype, given.repeats, given.max_tokens)
            name = f"{dtype}, {rows} rows"
            ratios = [
                peer.seconds["total"] / our.seconds["total"]
                for our, peer in zip(ours, peers, strict=True)
            ]
            speeds.append(
                [
                    name,
                    f"{rate(ours):,.0f}",
                    f"{rate(peers):,.0f}",
                    f"{np.median(ratios):.2f}",
                    f"{min(ratios):.2f} to {max(ratios):.2f}",
                ]
            )
            for who, runs in (("engine", ours), ("generate", peers)):
                parts = runs[-1].seconds
                shares.append(
                    [f"{name}, {who}"]
                    + [
                        f"{100 * parts[part] / parts['total']:.1f} %" if part in parts else ""
                        for part in ("environment", "retrieval", "prefill", "decode", "generate")
                    ]
                    + [f"{parts['total']:.1f}"]
                )
            sizes = [len(episode) for episode in ours[0].episodes]
            lengths = (
                f"{len(sizes)} episodes of {min(sizes)} to {max(sizes)} tokens, "
                f"{np.mean(sizes):.0f} in the mean, "
                f"{ours[0].policy_tokens / len(sizes):.0f} of them the policy's"
            )
    columns = ["weights", "engine, tokens/s", "`generate`, tokens/s", "times", "range"]
    parts = ["", "environment", "retrieval", "prefill", "decode", "`generate`", "seconds"]
    return f"""{head}
{lengths}; groups of {GROUP}. Llama of 2.0 million random parameters. Tokens are the policy's alone.
Medians of {given.repeats} rounds in turn. Target: {TARGET:g} times `generate` driven turn by turn.

{table(columns, speeds)}

## Where the time goes

{table(parts, shares)}
"""


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[64], help="sequences side by side")
    parser.add_argument("--questions", type=int, default=32, help="groups of 8 episodes")
    parser.add_argument("--dtypes", default="fp32,bf16", help="types of the weights")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each contender")
    parser.add_argument("--max-tokens", type=int, default=4096, help="context")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    command = (
        f"python -m benchmarks.speed.rollout --rows {' '.join(map(str, given.rows))} --questions "
        f"{given.questions} --dtypes {given.dtypes} --repeats {given.repeats} "
        f"--threads {given.threads}"
    )
    publish(result(given, command), given.output)


if __name__ == "__main__":
    main()
