"""GRPO with a search engine inside the episode, in one file: torch, transformers, gymnasium.

    python -m search_env.agents.examples.grpo_search [--steps 6] [--seed 0] [--reward f1]

A language model reads a question, writes tokens, searches by closing a query tag, reads what came
back, and answers. That is `SearchQA-v0`: an action is a token id, and retrieval is part of `step`.
The bundled base model of a million parameters can search and seldom does. Here it learns to, in a
few minutes on one core; half of the reward is for a search, half for the format (R1-Searcher's
first phase). Three things often go wrong when a model that uses tools is trained:

1. Tokens are never decoded and encoded again: the ids that were sampled are the ids trained on.
2. Documents are read, not written: `sources` tells them apart, and the loss leaves them out.
3. Log-probabilities are those of the distribution that was sampled from: all ids, temperature 1.

Left out: GRPO's KL penalty, which nothing here needs, and its means within episodes (all tokens of
a minibatch count the same); schedules, bfloat16, several processes: `search-env train` has them.

The end of a name says which axes an array has:
    B  episodes, a row of the vector environment each; as (N, G): N questions, G episodes of each
    R  rows that the policy is writing to at the moment
    T  positions of an episode: prompt, policy's tokens and documents, padded on the right
    C  columns of the cache: an episode so far, padded on the left
    V  ids of the vocabulary
"""
# ruff: noqa: N803, N806, N815 - axes are capital letters

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim import AdamW, Optimizer
from transformers import AutoModelForCausalLM
from transformers import PreTrainedModel as Model

from search_env import SearchQAVectorEnv, Source


@dataclass(frozen=True)
class Args:
    """Settings of a run; each is a flag of the same name."""

    model: str = str(Path(__file__).parents[1] / "assets" / "tiny-base")  # or any causal LM
    tokenizer: str = "world-1k"  # the model's own: a bundled name, a tokenizer.json, a hub name
    seed: int = 0  # of everything random
    steps: int = 6  # each plays prompts * group_size episodes and learns from them
    prompts: int = 8  # questions of a step
    group_size: int = 8  # episodes of a question
    minibatch: int = 32  # episodes of an update
    microbatch: int = 4  # episodes that go through the model together
    learning_rate: float = 1e-4  # a million parameters want more than a billion
    clip: float = 0.2  # bound of the ratio to the policy that played
    reward: str = "r1-searcher-stage1"  # any name that search_env.get_reward knows
    max_policy_tokens: int = 384  # of an episode: longer ones are truncated
    questions: int = 100  # of the validation split, to evaluate on
    save: str = ""  # folder for the trained model; "" keeps none


# ---------------------------------------------------------------------------------- rollouts

SCORES = ("num_searches", "well_formed", "exact_match", "f1")  # infos at the end of an episode


class Episodes(NamedTuple):
    """Finished episodes, one of each row."""

    tokens_BT: Tensor  # int64, as the environment holds them
    mask_BT: Tensor  # bool: the policy chose this token
    logp_BT: Tensor  # float32: log-probability of the choice; 0 for other tokens
    length_B: Tensor
    reward_B: Tensor
    scores: dict[str, float]  # means


def make_envs(args: Args, **more: Any) -> SearchQAVectorEnv:
    """Return rows that play one episode each and then wait for `reset`."""
    # Questions of one and two hops are short, and whether to search is in every question.
    # Observations are views of the environment's memory: what is kept of them is copied.
    more |= {"dataset_options": {"hops": [1, 2]}, "autoreset_mode": "Disabled", "copy": False}
    more |= {"tokenizer": args.tokenizer, "max_policy_tokens": args.max_policy_tokens}
    return cast(SearchQAVectorEnv, gym.make_vec("SearchQA-v0", reward=args.reward, **more))


def padded_left(tokens_RT: Any, length_R: Any) -> list[Tensor]:
    """Return ids, positions in the text and attention mask, (R, C): all end in the last column."""
    position_RC = np.arange(length_R.max()) - (length_R.max() - length_R)[:, None]
    ids_RC = np.take_along_axis(tokens_RT, position_RC.clip(0), 1)
    return [torch.from_numpy(x).long() for x in (ids_RC, position_RC.clip(0), position_RC >= 0)]


