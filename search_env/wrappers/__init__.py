"""Gymnasium wrappers, one concept a file; import them from their own modules.

* :mod:`search_env.wrappers.clocks`: what one step is: a segment, a text, a whole episode.
* :mod:`search_env.wrappers.staged_reward`: training in phases.
* :mod:`search_env.wrappers.record_episodes`: every finished episode to a file.
"""
