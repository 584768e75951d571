"""TRL's side of the training step: its tool loop, made to write given scripts.

A tokenizer that renders and parses this environment's tags, a model whose ``generate`` follows
scripts, a tool that searches, a trainer that records; and the work that both sides do.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM, TrainerCallback

from search_env.agents.rollouts.collect import make_envs
from search_env.benchmarks.speed.scripted import END, Script, forced_to, tiny_model, write_scripts
from search_env.core.document_block import DocumentBlockWriter
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.metrics.answers import score_answer
from search_env.types import TagRole

LEARNING_RATE = 1e-5

_CHAT = (
    "{%- for m in messages -%}{{ m['content'] }}"
    "{%- if m['role'] == 'assistant' -%}"
    "{%- for c in m['tool_calls'] or [] -%}"
    "[QUERY]{{ c['function']['name'] }} {{ c['function']['arguments'] | tojson }}[/QUERY]"
    "{%- endfor -%}<|endoftext|>{%- endif -%}{%- endfor -%}"
)


@dataclass(slots=True)
class Workload:
    """The episodes that both contenders play: rows of the environment, and scripts by step."""

    envs: SearchQAVectorEnv
    group: int
    scripts: list[list[Script]] = field(default_factory=list)

    @classmethod
    def of(cls, rows: int, group: int, steps: int, max_tokens: int) -> Workload:
        """Return the work of so many steps; each has its own questions."""
        options = {"max_tokens": max_tokens}
        work = cls(make_envs("SearchQA-v0", num_envs=rows, vocabulary=1024, options=options), group)
        for step in range(steps):
            work.scripts.append(write_scripts(work.envs, work.questions(step), group, seed=step))
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
    """One contender's steps: seconds, what was written in each episode, tokens of the documents."""

    seconds: list[float] = field(default_factory=list)
    written: list[list[list[int]]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)


def chat_tokenizer(envs: SearchQAVectorEnv) -> PreTrainedTokenizerFast:
    """Return the environment's tokenizer with a chat template and a parser of its tags."""
    asset = files("search_env.tokens") / "world_1k.json"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(asset.read_text("utf-8")),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    query = envs.protocol.pair(TagRole.TOOL)
    opening, closing = query.open, query.close
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


class ScriptedModel(Qwen2ForCausalLM):
    """A model whose ``generate`` writes scripts, turn by turn."""

    scripts: Sequence[Script] = ()
    turn: int = 0

    def follow(self, scripts: Sequence[Script]) -> None:
        """Take the scripts of the next step."""
        self.scripts, self.turn = scripts, 0

    def generate(self, input_ids: Tensor, **options: Any) -> Tensor:
        """Generate the next turn of all rows that have one; the others are not asked."""
        turns = [script[self.turn] for script in self.scripts if len(script) > self.turn]
        if len(turns) != len(input_ids):
            raise RuntimeError(f"Expected {len(turns)} rows with a turn, got {len(input_ids)}.")
        self.turn += 1
        forced = forced_to(turns, input_ids.shape[1])
        return super().generate(input_ids=input_ids, logits_processor=forced, **options)


def search_tool(envs: SearchQAVectorEnv) -> Callable[[str], str]:
    """Return the function that TRL calls."""
    protocol, retriever = envs.protocol, envs.retriever
    blocks = DocumentBlockWriter(protocol, envs.tokenizer)

    def search(query: str) -> str:
        """Search the encyclopaedia.

        Args:
            query: What to look for.
        """
        documents = retriever.search([protocol.clean_query(query.strip())], protocol.top_k)[0]
        return envs.tokenizer.decode(blocks.write(documents, protocol.max_tokens))

    return search


def reward_of(completions: list[Any], answers: list[list[str]], **_: Any) -> list[float]:
    """Return the F1 of what stands between the answer tags."""
    scores = []
    for messages, gold in zip(completions, answers, strict=True):
        answer = re.search(r"<answer>(.*?)</answer>", messages[-1]["content"], re.DOTALL)
        scores.append(score_answer(answer.group(1).strip(), gold).f1 if answer else 0.0)
    return scores


def train_with_trl(
    work: Workload, dtype: str, max_tokens: int, micro: int, after: Callable[[int], None]
) -> Measured:
    """Let TRL train, by autocast in ``"bf16"``; ``after`` is the other contender's turn."""
    from trl import GRPOTrainer

    measured = Measured()
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

        start = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            model.follow(work.scripts[state.global_step])
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            measured.seconds.append(time.perf_counter() - self.start)
            after(state.global_step - 1)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Recorded(
            model=model,
            args=_settings(folder, work, dtype, max_tokens, micro),
            processing_class=chat_tokenizer(work.envs),
            reward_funcs=reward_of,
            train_dataset=_questions(work),
            tools=[search_tool(work.envs)],
            callbacks=[Turns()],
        )
        trainer.train()
    return measured


def _questions(work: Workload) -> Any:
    """Return TRL's dataset."""
    from datasets import Dataset

    indices = (i for step in range(len(work.scripts)) for i in work.questions(step))
    rows = []
    for question in (work.envs.questions[i] for i in indices):
        message = {"role": "user", "content": prompt_text(work.envs, question.text)}
        rows.append({"prompt": [message], "answers": list(question.answers)})
    return Dataset.from_list(rows)


def _settings(folder: str, work: Workload, dtype: str, max_tokens: int, micro: int) -> Any:
    """Return TRL's settings: one optimizer step for all episodes, nothing written."""
    from trl import GRPOConfig

    rows = work.envs.num_envs
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=min(micro, rows),
        gradient_accumulation_steps=max(1, rows // micro),
        num_generations=work.group,
        max_completion_length=max_tokens,
        max_steps=len(work.scripts),
        learning_rate=LEARNING_RATE,
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


def prompt_text(envs: SearchQAVectorEnv, question: str) -> str:
    """Return the prompt that the environment writes."""
    return "".join(text for text, _ in envs.protocol.prompt_pieces(question, "base"))
