"""The rules of an episode, without I/O.

:mod:`.dynamics` runs N episodes side by side, :mod:`.episode_state` holds the state of each,
:mod:`.document_block` writes documents as tokens, :mod:`.action_mask` computes which ids keep an
episode well formed.
"""
