"""Benchmarks that can be compared, their committed results, and what made them."""

if __name__ != "search_env.benchmarks":
    raise ImportError(
        f"Expected to be imported as search_env.benchmarks, got {__name__!r}. Write "
        "`import search_env.benchmarks`; the top-level name belongs to other packages."
    )
