"""Fixtures shared by all tests: real data where there is any, a cache of the run's own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.tokens.families import FAMILIES

# Workers of `pytest -n` share the cores: a thread each, or those of torch wait for one another.
# Set before torch is imported, for it is read then.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about what else the machine does than about the code.
_BUSY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("suite", derandomize=True, **_BUSY)
settings.register_profile("thorough", max_examples=1000, **_BUSY)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_configure() -> None:
    """Hear Ctrl-C also in a shell's background job, which ignores it: tests send it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep what tests build out of the user's cache: one cache for all workers of a run."""
    before = os.environ.get("SEARCH_ENV_CACHE")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    os.environ["SEARCH_ENV_CACHE"] = str(folder / "cache")
    yield
    if before is None:
        del os.environ["SEARCH_ENV_CACHE"]
    else:
        os.environ["SEARCH_ENV_CACHE"] = before


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that need it are skipped without it."""
    value = os.environ.get("SEARCH_ENV_DATA")
    if not value:
        pytest.skip("SEARCH_ENV_DATA is not set: this test needs the real data")
    return Path(value)


REAL_TOKENIZERS = ("gpt2.json", "smollm2.json", "qwen2.json.xz")


@pytest.fixture(scope="session", params=["byte", "world-1k", *REAL_TOKENIZERS])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each tokenizer in turn: bundled ones always, real ones where the data is."""
    name = request.param
    if name in REAL_TOKENIZERS:
        name = str(request.getfixturevalue("data_dir") / "tokenizers" / name)
    return load_tokenizer(name)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folder of each small tokenizer, by the name of its family."""
    root = tmp_path_factory.mktemp("families")
    folders = {}
    for name, family in FAMILIES.items():
        (root / name).mkdir()
        folders[name] = family.write(root / name)
    return folders
