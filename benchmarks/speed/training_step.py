"""A whole training step: rollouts with searches and an update, beside TRL's ``GRPOTrainer``.

Run it in an environment that TRL is installed into::

    pip install trl==1.16.0 datasets accelerate
    python -m benchmarks.speed.training_step --output benchmarks/results/speed_training_step.md

Both train the same model from the same weights with GRPO, one optimizer step for a batch of
episodes. TRL plays them by its own tool loop (``tools=``): ``generate`` for all active rows, calls
parsed out of the text, the same retriever behind a function ``search``, documents through the chat
template, ``generate`` again from all tokens. Both policies sample as usual and are then made to
write the same scripts (:mod:`benchmarks.scripted`), so searches and tokens are equal, which is
checked; TRL needs an end-of-sequence token to end a turn, which is not counted. Steps are taken in
turn, so a slow minute of the machine falls on both.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from agents.algorithm import Algorithm
from agents.learner import Learner, OptimizerConfig
from agents.rollout import collect, make_envs
from agents.updates import update
from benchmarks.report import heading, publish, table
from benchmarks.scripted import Script, ScriptedEngine, write_scripts
from search_env.scoring import score_answer
from search_env.types import Tag
from search_env.vector_env import SearchQAVectorEnv

TARGET, HOPED = 2.0, 3.0
ENVIRONMENT_LIMIT = 0.05
PARTS = ("environment", "retrieval", "prefill", "decode", "score", "learn")
RATE = 1e-5
END = 0
"""The id that ends a sequence."""


@dataclass(slots=True)
class Workload:
    """What both contenders do.

    Attributes:
        envs: Rows of the environment, one for each episode of a step.
        group: Episodes of a question.
        scripts: What is written, by step.
    """

    envs: SearchQAVectorEnv
    group: int
    scripts: list[list[Script]]

    @classmethod
    def of(cls, rows: int, group: int, steps: int, max_tokens: int) -> Workload:
        """Return the work of so many steps; each has its own questions."""
        options = {"max_tokens": max_tokens}
        envs = make_envs("SearchQA-v0", rows=rows, vocabulary=1024, options=options)
        work = cls(envs, group, [])
        work.scripts = [
            write_scripts(envs, work.questions(step), group, seed=step) for step in range(steps)
        ]
        return work

    def questions(self, step: int) -> list[int]:
        """Return the questions of a step."""
        count = self.envs.num_envs // self.group
        return list(range(step * count, (step + 1) * count))

    def tokens(self, step: int) -> list[list[int]]:
        """Return what the policy writes in each episode of a step."""
        return [np.concatenate(script).tolist() for script in self.scripts[step]]


@dataclass(slots=True)
class Measured:
    """One contender's steps.

    Attributes:
        seconds: Of each step.
        parts: Seconds by part, of each step.
        written: What the policy wrote in each episode of each step.
        read: Tokens of each step that were put in behind the prompts.
    """

    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    written: list[list[list[int]]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)


def tiny_model(max_tokens: int, model_class: type[Qwen2ForCausalLM]) -> Qwen2ForCausalLM:
    """Return a Qwen2 of two million random parameters, the same at every call."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,
    )
    return model_class(config)


class Ours:
    """This package's step: :func:`~agents.rollout.collect` and :func:`~agents.updates.update`."""

    def __init__(self, work: Workload, dtype: str, max_tokens: int) -> None:
        self.work, self.measured = work, Measured()
        learning = OptimizerConfig(learning_rate=RATE)
        model = tiny_model(max_tokens, Qwen2ForCausalLM)
        self._learner = Learner(model, learning, dtype="fp32" if dtype == "fp32" else "bf16")
        rows = work.envs.num_envs
        self._engine = ScriptedEngine(self._learner.model, rows=rows, max_tokens=max_tokens)
        self._algorithm = Algorithm(
            prompts=rows // work.group, group_size=work.group, aggregation="token_mean"
        )

    def step(self, number: int) -> None:
        """Take a step."""
        work = self.work
        questions = work.questions(number)
        self._engine.follow(work.envs, questions, work.scripts[number])
        start = time.perf_counter()
        rollouts = collect(work.envs, self._engine, questions, group_size=work.group, seed=number)
        learnt = update(self._learner, rollouts.trajectories, self._algorithm)
        self.measured.seconds.append(time.perf_counter() - start)
        spent = {"score": learnt["time/score"], "learn": learnt["time/learn"]}
        self.measured.parts.append({**rollouts.seconds, **spent})
        played = rollouts.trajectories
        self.measured.written.append([t.tokens[t.policy].tolist() for t in played])
        behind = [len(t.tokens) - int(np.argmax(t.policy)) - t.num_policy_tokens for t in played]
        self.measured.read.append(sum(behind))


