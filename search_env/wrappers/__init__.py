"""Gymnasium wrappers, one concept per file; import them from their own modules.

* :mod:`search_env.wrappers.clocks`: action granularity: a segment, a text, a whole episode.
* :mod:`search_env.wrappers.staged_reward`: training in phases, each with a reward of its own.
* :mod:`search_env.wrappers.worker_faults`: an explicit error when a worker process dies.
* :mod:`search_env.wrappers.record_episodes`: recording of finished episodes to a file.
* :mod:`search_env.wrappers.token_window`: tokens as categories, for networks without embeddings.
"""

from search_env.wrappers.clocks import EpisodeAction, SegmentAction, TextAction
from search_env.wrappers.record_episodes import RecordEpisodes
from search_env.wrappers.staged_reward import StagedReward, VectorStagedReward
from search_env.wrappers.token_window import TokenWindow, VectorTokenWindow
from search_env.wrappers.unicode_space import Unicode
from search_env.wrappers.worker_faults import WorkerFaults

__all__ = [
    "EpisodeAction",
    "RecordEpisodes",
    "SegmentAction",
    "StagedReward",
    "TextAction",
    "TokenWindow",
    "Unicode",
    "VectorStagedReward",
    "VectorTokenWindow",
    "WorkerFaults",
]
