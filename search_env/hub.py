"""One file from the model and data hub: from its local cache, or over the network.

The hub's client retries for half a minute without a network. The network is therefore checked
first, so an offline machine gets its error (or the cached file) at once.
"""

from __future__ import annotations

import socket
import urllib.request
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
    from huggingface_hub import constants, hf_hub_download

    cached = not _reachable(constants.ENDPOINT)
    return Path(hf_hub_download(repository, filename, repo_type=repo_type, local_files_only=cached))


def _reachable(endpoint: str) -> bool:
    if urllib.request.getproxies():
        return True  # a direct connection would prove nothing
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
