"""Agents by the names that a command line gives them.

======================  ====================================================================
agent                   what plays
======================  ====================================================================
``oracle`` and others   a scripted baseline of :mod:`search_env.agents.baselines.scripted`
``model:NAME``          a causal language model: bundled name, folder or hub id
``python:MODULE:NAME``  a function ``(prompt, stop) -> text``
``http://.../v1``       an OpenAI-compatible endpoint; needs ``model``
======================  ====================================================================
"""

from __future__ import annotations

from typing import Any

from search_env.agents.baselines.scripted import BASELINES, make_baseline
from search_env.benchmarks.harness.spec import BenchmarkProtocol
from search_env.benchmarks.players.base import BenchmarkAgent, TokenAgent
from search_env.errors import ConfigurationError, nearest
from search_env.protocols.registry import get_protocol
from search_env.redaction import redacted, without_user


def make_agent(
    agent: str, protocol: BenchmarkProtocol, *, seed: int, **options: Any
) -> BenchmarkAgent:
    """Return the agent that a command line names (this module's table); options may be None."""
    options = {name: value for name, value in options.items() if value is not None}
    kind, _, name = agent.partition(":")
    if agent in BASELINES:
        _check_options(agent, options)
        return TokenAgent(agent, make_baseline(agent, seed))
    if kind == "model":
        from search_env.benchmarks.players.local_model import ModelAgent

        _check_options(agent, options, "tokenizer prompt num_envs max_tokens dtype device forced")
        return ModelAgent(name, **options)
    if kind == "python":
        from search_env.benchmarks.players.text import function_agent

        _check_options(agent, options, "tokenizer concurrency")
        return function_agent(name, **options)
    if kind in ("http", "https"):
        from search_env.benchmarks.players.openai_endpoint import endpoint_agent

        _check_options(agent, options, "model api tokenizer concurrency max_tokens timeout retries")
        if "model" not in options:
            raise ConfigurationError(
                f"Expected the name of a model at {redacted(agent)}, got none. Pass --model as the "
                "endpoint names it."
            )
        rules = get_protocol(str(protocol.environment()["protocol"]))
        return endpoint_agent(agent, protocol=rules, **options)
    names = [*BASELINES, "model:NAME", "python:MODULE:NAME", "http://HOST/v1"]
    raise ConfigurationError(
        f"Expected an agent among {', '.join(names)}, got {without_user(agent)!r}. "
        f"{nearest(agent, names)}"
        "Agents of your own run with search_env.benchmarks.run.run."
    )


def _check_options(agent: str, options: dict[str, Any], names: str = "") -> None:
    """Refuse options that the agent does not take; ``names`` are those that it does."""
    allowed = names.split()
    for name in options:
        if name not in allowed:
            raise ConfigurationError(
                f"Expected options of {redacted(agent)} among {', '.join(allowed) or 'none'}, got "
                f"{name}. Leave it out."
            )
