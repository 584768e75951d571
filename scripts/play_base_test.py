"""Play the default run's test questions with its base, free and forced to search, and store them.

python scripts/play_base_test.py

To be run again whenever the base, its environment or the rules of an episode change. A run whose
settings match reads the file instead of playing (``search_env.agents.training.base_test``).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import gymnasium as gym

from search_env.agents.imitation.demonstrations import search_opening
from search_env.agents.inference.engine import Engine
from search_env.agents.inference.opening import OpeningEngine
from search_env.agents.inference.sampling import GREEDY
from search_env.agents.learning.precision import TORCH_DTYPES
from search_env.agents.models import bundled_folder, load_model
from search_env.agents.rollouts.lm_agent import play_questions, spread
from search_env.agents.training.base_test import store_episodes
from search_env.agents.training.default_run import tiny_run
from search_env.agents.training.run import environment_for
from search_env.envs.search_qa import bare_env


def main() -> None:
    """Read the command line, play and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=200, help="those of search-env train")
    count = parser.parse_args().questions
    parts = []
    env = bare_env(gym.make(tiny_run().env_id, **tiny_run().options_for("test")))
    opening = search_opening(env)
    for dtype in ("fp32", "bf16"):
        config = replace(tiny_run(), dtype=dtype)
        model = load_model(config.model, dtype=TORCH_DTYPES[dtype])
        envs = environment_for(config, model, "test")
        questions = spread(envs.questions, count)
        free = play_questions(model, envs, questions)
        size = envs.protocol.max_tokens
        engine = Engine(model, rows=envs.num_envs, max_tokens=size, sampling=GREEDY)
        forced = play_questions(OpeningEngine(engine, opening), envs, questions)
        parts.append((config, envs, free, forced))
    folder = bundled_folder(config.model)
    assert folder is not None
    store_episodes(parts, opening.tolist(), folder)


if __name__ == "__main__":
    main()
