"""Recorded episodes: their format, files of them, replay and rescoring."""

from search_env.recording.files import EpisodeWriter, read_episodes
from search_env.recording.record import RecordedEpisode
from search_env.recording.replay import replay_episode, rescore

__all__ = [
    "EpisodeWriter",
    "RecordedEpisode",
    "read_episodes",
    "replay_episode",
    "rescore",
]
