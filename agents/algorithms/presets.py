"""Published algorithms and systems, field by field, as ``Algorithm``.

The comment at a number names its source: [paper] or [code] of the system, or the framework whose
default it is. Numbers without a source are marked [ours]. They are meant for models of 1.5 to 32
billion parameters: a tiny model needs far larger learning rates. Rewards, prompts and budgets
belong to the environment; the table in ``docs/algorithms.md`` says which go with which preset.
Imports no torch.
"""

from __future__ import annotations

from dataclasses import replace

from search_env.agents.algorithms.config import Algorithm
from search_env.registry import Registry

__all__ = ["get_preset"]

PPO = Algorithm(
    advantage="gae",
    surrogate="ppo",
    aggregation="token_mean",  # verl
    prompts=1024,  # verl: train_batch_size
    group_size=1,
    minibatch=256,  # verl
    gamma=1.0,
    lam=1.0,
    normalize_std=True,  # verl whitens
    eps_low=0.2,
    eps_high=0.2,
    dual_clip=3.0,  # verl: clip_ratio_c, always on
    value_clip=0.5,  # verl
    value_coefficient=0.1,  # TRL: vf_coef; verl's critic is a separate model
    kl="reward",
    kl_estimator="k1",
    kl_coefficient=0.001,  # verl: kl_ctrl
    learning_rate=1e-6,  # verl: actor
    value_learning_rate=1e-5,  # verl: critic
)
"""PPO with GAE (arXiv 1707.06347) as verl runs it on language models."""

GRPO = Algorithm(
    advantage="grpo",
    surrogate="ppo",
    aggregation="seq_mean_token_mean",  # paper; verl's default is token_mean
    prompts=1024,  # verl
    group_size=8,  # TRL: num_generations
    minibatch=2048,  # verl: 256 prompts
    eps_low=0.2,
    eps_high=0.2,
    kl="loss",
    kl_estimator="k3",
    kl_coefficient=0.001,  # verl docs/algo/grpo.md
    k3_limit=None,  # paper, TRL; verl: 10
    learning_rate=1e-6,
)
"""GRPO (arXiv 2402.03300)."""

DR_GRPO = Algorithm(
    advantage="mean_only",
    surrogate="ppo",
    aggregation="const_norm",
    horizon=3000,  # [code] generate_max_length; set it to your budget of policy tokens
    prompts=128,  # [ours]
    group_size=8,  # [code] num_samples
    normalize_std=False,
    kl="none",
    learning_rate=1e-6,
)
"""Dr. GRPO (arXiv 2503.20783): no division by the deviation, none by the length."""

RLOO = Algorithm(
    advantage="rloo",
    surrogate="reinforce",  # on policy; TRL clips the sequence's ratio at 0.2, which is 1 here
    aggregation="seq_mean_token_sum",
    prompts=128,  # [paper] 512 episodes an update
    group_size=4,  # [paper] 2 or 4
    normalize_std=False,
    kl="reward",
    kl_estimator="k1",
    kl_coefficient=0.03,  # [paper]; TRL 0.05
    learning_rate=1e-6,  # [paper]
)
"""RLOO (arXiv 2402.14740)."""

REINFORCE_PP = Algorithm(
    advantage="reinforce_pp",
    surrogate="ppo",
    aggregation="token_mean",
    prompts=1024,  # OpenRLHF: rollout_batch_size
    group_size=1,  # OpenRLHF: n_samples_per_prompt
    minibatch=128,  # OpenRLHF: train_batch_size
    gamma=1.0,
    kl="reward",
    kl_estimator="k1",
    kl_coefficient=0.01,  # OpenRLHF: init_coef
    learning_rate=1e-6,  # OpenRLHF
)
"""REINFORCE++ (arXiv 2501.03262)."""

REINFORCE_PP_BASELINE = Algorithm(
    advantage="reinforce_pp_baseline",
    surrogate="ppo",
    aggregation="token_mean",
    prompts=64,  # [ours]
    group_size=16,
    minibatch=256,  # [ours]
    kl="loss",
    kl_estimator="k2",
    kl_coefficient=1e-5,  # OpenRLHF: train_reinforce_baseline_hybrid_engine.sh
    learning_rate=5e-7,  # the same script
)
"""REINFORCE++ with a group baseline, as OpenRLHF's recipe runs it."""

DAPO = Algorithm(
    advantage="grpo",
    surrogate="ppo",
    aggregation="token_mean",
    prompts=512,  # [paper]
    group_size=16,  # [paper]
    minibatch=512,  # [paper]: 16 updates of a rollout set
    eps_low=0.2,
    eps_high=0.28,  # [paper] clip higher
    dual_clip=None,  # verl's recipe: 10
    kl="none",
    dynamic_sampling=True,
    max_batches=10,  # verl's recipe
    overlong_filter=True,  # [paper]; verl has none
    learning_rate=1e-6,
    warmup_steps=20,  # [paper] rollout steps; verl's recipe: 10
)
"""DAPO (arXiv 2503.14476); its soft punishment is the reward ``soft-overlong``."""

GSPO = Algorithm(
    advantage="grpo",
    surrogate="gspo",
    aggregation="seq_mean_token_mean",
    prompts=128,  # [ours]
    group_size=8,  # [ours]
    minibatch=256,  # [paper] four updates of a rollout set
    eps_low=3e-4,  # [paper]
    eps_high=4e-4,  # [paper]
    kl="none",
    learning_rate=1e-6,  # [ours]
)
"""GSPO (arXiv 2507.18071)."""

