"""Gymnasium wrappers, one concept a file; import them from their own modules.

* :mod:`search_env.wrappers.clocks`: what one step is: a segment, a text, a whole episode.
* :mod:`search_env.wrappers.staged_reward`: training in phases; :mod:`.phases`: their rule.
* :mod:`search_env.wrappers.worker_faults`: an error with a name when a worker process dies.
* :mod:`search_env.wrappers.record_episodes`: every finished episode to a file.
* :mod:`search_env.wrappers.token_window`: tokens as categories, for networks that read no ids.
"""
