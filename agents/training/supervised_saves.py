"""Checkpoints of a supervised run (``pretrain``, ``sft``): the same command goes on with it.

They lie in ``checkpoints`` of the run's folder until its model is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from search_env.agents.learning.learner import Learner
from search_env.agents.training import checkpoints
from search_env.agents.types import Example
from search_env.errors import ConfigurationError
from search_env.paths import clear_leftovers, remove_folder


class SupervisedSaves:
    """Restores the learner of an interrupted run in a folder, and saves it.

    ``step`` is the one that the run goes on after: 0 for a new run, which also replaces what is
    left of one that was killed before its first checkpoint.

    Raises:
        ConfigurationError: The folder holds a finished run, or one of another kind.
        CheckpointError: The interrupted run had other settings, or its checkpoint is damaged.
    """

    def __init__(self, learner: Learner, out: Path, settings: Mapping[str, Any]) -> None:
        self._learner, self._folder = learner, out / "checkpoints"
        self._settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        check_unfinished(out)
        newest = checkpoints.latest(self._folder)
        self.step = 0
        if newest is not None:
            checkpoint = checkpoints.load(newest, config=self._settings)
            state = {**checkpoint.state["learner"], "weights": checkpoint.weights}
            learner.load_state_dict(state)
            self.step = checkpoint.step
        self._saved = self.step

    def save(self) -> None:
        """Write a checkpoint of the learner's present state, unless there is one."""
        step = self._learner.updates
        if step == self._saved:
            return
        state = self._learner.state_dict()
        weights = state.pop("weights")
        checkpoint = checkpoints.Checkpoint(step, weights, {"learner": state}, self._settings)
        checkpoints.save(self._folder, checkpoint, keep_last=1)
        self._saved = step

    def finish(self) -> None:
        """Remove the checkpoints of a run whose model is written."""
        if self._folder.exists():
            remove_folder(self._folder)


def check_unfinished(out: Path) -> None:
    """Check that a folder holds no run, or a supervised one that was interrupted.

    What a killed run was about to remove is removed.

    Raises:
        ConfigurationError: It holds a finished run, or one of another kind.
    """
    clear_leftovers(out / "checkpoints")
    is_done = (out / "model").exists() or (out / "config.json").exists()
    if is_done and checkpoints.latest(out / "checkpoints") is None:
        raise ConfigurationError(
            f"Expected a new folder or an interrupted run's, got {out}, which holds a finished "
            "or another run. Choose another folder."
        )


def digest_examples(examples: Iterable[Example]) -> str:
    """Return the SHA-256 over tokens and weights of examples in order."""
    total = hashlib.sha256()
    for example in examples:
        total.update(example.tokens.tobytes() + example.weights.tobytes())
    return total.hexdigest()
