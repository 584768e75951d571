"""The recipe of the study of a real model: questions, conditions, settings, and its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from search_env.agents.models import count_ids, load_model, with_tokenizer
from search_env.envs.search_qa import SearchQAEnv, bare_env
from search_env.errors import ConfigurationError
from search_env.paths import atomic_path
from search_env.typed_values import build, check_fields

SETS: Mapping[str, str] = {
    "bamboogle": "bamboogle-test/r1-searcher/bm25-pool81k/v1",
    "musique": "musique-dev/r1-searcher/bm25-pool81k/v1",
    "hotpotqa": "hotpotqa-dev/r1-searcher/bm25-pool81k/v1",
    "2wiki": "2wikimultihopqa-dev/r1-searcher/bm25-pool81k/v1",
}
"""What is reported on: the questions of these protocols."""

TRAIN = "hotpotqa:train+2wikimultihopqa:train+musique:train"
HELD_OUT = "hotpotqa:dev+2wikimultihopqa:dev+musique:dev"

SEARCH, ANSWER = "r1-searcher-stage1", "r1-searcher-stage2"
CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    "both": {},
    "phase-2": {"phases": (ANSWER,)},
    "reinforce-pp": {"advantage": "reinforce_pp_baseline"},
}
"""What differs from GRPO with both phases."""

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "": {},
    "question-as-query": {"forced": "question-as-query"},
    "closed-book": {"forced": "closed-book"},
    "shuffled-documents": {"ablation": "shuffled-documents"},
    "no-documents": {"ablation": "no-documents"},
}
"""Ways in which a model is evaluated."""

STARTS = ("strong", "weak")
READ = "read"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every setting of the study.

    Lengths are tokens, counts of episodes and questions as named; ``lora_rank`` 0 trains all
    weights, and then adapters are as large as the model.
    """

    model: str
    corpus: str | None = None  # None: that of the data folder
    top_k: int = 2
    max_tokens: int = 2560
    max_policy_tokens: int = 320  # quotations included
    max_searches: int = 4
    prompt: str = "base"
    most_yes_no: float = 0.1
    dtype: str = "auto"
    lora_rank: int = 16
    seed: int = 0
    num_envs: int = 16
    # Reading practice and cold starts: numbers of episodes, each imitated once.
    imitated_tokens: int = 7000  # an update
    read_episodes: int = 270
    read_rate: float = 5e-4
    start_rate: float = 3e-4
    strong_episodes: int = 340
    weak_searching: int = 24
    weak_closed: int = 120
    # Reinforcement learning.
    label_questions: int = 0  # 0 for no labels: all questions are drawn alike
    label_rollouts: int = 8
    levels: tuple[str, ...] = ("easy", "medium")  # of the labels: some rollout was right
    steps: int = 60
    prompts: int = 4
    group_size: int = 8
    learning_rate: float = 1e-4
    kl_coefficient: float = 0.0
    dynamic_sampling: bool = False
    phase_episodes: int = 640
    phase_search_rate: float = 0.9
    checkpoint_every: int = 5
    # Evaluation.
    eval_questions: int = 300  # of each set, spread evenly
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of TrainConfig

    def __post_init__(self) -> None:
        """Check the types."""
        check_fields(self)

    def environment(self) -> dict[str, Any]:
        """Return the arguments of the environment that training and evaluation share."""
        named: dict[str, Any] = {"top_k": self.top_k, "max_policy_tokens": self.max_policy_tokens}
        named |= {"max_searches": self.max_searches, "protocol": "r1-searcher"}
        corpus = {} if self.corpus is None else {"corpus": self.corpus}
        return {**named, **corpus}

    def training(self) -> dict[str, Any]:
        """Return the arguments of the environment of training: clean questions."""
        options = {"apart_from": HELD_OUT, "most_yes_no": self.most_yes_no}
        chosen = {"dataset": TRAIN, "dataset_options": options, "prompt": self.prompt}
        return {**self.environment(), **chosen}


class Study:
    """A folder of the study: its recipe, and the places of its models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "recipe.json"
        if not file.is_file():
            raise ConfigurationError(
                f"Expected a study's folder, got {folder} without recipe.json. Begin with `read`."
            )
        self.recipe = build(Recipe, json.loads(file.read_text("utf-8")))

    @classmethod
    def begin(cls, folder: Path, recipe: Recipe) -> Study:
        """Write the recipe, or check that it is the one that is there."""
        folder.mkdir(parents=True, exist_ok=True)
        file, text = folder / "recipe.json", json.dumps(asdict(recipe), indent=2) + "\n"
        if file.is_file() and file.read_text("utf-8") != text:
            raise ConfigurationError(
                f"Expected the recipe in {file}, got another. Leave its options out to go on, or "
                "choose another folder."
            )
        with atomic_path(file) as temporary:
            temporary.write_text(text, "utf-8")
        return cls(folder)

    def model(self, name: str) -> str:
        """Return the folder of a model by its name: ``base``, ``read``, a start, or a run's."""
        return self.recipe.model if name == "base" else str(self.folder / name / "model")

    def parent(self, name: str) -> str:
        """Return the name of the model that another began with."""
        if name == READ:
            return "base"
        return READ if name in STARTS else name.partition("-")[0]

    def env(self, questions: Path | None = None) -> SearchQAEnv:
        """Return the single environment of training, or over a file of questions."""
        loaded = load_tokenizer_options(self.recipe)
        arguments = {**self.recipe.training(), "max_tokens": self.recipe.max_tokens, **loaded}
        if questions is not None:
            arguments |= {"dataset": str(questions), "dataset_options": None}
        return bare_env(gym.make("SearchQA-v0", disable_env_checker=True, **arguments))


def load_tokenizer_options(recipe: Recipe) -> dict[str, Any]:
    """Return the model's own tokenizer, with as many ids as the model."""
    model = load_model(recipe.model)
    return {**with_tokenizer({}, model), "vocab_size": count_ids(model)}