CISPO = Algorithm(
    advantage="grpo",
    surrogate="cispo",
    aggregation="token_mean",
    prompts=128,  # [ours]
    group_size=8,  # [ours]
    minibatch=256,  # [ours]
    eps_high=5.0,  # ScaleRL, as an absolute bound
    kl="none",
    learning_rate=1e-6,  # [ours]
)
"""CISPO (MiniMax-M1, arXiv 2506.13585)."""

R1_SEARCHER = Algorithm(
    advantage="reinforce_pp_baseline",  # [code] reinforce_baseline
    surrogate="ppo",
    # [code] the mean over a packed micro-batch; token_mean does not depend on the packing
    aggregation="token_mean",
    prompts=64,  # [paper, code]
    group_size=16,  # [paper, code]
    minibatch=256,  # [paper, code]: 4 updates of a rollout set
    gamma=1.0,  # [paper]
    eps_low=0.2,  # [code]
    eps_high=0.2,
    kl="none",  # [paper, code] coefficient 0
    learning_rate=2e-6,  # [paper, code]
    warmup_steps=0,  # [code]
    temperature=1.0,  # [paper]
)
"""R1-Searcher (arXiv 2503.05592), Qwen2.5-7B base: ``qwen_reinforce_plus_train.sh``."""

R1_SEARCHER_LLAMA_STAGE1 = Algorithm(
    advantage="grpo",  # [code] group_norm
    surrogate="ppo",
    aggregation="token_mean",
    prompts=15,
    group_size=16,
    minibatch=60,
    kl="reward",
    kl_estimator="k1",
    kl_coefficient=1e-4,
    learning_rate=2e-6,
)
"""R1-Searcher, Llama-3.1-8B, first stage: ``llama_reinforce_plus_train_stage1.sh``."""

R1_SEARCHER_LLAMA_STAGE2 = replace(
    R1_SEARCHER_LLAMA_STAGE1, advantage="reinforce_pp_baseline", prompts=65, minibatch=260
)
"""R1-Searcher, Llama-3.1-8B, second stage: ``llama_reinforce_plus_train_stage2.sh``."""

R1_SEARCHER_PLUS_PLUS = replace(
    R1_SEARCHER,  # whose estimator, clipping and sampling it shares; there is no code of its own
    minibatch=None,  # [notes] train batch 1024: one update of a rollout set
    kl="reward",  # the form is that of r1-searcher-llama-*; [paper] names the term
    kl_estimator="k1",
    kl_coefficient=1e-4,  # [notes]
)
"""R1-Searcher++ (arXiv 2505.17005), Qwen2.5-7B-Instruct, with 64 x 16 rollouts and rate 2e-6.

[paper] is its figures, [notes] are notes on it that agree with them. The paper says REINFORCE++,
as R1-Searcher's does, whose code subtracts the group's mean first: that is what stands here.
"""

SEARCH_R1_PPO = Algorithm(
    advantage="gae",
    surrogate="ppo",
    aggregation="token_mean",
    prompts=512,
    group_size=1,
    minibatch=256,
    gamma=1.0,
    lam=1.0,
    eps_low=0.2,
    eps_high=0.2,
    value_clip=0.5,
    value_coefficient=0.1,  # [ours]: its critic is a separate model
    kl="reward",
    kl_estimator="k1",
    kl_coefficient=0.001,
    entropy_coefficient=0.001,
    learning_rate=1e-6,
    value_learning_rate=1e-5,
    warmup_steps=286,  # 0.285 of 1005 steps
    temperature=1.0,
    top_p=1.0,
)
"""Search-R1 (arXiv 2503.09516) with PPO: ``scripts/nq_hotpotqa/v0.2/train_ppo.sh``."""

SEARCH_R1_GRPO = Algorithm(
    advantage="grpo",
    surrogate="ppo",
    aggregation="token_mean",
    prompts=512,
    group_size=5,  # n_agent
    minibatch=256,  # sequences: 10 updates of a rollout set
    eps_low=0.2,
    eps_high=0.2,
    kl="loss",
    kl_estimator="k3",  # low_var_kl
    k3_limit=10.0,  # [code] as in verl
    kl_coefficient=0.001,
    entropy_coefficient=0.001,
    learning_rate=1e-6,  # v0.3: 5e-7
    warmup_steps=286,  # 0.285 of 1005 steps
    temperature=1.0,
    top_p=0.95,  # the yaml's default, which its log-probabilities ignore
)
"""Search-R1 with GRPO: ``scripts/nq_hotpotqa/v0.2/train_grpo.sh``."""

PRESETS: Registry[Algorithm] = Registry(
    "preset",
    "Pass one of these, or build an Algorithm.",
    {
        "ppo": PPO,
        "grpo": GRPO,
        "dr-grpo": DR_GRPO,
        "rloo": RLOO,
        "reinforce++": REINFORCE_PP,
        "reinforce++-baseline": REINFORCE_PP_BASELINE,
        "dapo": DAPO,
        "gspo": GSPO,
        "cispo": CISPO,
        "r1-searcher": R1_SEARCHER,
        "r1-searcher-llama-stage1": R1_SEARCHER_LLAMA_STAGE1,
        "r1-searcher-llama-stage2": R1_SEARCHER_LLAMA_STAGE2,
        "r1-searcher++": R1_SEARCHER_PLUS_PLUS,
        "search-r1-ppo": SEARCH_R1_PPO,
        "search-r1-grpo": SEARCH_R1_GRPO,
    },
)
"""All presets by name."""


def get_preset(name: str) -> Algorithm:
    """Return a preset; change fields with ``dataclasses.replace``.

    Raises:
        ConfigurationError: No such preset; the message names the nearest.

    Example:
        >>> get_preset("r1-searcher").advantage
        'reinforce_pp_baseline'
    """
    return PRESETS[name]
