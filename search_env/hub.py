"""One file from the model and data hub: from its local cache, or over the network.

The hub's client retries for half a minute without a network. The network is therefore checked
first, so an offline machine gets its error (or the cached file) at once.
"""

from __future__ import annotations

import logging
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

_CONNECT_SECONDS = 3.0


def hub_file(repository: str, filename: str, *, repo_type: str = "model") -> Path:
    """Return the local path of a file of the repository ``owner/name``, a "model" or "dataset".

    Raises:
        ImportError: huggingface_hub is not installed.
        OSError: No such file, no network and not cached, or offline mode; the hub's own errors
            derive from it.
        ValueError: The hub's client refuses the name.
    """
    from huggingface_hub import hf_hub_download

    cached = not hub_reachable()
    with quiet_client():
        path = hf_hub_download(repository, filename, repo_type=repo_type, local_files_only=cached)
    return Path(path)


def hub_reachable() -> bool:
    """Return whether the hub, or the proxy on the way to it, takes a connection."""
    from huggingface_hub import constants

    return _reachable(constants.ENDPOINT)


@contextmanager
def quiet_client() -> Iterator[None]:
    """Let the hub's client report by its errors alone, without a line for each retry."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _reachable(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    proxies = urllib.request.getproxies()
    if proxies and not urllib.request.proxy_bypass(parts.hostname or ""):
        proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else parts
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
