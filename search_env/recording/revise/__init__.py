"""Retro-Search: right traces are revised into shorter ones by a model's own roll-outs.

:mod:`~search_env.recording.revise.settings` has every choice by name,
:mod:`~search_env.recording.revise.retro_search` the algorithm over a sampling callable. It revises
search episodes and plain reasoning traces alike; nothing here samples, or needs torch.

Source: Lu et al., 2025, arXiv 2504.04383.
"""
