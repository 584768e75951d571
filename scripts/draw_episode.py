"""Draw the solved episode of README: ``python -m scripts.draw_episode docs/images/episode.png``.

A scripted agent that knows the queries plays a two-hop question of the test world, one document a
search; the picture is what ``render_mode="rgb_array"`` returns at the end.
"""

from __future__ import annotations

import sys

import gymnasium as gym
from PIL import Image

import search_env  # noqa: F401 - registers the ids
from search_env.agents.baselines.scripted import make_baseline
from search_env.envs.search_qa import bare_env

QUESTION = 2  # an index, of an episode that is short enough to be seen whole


def main(path: str) -> None:
    """Play the episode and write the picture."""
    env = gym.make(
        "SearchQA-v0",
        split="test",
        dataset_options={"hops": [2]},
        top_k=1,
        render_mode="rgb_array",
    )
    agent = make_baseline("oracle")
    observation, _ = env.reset(options={"index": QUESTION})
    agent.begin(bare_env(env), observation)
    is_over = False
    while not is_over:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        is_over = terminated or truncated
    Image.fromarray(env.render()).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
