"""Shapes of published models, and what they cost on paper: weights, bytes, operations.

Numbers are those of each model's ``config.json``; weights are random. Nothing here measures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from agents.batches import packs, policy_targets
from agents.packing import lay_out
from agents.trajectories import Trajectory

BANDWIDTH = 4.3e12
"""Bytes a second that an H200 reads and writes in a copy."""
MATRIX_RATE = 790e12
"""Operations a second of an H200 in products of large bf16 matrices."""

# hidden, layers, heads, key-value heads, feed-forward, vocabulary, positions, tied
_SHAPES = {
    "tiny": (64, 2, 4, 2, 128, 1100, 4096, True),
    "1.5b": (1536, 28, 12, 2, 8960, 151_936, 131_072, True),
    "3b": (2048, 36, 16, 2, 11_008, 151_936, 32_768, True),
    "7b": (3584, 28, 28, 4, 18_944, 152_064, 131_072, False),
}
SHAPES = tuple(_SHAPES)
"""``"tiny"``, and Qwen2.5 of 1.5, 3 and 7 billion parameters."""
WITH_ADAPTERS = ("7b",)
"""Too large to be trained whole on one GPU: 20 bytes a weight are 142 of its 139 GiB."""


def shape_config(name: str) -> Qwen2Config:
    """Return the configuration of a shape in :data:`SHAPES`."""
    hidden, layers, heads, key_heads, ffn, vocabulary, positions, tied = _SHAPES[name]
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=ffn,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_id=0,
    )


def random_model(name: str, device: torch.device) -> PreTrainedModel:
    """Return a model of a shape with random bfloat16 weights."""
    torch.manual_seed(0)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape_config(name), dtype=torch.bfloat16
        )
    return model.eval()


def head_weights(config: Qwen2Config) -> int:
    """Return the number of weights of the language-model head."""
    return config.vocab_size * config.hidden_size


def matrix_weights(config: Qwen2Config) -> int:
    """Return the number of weights in the matrices of all layers, without embedding and head."""
    width = config.hidden_size // config.num_attention_heads
    queries = 2 * config.hidden_size * config.num_attention_heads * width  # and the output's
    keys = 2 * config.hidden_size * config.num_key_value_heads * width  # and the values'
    forward = 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * (queries + keys + forward)


def decode_bytes(config: Qwen2Config, batch: int, context: int) -> int:
    """Return the bytes that one decoding step must read: all matrices, and keys and values.

    Args:
        config: The shape, in bfloat16.
        batch: Rows.
        context: Tokens of each.
    """
    width = config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    return 2 * (matrix_weights(config) + head_weights(config) + token * context * batch)


def learner_flops(
    config: Qwen2Config,
    trajectories: Sequence[Trajectory],
    micro_tokens: int,
    frozen: bool = False,
) -> float:
    """Return the operations that learning from episodes takes, forward and backward.

    Documents count, for they are read. A beginning that neighbours in a micro-batch have in common
    counts once, logits count at the policy's tokens alone, attention counts what causality leaves,
    and what gradient checkpointing computes again counts nothing.

    Args:
        config: The shape.
        trajectories: As given to the learner.
        micro_tokens: The learner's.
        frozen: Whether matrices have no gradients (adapters; their own operations are left out).
    """
    batch = [policy_targets(trajectory) for trajectory in trajectories]
    tokens = pairs = 0
    for pack in packs(batch, micro_tokens):
        row = lay_out([batch[index].inputs for index in pack])
        tokens += len(row.ids)
        pairs += int((row.positions + 1).sum())
    predicted = sum(len(targets) for targets in batch)
    dense = matrix_weights(config) * tokens + head_weights(config) * predicted
    attention = 2 * config.num_hidden_layers * config.hidden_size * pairs
    return 2.0 * ((2 if frozen else 3) * dense + 3 * attention)
