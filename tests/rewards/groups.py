"""Group rewards and toy episodes for the tests of both: a function of a module, so picklable."""

from __future__ import annotations

from collections.abc import Sequence

from search_env.envs.search_qa import SearchQAEnv
from search_env.metrics.answers import cover_exact_match
from search_env.rewards import GroupReward, register_group_reward
from search_env.rewards.r1_searcher_plus_plus import R1_SEARCHER_PLUS_PLUS_GROUP
from search_env.types import Transcript

TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy", "max_tokens": 64, "max_searches": 4}
QUERY = "<q>key1 key1 </q>"
SCRIPTS = (
    "<a>{gold}</a>",
    QUERY + "<a>{gold}</a>",
    QUERY + QUERY + "<a>{gold}</a>",
    QUERY * 3 + "<a>{gold}</a>",
    "<a>key1 </a>",
    QUERY + "<a></a>",
    QUERY,
)
"""Right after 0 to 3 searches, wrong without and with one, and without an answer."""


def right(transcript: Transcript) -> bool:
    return cover_exact_match(transcript.answer, transcript.question.answers) == 1.0


def fewest_searches(group: Sequence[Transcript]) -> list[dict[str, float]]:
    """Pay 1 to right members with the fewest searches."""
    counts = [len(member.searches) for member in group if right(member)]
    return [
        {"frugal": float(right(member) and len(member.searches) == min(counts))} for member in group
    ]


FEWEST = register_group_reward(
    GroupReward("test-fewest-searches", ("frugal",), fewest_searches),
    replace=True,  # doctests import this module by another name, too
)
SPREAD = R1_SEARCHER_PLUS_PLUS_GROUP


def ids_of(script: str, transcript: Transcript, tokenizer) -> list[int]:
    """Return the ids that write a script, and the end of sequence after it."""
    text = script.replace("{gold}", transcript.question.answers[0])
    return [*tokenizer.encode(text).tolist(), *tokenizer.eos_ids]


def played(*scripts: str, index: int = 9, **arguments) -> list[Transcript]:
    """Return an episode of one question for each script."""
    transcripts = []
    for script in scripts:
        env = SearchQAEnv(**{**TOY, **arguments})
        env.reset(seed=0, options={"index": index})
        for token in ids_of(script, env.transcript(), env.tokenizer):
            _, _, terminated, truncated, _ = env.step(token)
            if terminated or truncated:
                break
        transcripts.append(env.transcript())
    return transcripts
