"""Agents for :mod:`search_env`. Scripted ones need nothing more; those that learn need torch."""

if __name__ != "search_env.agents":
    raise ImportError(
        f"Expected to be imported as search_env.agents, got {__name__!r}. Write "
        "`import search_env.agents`; the top-level name belongs to other packages."
    )
