"""Whether a model computes in the engine and in the learner what it computes by itself.

Both run several sequences in one pass through transformers' attention interface. A model may ignore
what they pass on (positions, windows) or compute something else besides, without an error. So each
of them, when it is built, compares a few short sequences with the model's own forward pass.

The limit of the difference is measured, too: a part of what other words before the same ones
change, and the rounding of the model's type. Of all architectures, those that agree differ by
1e-6 of what other words change (in bfloat16 by a hundredth), the others by half of it or more.

Shapes in the comments: T tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from search_env.agents.errors import ModelMismatchError
from search_env.errors import SearchEnvError

ADVICE = (
    "Use a decoder with plain causal attention, such as Qwen, Llama, Gemma, GPT-2 or DeepSeek-V3; "
    "docs/agent.md lists those that were tried."
)
SUFFIX = 3
"""Number of tokens at the end of probes, which are the same."""

_ROUNDING = 4  # times the type's precision, of the largest log-probability


def probes(model: PreTrainedModel) -> list[Tensor]:
    """Return three short sequences of ids, int64 ``(T,)`` each.

    The first two have a common beginning, the first and the last the same end at other positions.
    """
    begin, middle, end = _parts(model)
    return [torch.cat(parts) for parts in ((begin, end), (begin, middle), (middle, end))]


def _parts(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
    embeddings: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    # From all over the vocabulary: control tokens are often the first ids.
    ids = torch.arange(1, 10) * embeddings.num_embeddings // 10  # (9,)
    return ids[:4], ids[4:-SUFFIX], ids[-SUFFIX:]


def own_log_probs(model: PreTrainedModel, sequences: Sequence[Tensor]) -> list[Tensor]:
    """Return what the model's own forward pass gives, float32 ``(T, V)`` for each sequence.

    Its attention is the plain one of transformers: the fused ones leave out capped logits.
    """
    config = model.config.get_text_config(decoder=True)
    before, training = config._attn_implementation, model.training
    model.eval()  # type: ignore[no-untyped-call]
    config._attn_implementation = "eager"
    try:
        outputs = [
            model(input_ids=ids[None].to(model.device), use_cache=False) for ids in sequences
        ]
    finally:
        config._attn_implementation = before
        model.train(training)
    return [output.logits[0].float().log_softmax(-1) for output in outputs]


def check_agreement(
    model: PreTrainedModel, expected: Sequence[Tensor], actual: Sequence[Tensor], where: str
) -> None:
    """Check log-probabilities, float32 ``(T, V)`` for each sequence, against the model's own.

    The sequences are all of :func:`probes`, or the first and the last of them.

    Raises:
        ModelMismatchError: They differ by more than rounding. (Weights that are not finite pass.)
    """
    possible = torch.cat(list(expected))
    possible = possible[possible != -torch.inf]
    if not possible.isfinite().all():
        return
    begin, _, end = _parts(model)
    with torch.no_grad():
        (other,) = own_log_probs(model, [torch.cat([begin.flip(0), end])])  # (T, V)
    limit = tolerance(model) * _difference(expected[0][-SUFFIX:], other[-SUFFIX:])
    limit += _ROUNDING * torch.finfo(model.dtype).eps * float(possible.abs().max())
    pairs = [(left[: len(right)], right) for left, right in zip(expected, actual, strict=True)]
    error = _difference(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
    if not error <= limit:
        raise ModelMismatchError(
            f"Expected {type(model).__name__} to give the log-probabilities of its own forward "
            f"pass in {where}, got others: they differ by {error:.2g}, with {limit:.2g} allowed "
            f"for rounding. {_reason(model, expected[0])}{ADVICE}"
        )


def tolerance(model: PreTrainedModel) -> float:
    """Return the part of what context changes that may be lost in the model's precision."""
    return 0.02 if model.dtype.itemsize >= 4 else 0.25


@contextmanager
def refused(model: PreTrainedModel, where: str) -> Iterator[None]:
    """Raise what a model that cannot run there raises as a ModelMismatchError."""
    try:
        yield
    except (SearchEnvError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the model's own code fails in its own ways
        if "allocate memory" in str(error):  # torch's error on a CPU
            raise
        lines = str(error).strip().splitlines() or [""]
        own = "" if _uses_interface(model) else "Its attention is not transformers' interface. "
        raise ModelMismatchError(
            f"Expected {type(model).__name__} to run in {where}, got {type(error).__name__}: "
            f"{lines[0].rstrip('.')}. {own}{ADVICE}"
        ) from error


def _difference(left: Tensor, right: Tensor) -> float:
    """Return the mean over tokens of the largest difference of log-probabilities ``(T, V)``."""
    same = left == right  # as are both where an id is impossible
    return float((left - right).abs().masked_fill(same, 0.0).amax(-1).mean())


def _uses_interface(model: PreTrainedModel) -> bool:
    return bool(model._supports_attention_backend)


@torch.no_grad()
def _reason(model: PreTrainedModel, expected: Tensor) -> str:
    """Say what is special about a model, given what it makes of the first probe, ``(T, V)``."""
    (begin,) = own_log_probs(model, [probes(model)[0][:-SUFFIX]])
    if _difference(begin, expected[:-SUFFIX]) > 1e-3:
        return "In its own pass tokens see later ones, as in an encoder. "
    config = model.config.get_text_config(decoder=True)
    if hasattr(config, "decoder_layers") or getattr(config, "is_encoder_decoder", False):
        return "It is the decoder of an encoder-decoder, which counts positions by itself. "
    return ""
