"""Errors of benchmarks: changed questions or rules, damaged results, unreachable endpoints."""

from __future__ import annotations

from search_env.errors import SearchEnvError


class BenchmarkError(SearchEnvError):
    """Base of every error that only benchmarks raise."""


class DigestMismatchError(BenchmarkError, ValueError):
    """Questions or corpus are not those that a protocol id stands for."""


class ResultsError(BenchmarkError, ValueError):
    """A file is no file of results, or is damaged."""


class ResultsMismatchError(ResultsError):
    """A file of results belongs to another protocol, agent or decoding."""


class EndpointError(BenchmarkError, ConnectionError):
    """An endpoint could not be reached, or failed."""


class EndpointTimeoutError(EndpointError, TimeoutError):
    """An endpoint did not reply in time."""


class EndpointRefusedError(EndpointError, PermissionError):
    """An endpoint refuses the request: its key, its model or its form."""


class EndpointReplyError(EndpointError, ValueError):
    """An endpoint replied with something that is no completion."""
