"""Writers of small files in every container the loaders read."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

Writer = Callable[..., Path]
_COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress}


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Return ``write(name, content)``: text or bytes unchanged, a list by the name's ending.

    ``.jsonl`` writes one row a line, ``.json`` the whole value; ``.gz`` and ``.xz`` compress.
    """

    def writer(name: str, content: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            data = content
        elif isinstance(content, str):
            data = content.encode()
        elif ".jsonl" in name:
            data = "".join(json.dumps(row) + "\n" for row in content).encode()
        else:
            data = json.dumps(content).encode()
        path.write_bytes(_COMPRESS.get(path.suffix, bytes)(data))
        return path

    return writer
