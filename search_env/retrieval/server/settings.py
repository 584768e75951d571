"""Settings of a search server, and the error about its missing packages."""

from __future__ import annotations

from dataclasses import dataclass

from search_env.errors import ConfigurationError
from search_env.validation import check_amount, check_count

NEEDS = (
    "Expected the packages of the `serve` extra (Starlette, uvicorn, prometheus_client), got none "
    'or older ones. Run `pip install "search-env[serve]"`.'
)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server gathers queries and how much it holds.

    Attributes:
        window: Seconds that a query waits for others at most, to be searched in one call.
        max_batch: Queries in one call of the retriever at most. 1 with ``window=0`` searches one
            after the other.
        max_queue: Queries that may wait; a request beyond is answered with 503 and Retry-After.
        cache: Queries whose documents are kept, the least recently used are dropped; 0 for none.
        mcp: Whether ``/mcp`` offers the tool ``search``.
        host: Where it listens; on this machine's own address ``/mcp`` refuses other host names.
        max_body: Bytes of a request at most.
        body_timeout: Seconds within which a request must have come in.

    Raises:
        ConfigurationError: A number is out of range.
    """

    window: float = 0.002
    max_batch: int = 64
    max_queue: int = 4096
    cache: int = 10_000
    mcp: bool = False
    host: str = "127.0.0.1"
    max_body: int = 1 << 24
    body_timeout: float = 30.0

    def __post_init__(self) -> None:
        check_amount("window", self.window)
        for name, value, least in (
            ("max_batch", self.max_batch, 1),
            ("max_queue", self.max_queue, 1),
            ("cache", self.cache, 0),
            ("max_body", self.max_body, 1),
        ):
            check_count(name, value, least)
        if not self.body_timeout > 0:
            raise ConfigurationError(
                f"Expected body_timeout of more than 0 seconds, got {self.body_timeout}. Raise it."
            )