@torch.no_grad()
def rollout(model: Model, envs: SearchQAVectorEnv, obs: Any, greedy: bool = False) -> Episodes:
    """Play the episodes that `reset` began to their ends.

    Rows search at different times, and a search inserts hundreds of tokens. So rows go in rounds:
    read all that stands in them in one pass, write until each has searched or ended, begin the next
    round. Reading a prefix again costs about as much as the writing, and the cache has no holes.
    """
    logp_BT, reward_B = torch.zeros(obs["tokens"].shape), np.zeros(envs.num_envs)
    score_B, running_B = {name: reward_B.copy() for name in SCORES}, np.ones(envs.num_envs, bool)
    while running_B.any():
        rows_R, cache = np.flatnonzero(running_B), None
        ids_RC, position_RC, real_RC = padded_left(obs["tokens"][rows_R], obs["length"][rows_R])
        while len(rows_R):
            context: Any = {"attention_mask": real_RC, "past_key_values": cache, "use_cache": True}
            out: Any = model(ids_RC, position_ids=position_RC, logits_to_keep=1, **context)
            logp_RV, cache = out.logits[:, -1].float().log_softmax(-1), out.past_key_values
            ids_R1 = logp_RV.argmax(-1, True) if greedy else logp_RV.exp().multinomial(1)
            at_R = obs["length"][rows_R]  # where these tokens go
            logp_BT[rows_R, at_R] = logp_RV.gather(1, ids_R1)[:, 0]
            envs.send(ids_R1[:, 0].numpy(), rows_R)  # the other rows wait, or have ended
            obs, step_reward_B, terminated_B, truncated_B, infos = envs.recv(min_ready=len(rows_R))
            reward_B += step_reward_B
            ended_R = rows_R[(terminated_B | truncated_B)[rows_R]]
            running_B[ended_R] = False
            for name in SCORES if len(ended_R) else ():
                score_B[name][ended_R] = infos[name][ended_R]
            # A row that grew by more than its own token got documents and waits to be read again.
            stay_R = torch.from_numpy(running_B[rows_R] & (obs["length"][rows_R] == at_R + 1))
            if not stay_R.all():
                cache.batch_select_indices(stay_R)
            ids_RC, position_RC = ids_R1[stay_R], torch.from_numpy(at_R)[stay_R, None]
            real_RC = torch.cat([real_RC[stay_R], torch.ones_like(ids_RC)], 1)
            rows_R = rows_R[stay_R.numpy()]
    score_B["search_rate"] = np.minimum(score_B["num_searches"], 1)
    T = int(obs["length"].max())
    return Episodes(
        tokens_BT=torch.from_numpy(obs["tokens"][:, :T]).long(),
        mask_BT=torch.from_numpy(obs["sources"][:, :T] == Source.POLICY),
        logp_BT=logp_BT[:, :T],
        length_B=torch.from_numpy(obs["length"].copy()),
        reward_B=torch.from_numpy(reward_B),
        scores={name: float(values.mean()) for name, values in score_B.items()},
    )


# ----------------------------------------------------------------------- advantages and loss


def group_advantages(reward_B: Tensor, group_size: int) -> Tensor:
    """Return by how many standard deviations each episode beats the mean of its group.

    Episodes of one question are compared with each other, so no critic has to know how hard the
    question is. A group whose episodes were all paid the same teaches nothing: 0.
    """
    reward_NG = reward_B.view(-1, group_size)
    centred_NG = reward_NG - reward_NG.mean(1, keepdim=True)
    return (centred_NG / (reward_NG.std(1, keepdim=True) + 1e-4)).flatten().float()


def token_log_probs(model: Model, tokens_BT: Tensor) -> Tensor:
    """Return the log-probability of each token after those before it, (B, T); 0 for the first."""
    # Padding on the right needs no mask: with causal attention no token looks at what follows.
    out: Any = model(tokens_BT[:, :-1], use_cache=False)
    logits_BTV = out.logits.float()
    chosen_BT = logits_BTV.gather(-1, tokens_BT[:, 1:, None])[..., 0]
    return pad(chosen_BT - logits_BTV.logsumexp(-1), (1, 0))


