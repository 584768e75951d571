"""Models from before transformers' attention interface: GPT-Neo (TinyStories), GPT-J and CodeGen.

Their attention modules call a method of their own, ``_attn(query, key, value, mask)``. It is
replaced on the modules of one model by a function with the interface's signature.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.codegen.modeling_codegen import CodeGenAttention
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention
from transformers.models.gptj.modeling_gptj import GPTJAttention

Attend = Callable[..., tuple[Tensor, None]]
_Module = CodeGenAttention | GPTNeoSelfAttention | GPTJAttention
_TYPES = ("codegen", "gpt_neo", "gptj")


def is_older(model: PreTrainedModel) -> bool:
    """Return whether a model's attention has to be replaced."""
    return model.config.model_type in _TYPES


def replace_attention(model: PreTrainedModel, attend: Attend) -> None:
    """Let the attention modules of an older model call ``attend``; others are left alone."""
    for module in _modules(model):
        module._attn = functools.partial(_call, module, attend)  # type: ignore[method-assign]


def restore_attention(model: PreTrainedModel) -> None:
    """Let the attention modules of an older model call their own method again."""
    for module in _modules(model):
        if "_attn" in vars(module):
            del module._attn


def _modules(model: PreTrainedModel) -> list[_Module]:
    if not is_older(model):
        return []
    return [module for module in model.modules() if isinstance(module, _Module)]


def _call(
    module: _Module,
    attend: Attend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Attend as the module would; the result is ``(B, h, S, D)``, heads before tokens."""
    scaling, window = module.head_dim**-0.5, None
    if isinstance(module, GPTNeoSelfAttention):
        scaling = 1.0
        window = module.config.window_size if module.attention_type == "local" else None
    output, _ = attend(module, query, key, value, None, scaling=scaling, sliding_window=window)
    return output.transpose(1, 2), None
