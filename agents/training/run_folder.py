"""The folder of a training run: whether it holds one, and the settings of that run.

``config.json`` is written by :func:`search_env.agents.training.train.train` when everything that a
run needs is loaded and checked, so a run that was refused leaves nothing. It states the settings of
the newest part of a run; a run that fails before its first step takes it away again.
"""

from __future__ import annotations

import json
from pathlib import Path

from search_env.agents.training import checkpoints
from search_env.agents.training.config import TrainConfig
from search_env.errors import ConfigurationError
from search_env.paths import atomic_path

_SETTINGS = "config.json"


def holds_run(out: str | Path) -> bool:
    """Return whether a folder holds a run: its settings or a checkpoint."""
    return (Path(out) / _SETTINGS).exists() or _has_checkpoints(out)


def _has_checkpoints(out: str | Path) -> bool:
    return checkpoints.latest(Path(out) / "checkpoints") is not None


def check_new(out: str | Path) -> None:
    """Check that a new run can have a folder.

    Raises:
        ConfigurationError: The folder holds a run.
    """
    if holds_run(out):
        content = "holds a run and has checkpoints" if _has_checkpoints(out) else "holds a run"
        raise ConfigurationError(
            f"Expected a new folder, got {out}, which {content}. Choose another with --out (out=), "
            "or continue that run: --resume (resume=True)."
        )


def save_settings(config: TrainConfig) -> None:
    """Write the settings of a run, or of its next part, into its folder."""
    with atomic_path(Path(config.out) / _SETTINGS) as temporary:
        temporary.write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")


def remove_settings(out: str | Path) -> None:
    """Take away the settings of a run that made no step."""
    (Path(out) / _SETTINGS).unlink(missing_ok=True)


def load_settings(out: str | Path) -> TrainConfig:
    """Return the settings of the run in a folder.

    Raises:
        ConfigurationError: There are none, or they are damaged or of a later version.
    """
    record = Path(out) / _SETTINGS
    if not record.is_file():
        raise ConfigurationError(
            f"Expected a run to resume in {out}, got no {_SETTINGS} there. Name its folder with "
            "--out."
        )
    try:
        settings = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(
            f"Expected JSON in {record}, got: {error}. Restore the file, or begin a new run."
        ) from error
    try:
        return TrainConfig.from_json(settings)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"Expected the settings of a run by this version in {record}, got others: {error} "
            "Restore the file, or begin a new run."
        ) from error