def policy_loss(
    logp_BT: Tensor, old_logp_BT: Tensor, adv_B: Tensor, mask_BT: Tensor, clip: float
) -> Tensor:
    """Return PPO's clipped loss, summed over the tokens that the policy chose.

    Without the mask most of the gradient would go to documents: hundreds of tokens that nobody
    chose for each one that decides. The bundled model then forgets the format, and never searches.
    """
    ratio_BT, adv_B1 = (logp_BT - old_logp_BT).exp(), adv_B[:, None]
    objective_BT = torch.min(ratio_BT * adv_B1, ratio_BT.clamp(1 - clip, 1 + clip) * adv_B1)
    return -objective_BT[mask_BT].sum()


def update(model: Model, optimizer: Optimizer, played: Episodes, args: Args) -> float:
    """Learn from each episode once; return the mean loss of the minibatches."""
    adv_B, losses = group_advantages(played.reward_B, args.group_size), []
    for batch in torch.randperm(len(adv_B)).split(args.minibatch):  # type: ignore[no-untyped-call]
        loss, num_tokens = 0.0, int(played.mask_BT[batch].sum())
        optimizer.zero_grad()
        # Like lengths go together, as padding costs time. Parts add up to the mean over tokens.
        for micro in batch[played.length_B[batch].argsort()].split(args.microbatch):
            T = int(played.length_B[micro].max())
            tokens_BT, mask_BT, old_logp_BT = (x[micro, :T] for x in played[:3])
            logp_BT = token_log_probs(model, tokens_BT)
            part = policy_loss(logp_BT, old_logp_BT, adv_B[micro], mask_BT, args.clip) / num_tokens
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss)
    return float(np.mean(losses))


# ---------------------------------------------------------------------- evaluation, and loop


def evaluate(model: Model, envs: SearchQAVectorEnv) -> dict[str, float]:
    """Return mean scores of greedy episodes on questions spread evenly over the split."""
    questions_B = np.linspace(0, len(envs.questions) - 1, envs.num_envs).astype(int)
    obs, _ = envs.reset(seed=0, options={"index": questions_B.tolist()})
    return rollout(model, envs, obs, greedy=True).scores


def train(args: Args) -> Iterator[tuple[str, dict[str, float]]]:
    """Train a model; yield what was done and its figures: validation, each step, validation."""
    torch.manual_seed(args.seed)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    optimizer = AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
    size: Any = {"vocab_size": model.config.vocab_size}  # each id that it may sample is an action
    group = {"num_envs": args.prompts * args.group_size, "group_size": args.group_size}
    envs = make_envs(args, split="train", **group, **size)
    held_out = make_envs(args, split="validation", num_envs=args.questions, **size)

    yield "before", evaluate(model, held_out)
    for step in range(1, args.steps + 1):
        obs, _ = envs.reset(seed=1000 * args.seed if step == 1 else None)  # new questions each time
        played = rollout(model, envs, obs)
        reward, loss = float(played.reward_B.mean()), update(model, optimizer, played, args)
        yield f"step {step}", {"reward": reward, "loss": loss, **played.scores}
    yield "after", evaluate(model, held_out)
    if args.save:
        model.save_pretrained(args.save)


def main() -> None:
    """Train and print; Ctrl-C ends it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for arg in fields(Args):
        flag = "--" + arg.name.replace("_", "-")
        parser.add_argument(flag, type=type(arg.default), default=arg.default)
    args, start = Args(**vars(parser.parse_args())), time.perf_counter()
    torch.set_num_threads(1)  # models this small are slower on more
    try:
        for name, figures in train(args):
            line = "  ".join(f"{key} {value:.3f}" for key, value in figures.items())
            print(f"{name:7} {time.perf_counter() - start:4.0f} s  {line}", flush=True)
    except KeyboardInterrupt:
        print("stopped; nothing was saved")


if __name__ == "__main__":
    main()
