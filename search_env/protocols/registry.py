"""Protocols by name."""

from __future__ import annotations

from search_env.errors import ProtocolError
from search_env.protocols.protocol import Protocol
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.r1_searcher_plus_plus import R1_SEARCHER_PLUS_PLUS
from search_env.protocols.search_r1 import SEARCH_R1
from search_env.protocols.toy import TOY
from search_env.registry import Registry

_PROTOCOLS = Registry(
    "protocol",
    "Register your own with register_protocol().",
    {p.name: p for p in (R1_SEARCHER, R1_SEARCHER_PLUS_PLUS, SEARCH_R1, TOY)},
    error=ProtocolError,
)


def register_protocol(protocol: Protocol, *, replace: bool = False) -> None:
    """Register a protocol under its name.

    Args:
        protocol: The protocol.
        replace: Whether it may take the place of one that is registered.

    Raises:
        ProtocolError: The name is taken and ``replace`` is False.
    """
    _PROTOCOLS.add(protocol.name, protocol, replace=replace)


def get_protocol(name: str) -> Protocol:
    """Return a registered protocol.

    Raises:
        ProtocolError: No protocol of that name.

    Example:
        >>> get_protocol("search-r1").max_turns
        4
    """
    return _PROTOCOLS[name]
