"""Revised episodes as plain records, for trainers that read ids and a loss mask."""

from __future__ import annotations

from typing import Any

from search_env.errors import ConfigurationError
from search_env.recording.record import RecordedEpisode
from search_env.types import Source


def revision_record(episode: RecordedEpisode) -> dict[str, Any]:
    """Return a revised episode as JSON values.

    ``token_ids`` are all ids, prompt and documents included; ``loss_mask`` is 1 at the policy's,
    which alone are learnt. ``question_id`` and the fields of
    :class:`~search_env.recording.record.RecordedRevision` say the rest.

    Raises:
        ConfigurationError: The episode was not revised.
    """
    revision, transcript = episode.revision, episode.transcript
    if revision is None:
        raise ConfigurationError(
            f"{episode.place}: expected an episode that was revised, got another. Name a file of "
            "search-env revise."
        )
    return {
        "question_id": transcript.question.id,
        "token_ids": transcript.tokens.tolist(),
        "loss_mask": (transcript.sources == Source.POLICY).astype(int).tolist(),
        **revision._asdict(),
        "ops_accepted": list(revision.ops_accepted),
        "tried": dict(revision.tried),
    }
