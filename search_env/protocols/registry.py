"""Protocols by name."""

from __future__ import annotations

from search_env.errors import ProtocolError, nearest
from search_env.protocols.protocol import Protocol
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.search_r1 import SEARCH_R1
from search_env.protocols.toy import TOY

_PROTOCOLS = {protocol.name: protocol for protocol in (R1_SEARCHER, SEARCH_R1, TOY)}


def register_protocol(protocol: Protocol, *, replace: bool = False) -> None:
    """Make a protocol known by its name.

    Args:
        protocol: The protocol.
        replace: Whether it may take the place of one that is registered.

    Raises:
        ProtocolError: The name is taken and ``replace`` is False.
    """
    if protocol.name in _PROTOCOLS and not replace:
        raise ProtocolError(
            f"Expected a new protocol name, got {protocol.name!r}, which is registered. Choose "
            "another name, or pass replace=True."
        )
    _PROTOCOLS[protocol.name] = protocol


def get_protocol(name: str) -> Protocol:
    """Return a registered protocol.

    Raises:
        ProtocolError: No protocol of that name.

    Example:
        >>> get_protocol("search-r1").max_turns
        4
    """
    if name not in _PROTOCOLS:
        raise ProtocolError(
            f"Expected protocol to be one of {sorted(_PROTOCOLS)}, got {name!r}. "
            f"{nearest(name, _PROTOCOLS)}Register your own with register_protocol()."
        )
    return _PROTOCOLS[name]
