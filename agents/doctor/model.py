"""Whether a model fits an environment: ids, context, and the shape that decides its cost."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import PreTrainedModel

from search_env.agents.doctor.findings import Finding, Section
from search_env.agents.learning.precision import dtype_in_words
from search_env.agents.models import check_fits
from search_env.envs.search_qa_vector import SearchQAVectorEnv

_SECTION = Section("Model")
_FIT = Section("Environment")


def examine_model(model: PreTrainedModel, dtype: str) -> Iterator[Finding]:
    """Yield what a model is."""
    config = model.config.get_text_config(decoder=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    some = "" if trained == parameters else f", {trained / 1e6:,.1f} M of them trained"
    yield _SECTION.ok(
        f"{model.config.model_type}, {parameters / 1e6:,.1f} M parameters{some}, "
        f"computed on {model.device} in {dtype_in_words(dtype, model.device)}"
    )
    if not getattr(config, "use_cache", True):
        yield _SECTION.ok("its configuration turns the cache off; rollouts have their own")


def examine_fit(model: PreTrainedModel, envs: SearchQAVectorEnv) -> Iterator[Finding]:
    """Yield whether a model's ids and context are those of an environment."""
    check_fits(model, envs.tokenizer)
    yield _FIT.ok(f"the model samples the environment's {envs.tokenizer.size:,} ids and no others")
    config = model.config.get_text_config(decoder=True)
    context = getattr(config, "max_position_embeddings", None)
    size = envs.protocol.max_tokens
    if context is None:
        yield _FIT.ok(f"episodes of {size:,} tokens; its configuration names no limit")
    elif size > context:
        yield _FIT.error(
            f"episodes may grow to {size:,} tokens, more than the model's context of {context:,}",
            f"Pass --max-tokens {context} or less.",
        )
    else:
        yield _FIT.ok(f"episodes of {size:,} tokens fit the model's context of {context:,}")