# TRL: a tokenizer that renders and parses this environment's tags, a model that follows scripts.

_CHAT = (
    "{%- for m in messages -%}{{ m['content'] }}"
    "{%- if m['role'] == 'assistant' -%}"
    "{%- for c in m['tool_calls'] or [] -%}"
    "[QUERY]{{ c['function']['name'] }} {{ c['function']['arguments'] | tojson }}[/QUERY]"
    "{%- endfor -%}<|endoftext|>{%- endif -%}{%- endfor -%}"
)


def chat_tokenizer(envs: SearchQAVectorEnv) -> PreTrainedTokenizerFast:
    """Return the environment's tokenizer with a chat template and a parser of its tags."""
    tags = envs.protocol.tags
    asset = files("search_env") / "assets" / "world_1k.json"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(asset.read_text("utf-8"), "utf-8")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(path), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
        )
    opening, closing = tags[Tag.QUERY_OPEN], tags[Tag.QUERY_CLOSE]
    tokenizer.chat_template = _CHAT.replace("[QUERY]", opening).replace("[/QUERY]", closing)
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": ["Assistant: <think>", envs.protocol.documents_suffix],
        "fields": {
            "tool_calls": {
                "open": opening,
                "close": closing,
                "repeats": True,
                "content": "text",
                "transform": {
                    "type": "function",
                    "function": {"name": "search", "arguments": {"query": "{content}"}},
                },
            },
            "content": {"close_pattern": r"<\|endoftext\|>\s*", "content": "text"},
        },
    }
    return tokenizer


class _Forced(LogitsProcessor):
    """Leaves one id a row: the turn's, then the end of sequence."""

    def __init__(self, turns: Sequence[Sequence[int]], start: int) -> None:
        longest = max(map(len, turns)) + 1
        padded = [[*turn, *[END] * (longest - len(turn))] for turn in turns]
        self._ids, self._start = torch.tensor(padded), start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        wanted = self._ids[:, input_ids.shape[1] - self._start, None]
        return torch.full_like(scores, -torch.inf).scatter_(1, wanted, 0.0)


class ScriptedModel(Qwen2ForCausalLM):
    """A model whose ``generate`` writes scripts, turn by turn."""

    scripts: Sequence[Script] = ()
    turn: int = 0
    spent: float = 0.0

    def follow(self, scripts: Sequence[Script]) -> None:
        """Take the scripts of the next step."""
        self.scripts, self.turn, self.spent = scripts, 0, 0.0

    def generate(self, input_ids: Tensor, **options: Any) -> Tensor:
        """Generate the next turn of all rows that have one; the others are not asked."""
        turns = [script[self.turn].tolist() for script in self.scripts if len(script) > self.turn]
        if len(turns) != len(input_ids):
            raise RuntimeError(f"Expected {len(turns)} rows with a turn, got {len(input_ids)}.")
        self.turn += 1
        start = time.perf_counter()
        forced = LogitsProcessorList([_Forced(turns, input_ids.shape[1])])
        output: Tensor = super().generate(  # type: ignore[no-untyped-call]
            input_ids=input_ids, logits_processor=forced, **options
        )
        self.spent += time.perf_counter() - start
        return output


def search_tool(envs: SearchQAVectorEnv, spent: list[float]) -> Callable[[str], str]:
    """Return the function that TRL calls; its seconds are appended to ``spent``."""
    protocol, retriever = envs.protocol, envs.retriever

    def search(query: str) -> str:
        """Search the encyclopaedia.

        Args:
            query: What to look for.
        """
        start = time.perf_counter()
        found = retriever.search([protocol.clean_query(query.strip())], protocol.top_k)[0]
        ranks = (protocol.document_rank.replace("{rank}", str(n + 1)) for n in range(len(found)))
        texts = (protocol.document_text(document) for document in found)
        body = "".join(f"{rank}{text}" for rank, text in zip(ranks, texts, strict=True))
        block: str = protocol.documents_prefix + body + protocol.documents_suffix
        spent.append(time.perf_counter() - start)
        return block

    return search


