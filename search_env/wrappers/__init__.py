"""Gymnasium wrappers, one concept per file; import them from their own modules.

* :mod:`search_env.wrappers.clocks`: action granularity: a segment, a text, a whole episode.
* :mod:`search_env.wrappers.staged_reward`: training in phases, each with a reward of its own.
* :mod:`search_env.wrappers.worker_faults`: an explicit error when a worker process dies.
* :mod:`search_env.wrappers.record_episodes`: recording of finished episodes to a file.
* :mod:`search_env.wrappers.token_window`: tokens as categories, for networks without embeddings.
"""
