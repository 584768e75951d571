"""Try every architecture of transformers in the engine and the learner: ``check_families.py``.

A tiny random model of each (two layers, some windows of nine tokens) samples rows of different
lengths and is trained on packed sequences with a common prefix; log-probabilities and gradients are
compared with its own forward and backward pass. Each must agree to 1e-4, or be refused by name when
the engine or the learner is built. The exit status is 1 if one is silently wrong or fails
otherwise. ``python scripts/check_families.py [FAMILY ...]``, names as in ``model_type``; all take
about a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from search_env.agents.errors import ModelMismatchError
from search_env.agents.inference.engine import Engine
from search_env.agents.learning.learner import Learner
from search_env.agents.learning.packing import packed_logits

FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TOLERANCE = 1e-4
AGREES, REFUSED, NOT_BUILT, WRONG = "agrees", "refused", "not built", "WRONG"
_VOCABULARY = 61
_LARGEST = 3_000_000  # parameters: multimodal and other nested configurations are not made smaller


def _same(value: Any, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, value)


# Each configuration takes those that it has; the names of a size differ between families.
_SHAPE: dict[str, Any] = {
    **_same(_VOCABULARY, "vocab_size", "vocab_size_per_layer_input"),
    **_same(160, "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
    **_same(32, "hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim"),
    **_same(32, "attention_hidden_size", "lru_width", "projection_size"),
    **_same(48, "intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    **_same(48, "decoder_ffn_dim", "encoder_ffn_dim"),
    **_same(2, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"),
    **_same(2, "decoder_layers", "encoder_layers"),
    **_same(4, "num_attention_heads", "n_head", "n_heads", "num_heads"),
    **_same(4, "decoder_attention_heads", "encoder_attention_heads"),
    **_same(8, "head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "kv_channels"),
    **_same(8, "state_size", "mamba_d_head", "mamba_d_state", "mamba_n_heads", "chunk_size"),
    **_same(8, "mamba_chunk_size", "hidden_size_per_layer_input"),
    **_same(8, "linear_key_head_dim", "linear_value_head_dim"),
    **_same(24, "moe_intermediate_size", "shared_expert_intermediate_size"),
    **_same(24, "moe_shared_expert_intermediate_size"),
    **_same(4, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
    **_same(1, "n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"),
    **_same(1, "num_shared_experts", "mamba_n_groups", "bos_token_id"),
    **_same(2, "num_experts_per_tok", "moe_k", "num_key_value_heads", "eos_token_id", "expand"),
    **_same(2, "linear_num_key_heads", "index_n_heads"),
    **_same(4, "rotary_dim", "linear_num_value_heads", "index_topk"),
    **_same(16, "kv_lora_rank", "q_lora_rank", "index_head_dim"),
    **_same(9, "sliding_window", "window_size"),
    "v_head_dim": 12,  # narrower than keys
    "pad_token_id": 0,
    "is_decoder": True,
    "attention_types": [[["global", "local"], 1]],
}


def build(family: str, **options: Any) -> PreTrainedModel:
    """Return a tiny random model whose choices depend on its context."""
    kind = CONFIG_MAPPING[family]
    fields = {field.name for field in dataclasses.fields(kind)}
    shape = {name: value for name, value in _SHAPE.items() if name in fields}
    if "kv_lora_rank" in fields:
        shape["num_key_value_heads"] = 4  # latent attention has one for each head
    config = kind(**shape | options)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > _LARGEST:
        raise ValueError(f"{size} parameters")
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model.eval()


def own_logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Return the logits of the model's own pass over one sequence, ``(T, V)``."""
    logits: Tensor = model(input_ids=tokens[None], use_cache=False).logits[0]
    return logits.float()


def engine_error(model: PreTrainedModel) -> float:
    """Return the largest error of a sampled token's log-probability."""
    engine = Engine(model, rows=3, max_tokens=60)
    random = np.random.default_rng(0)
    rows = [random.integers(3, _VOCABULARY, length).tolist() for length in (5, 14, 20)]
    engine.begin([0, 1, 2], [np.array(row) for row in rows], [1, 2, 3])
    sampled: list[tuple[int, int, float]] = []  # row, position, log-probability
    for turn in ([0, 1, 2], [1, 2], [0, 1], [0, 1, 2]):
        decoded = engine.decode(turn)
        for row, token, log_prob in zip(turn, decoded.ids, decoded.log_probs, strict=True):
            sampled.append((row, len(rows[row]), float(log_prob)))
            rows[row].append(int(token))
        if turn == [1, 2]:
            document = random.integers(3, _VOCABULARY, 7)
            engine.insert([1], [document])
            rows[1] += document.tolist()
    with torch.no_grad():
        own = [own_logits(model, torch.tensor(row)).log_softmax(-1) for row in rows]
    return max(abs(lp - float(own[r][at - 1, rows[r][at]])) for r, at, lp in sampled)


def learner_error(model: PreTrainedModel) -> float:
    """Return the largest error of a log-probability, or of a gradient relative to the largest."""
    Learner(model)
    generator = torch.Generator().manual_seed(1)
    first, *others = (
        torch.randint(3, _VOCABULARY, (length,), generator=generator) for length in (6, 13, 9)
    )
    rows = [torch.cat([first, other]) for other in others] + [others[1]]
    own = torch.cat([own_logits(model, row) for row in rows])  # (tokens, V)
    weight = torch.randn(own.shape, generator=generator)
    keep = torch.arange(len(own))
    packed = packed_logits(model, rows, keep).float()
    error = float((packed.log_softmax(-1) - own.log_softmax(-1)).abs().max())
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad((logits * weight).sum(), parameters, materialize_grads=True,
                            allow_unused=True)
        for logits in (packed, own)
    ]  # fmt: skip
    largest = max(float(g.abs().max()) for g in gradients[1])
    differences = (float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    return max(error, max(differences) / largest)


def outcome(check: Callable[[PreTrainedModel], float], model: PreTrainedModel) -> tuple[str, str]:
    """Return what became of a check, and its error or reason."""
    try:
        error = check(model)
    except ModelMismatchError as refusal:
        return REFUSED, str(refusal)
    except Exception as failure:
        return WRONG, f"{type(failure).__name__}: {failure}"
    return (AGREES if error <= TOLERANCE else WRONG), f"{error:.1e}"


def main() -> int:
    """Check the families of the command line and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("families", nargs="*", default=FAMILIES)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    warnings.simplefilter("ignore")
    totals: dict[tuple[str, str], list[str]] = {}
    for family in parser.parse_args().families:
        try:
            model = build(family)
            own_logits(model, torch.arange(3, 9))
        except Exception as error:
            totals.setdefault((NOT_BUILT, NOT_BUILT), []).append(family)
            print(f"{family}: {NOT_BUILT}: {' '.join(str(error).split())[:90]}", flush=True)
            continue
        results = [outcome(check, model) for check in (engine_error, learner_error)]
        totals.setdefault((results[0][0], results[1][0]), []).append(family)
        details = "; ".join(f"{state} {detail}" for state, detail in results)
        print(f"{family}: {' '.join(details.split())}", flush=True)
    for states, families in sorted(totals.items()):
        print(f"\nengine {states[0]}, learner {states[1]}: {len(families)}\n{', '.join(families)}")
    return any(WRONG in states for states in totals)


if __name__ == "__main__":
    sys.exit(main())