def reward_of(completions: list[Any], answers: list[list[str]], **_: Any) -> list[float]:
    """Return the F1 of what stands between the answer tags."""
    scores = []
    for messages, gold in zip(completions, answers, strict=True):
        said = re.search(r"<answer>(.*?)</answer>", messages[-1]["content"], re.DOTALL)
        scores.append(score_answer(said.group(1).strip(), gold).f1 if said else 0.0)
    return scores


def run_side_by_side(ours: Ours, dtype: str, max_tokens: int, micro: int) -> Measured:
    """Let TRL train; after each of its steps, ours takes the same one. Return TRL's.

    Args:
        ours: Takes a step whenever TRL has taken one.
        dtype: ``"bf16"`` is autocast over float32 weights, TRL's default.
        max_tokens: Context.
        micro: Episodes in one forward and backward pass of TRL.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    work, measured, searched = ours.work, Measured(), []
    rows, steps = work.envs.num_envs, len(work.scripts)
    model = tiny_model(max_tokens, ScriptedModel)

    class Recorded(GRPOTrainer):
        """Keeps what was written."""

        def _generate(self, prompts: list[Any]) -> Any:
            result = super()._generate(prompts)
            ids, masks = result[1], result[2]
            kept = [
                [i for i, own in zip(*pair, strict=True) if own and i != END]
                for pair in zip(ids, masks, strict=True)
            ]
            measured.written.append(kept)
            measured.read.append(sum(mask.count(0) for mask in masks))
            return result

    class Turns(TrainerCallback):
        """Takes the time of each step, and lets the other contender have its turn."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            searched.clear()
            model.follow(work.scripts[state.global_step])
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            measured.seconds.append(time.perf_counter() - self.start)
            measured.parts.append({"generate": model.spent, "search": sum(searched)})
            ours.step(state.global_step - 1)

    questions = [work.envs.questions[i] for step in range(steps) for i in work.questions(step)]
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt_text(work.envs, q.text)}],
                "answers": list(q.answers),
            }
            for q in questions
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=min(micro, rows),
            gradient_accumulation_steps=max(1, rows // micro),
            num_generations=work.group,
            max_completion_length=max_tokens,
            max_steps=steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=dtype == "bf16",
            use_cpu=True,
            shuffle_dataset=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Recorded(
            model=model,
            args=config,
            processing_class=chat_tokenizer(work.envs),
            reward_funcs=reward_of,
            train_dataset=data,
            tools=[search_tool(work.envs, searched)],
            callbacks=[Turns()],
        )
        trainer.train()
    return measured


def prompt_text(envs: SearchQAVectorEnv, question: str) -> str:
    """Return the prompt that the environment writes."""
    return "".join(text for text, _ in envs.protocol.prompt_pieces(question, "base"))


def check(work: Workload, ours: Measured, peer: Measured) -> None:
    """Make sure that both did the work.

    Raises:
        RuntimeError: Somebody wrote another thing, or read much more or less.
    """
    for step in range(len(work.scripts)):
        wanted = work.tokens(step)
        for name, found in (("ours", ours), ("TRL", peer)):
            if found.written[step] != wanted:
                raise RuntimeError(f"Expected the scripts of step {step} from {name}, got others.")
        if abs(ours.read[step] / peer.read[step] - 1.0) > 0.05:
            raise RuntimeError(
                f"Expected documents of equal length in step {step}, got {ours.read[step]} tokens "
                f"in ours and {peer.read[step]} in TRL."
            )


def speed_row(dtype: str, ours: Measured, peer: Measured, work: Workload) -> list[str]:
    """Return the line of a table; the first step warmed both up and is left out."""
    tokens = [sum(map(len, work.tokens(step))) for step in range(1, len(work.scripts))]
    mine, theirs = ours.seconds[1:], peer.seconds[1:]
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    figures = [
        f"{statistics.median(mine):.2f}",
        f"{statistics.median(theirs):.2f}",
        f"{sum(tokens) / sum(mine):,.0f}",
        f"{sum(tokens) / sum(theirs):,.0f}",
        f"{statistics.median(ratios):.2f} ({_verdict(statistics.median(ratios))})",
        f"{min(ratios):.2f} to {max(ratios):.2f}",
    ]
    return [dtype, *figures]


def share_rows(dtype: str, ours: Measured, peer: Measured) -> tuple[list[str], list[str]]:
    """Return where each contender's time goes, as lines of two tables."""

    def shares(measured: Measured, parts: Sequence[str]) -> list[str]:
        whole = sum(measured.seconds[1:])
        sums = [sum(step[part] for step in measured.parts[1:]) / whole for part in parts]
        return [f"{share:.1%}" for share in [*sums, max(0.0, 1.0 - sum(sums))]]

    return [dtype, *shares(ours, PARTS)], [dtype, *shares(peer, ("generate", "search"))]


def environment_share(measured: Measured) -> float:
    """Return the share of the environment's own code in the steps."""
    spent = sum(step["environment"] for step in measured.parts[1:])
    return spent / sum(measured.seconds[1:])


def result(given: argparse.Namespace, command: str) -> str:
    """Measure everything and return the result as Markdown."""
    packages = ["search-env", "torch", "transformers", "trl", "accelerate", "numpy"]
    head = heading("A training step", command, packages).replace(
        "one thread;", f"{torch.get_num_threads()} thread(s) of torch;"
    )
    work = Workload.of(given.rows, given.group, given.steps + 1, given.max_tokens)
    speeds, shares, peers, environment = [], [], [], []
    for dtype in given.dtypes.split(","):
        ours = Ours(work, dtype, given.max_tokens)
        peer = run_side_by_side(ours, dtype, given.max_tokens, given.micro)
        check(work, ours.measured, peer)
        speeds.append(speed_row(dtype, ours.measured, peer, work))
        mine, theirs = share_rows(dtype, ours.measured, peer)
        shares.append(mine)
        peers.append(theirs)
        environment.append(environment_share(ours.measured))
        read = ours.measured.read[-1] / given.rows
    written = np.mean([len(tokens) for tokens in work.tokens(given.steps)])
    searches = np.mean([len(script) - 1 for script in work.scripts[given.steps]])
    most = max(environment)
    kept = "kept" if most < ENVIRONMENT_LIMIT else "not kept"
    columns = ["weights", "ours, s", "TRL, s", "ours, tokens/s", "TRL, tokens/s", "times", "range"]
    work_done = (
        f"{given.rows} episodes a step in groups of {given.group}: {searches:.1f} searches, "
        f"{written:.0f} tokens of the policy and {read:.0f} of documents each."
    )
    return f"""{head}
{work_done}
Qwen2 of 2.0 million random parameters, GRPO, one optimizer step for all episodes, micro-batches of
{given.micro} episodes in TRL and of 16,384 tokens here. bf16 is autocast over float32 weights in
TRL, and bfloat16 weights that follow float32 masters here. Medians of {given.steps} steps taken in
turn, after one to warm up. Tokens are the policy's alone. Target: {TARGET:g} times as fast,
{HOPED:g} hoped for.

{table(columns, speeds)}

## Where the time goes in ours

{table(["weights", *PARTS, "rest"], shares)}

The environment's own code takes at most {most:.1%} of a step (limit {ENVIRONMENT_LIMIT:.0%}:
{kept}).

## Where the time goes in TRL

{table(["weights", "generate", "search", "rest"], peers)}

The rest is parsing and encoding between turns, log-probabilities, gradients and the optimizer.
"""


def _verdict(ratio: float) -> str:
    if ratio >= HOPED:
        return "hope met"
    return "target met" if ratio >= TARGET else f"{TARGET - ratio:.2f} short of the target"


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=64, help="episodes of a step")
    parser.add_argument("--group", type=int, default=8, help="episodes of a question")
    parser.add_argument("--steps", type=int, default=3, help="steps of each, after one to warm up")
    parser.add_argument("--dtypes", default="fp32,bf16", help="types that are computed in")
    parser.add_argument("--micro", type=int, default=8, help="episodes in a micro-batch of TRL")
    parser.add_argument("--max-tokens", type=int, default=3072, help="context")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    command = (
        f"python -m benchmarks.speed.training_step --rows {given.rows} --group {given.group} "
        f"--steps {given.steps} --dtypes {given.dtypes} --micro {given.micro} "
        f"--threads {given.threads}"
    )
    publish(result(given, command), given.output)


if __name__ == "__main__":
    main()
