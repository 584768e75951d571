"""Search-augmented question answering for verifiers."""

from search_qa.taskset import SearchQAConfig, SearchQATaskset

__all__ = ["SearchQAConfig", "SearchQATaskset"]
