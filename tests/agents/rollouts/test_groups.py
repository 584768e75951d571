"""A group reward in rollouts and in training; the same numbers in every place that pays it."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from search_env.agents.reporting.logs import Silent
from search_env.agents.rollouts.collect import collect
from search_env.agents.training.config import Phase, TrainConfig
from search_env.agents.training.train import train
from search_env.agents.types import by_group
from search_env.errors import ConfigurationError, EpisodeFileError, RetrievalError
from search_env.recording.files import EpisodeWriter, RecordedGroup, read_episodes
from search_env.recording.replay import rescore
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import F1, GroupReward, Score, group_scores, register_group_reward
from tests.agents.scripted_engine import ScriptedEngine
from tests.agents.toy_runs import tiny_model, toy_config
from tests.rewards.groups import FEWEST, SCRIPTS, SPREAD, TOY, ids_of

QUESTIONS = [9, 3, 9, 12, 5]


def _envs(rows, mode="Disabled", **arguments):
    arguments = {**TOY, "on_retrieval_error": "truncate", **arguments}
    return gym.make_vec(
        "SearchQA-Toy-v0", num_envs=rows, autoreset_mode=mode, **arguments
    ).unwrapped


class Writer(ScriptedEngine):
    """Writes one of the scripts in each row, decided by the row's seed and nothing else."""

    envs = None

    def begin(self, rows, prompts, seeds):
        super().begin(rows, prompts, seeds)
        self.left = getattr(self, "left", {})
        for row, random in ((row, self.random[row]) for row in rows):
            script = SCRIPTS[random.integers(len(SCRIPTS))]
            self.left[row] = ids_of(script, self.envs.transcript(row), self.envs.tokenizer)

    def decode(self, rows):
        decoded = super().decode(rows)
        ids = np.array([self.left[row].pop(0) for row in rows])
        return dataclasses.replace(decoded, ids=ids)


def _play(rows=8, *, group_reward=FEWEST, arguments=None, **options):
    envs = _envs(rows, **(arguments or {}))
    engine = Writer(rows, envs.components.size, max_tokens=64)
    engine.envs = envs
    settings = {"group_size": 4, "seed": 1, "group_reward": group_reward, **options}
    return collect(envs, engine, QUESTIONS, **settings)


def _worth(trajectories):
    return [(t.group, t.reward, t.reward_parts) for t in trajectories]


def test_trajectories_are_worth_both_rewards():
    seen = []
    found = _play(on_episode=lambda *episode: seen.append(episode)).trajectories
    assert len(found) == len(seen) == 20
    transcripts = {id(trajectory.tokens): transcript for _, transcript, trajectory in seen}
    assert sorted(map(id, (t for *_, t in seen))) == sorted(map(id, found))
    assert 0 < sum(t.reward_parts["frugal"] for t in found) < 20
    for members in by_group(found).values():
        group = [transcripts[id(member.tokens)] for member in members]
        expected = group_scores(FEWEST, group, [F1(transcript) for transcript in group])
        assert [Score(t.reward, t.reward_parts) for t in members] == list(expected)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_worth_does_not_depend_on_the_rows(rows, wait):
    reference = _worth(_play(8, group_reward=SPREAD).trajectories)
    assert _worth(_play(rows, group_reward=SPREAD, wait_for_all=wait).trajectories) == reference


@pytest.mark.parametrize("size", [2, 3])
def test_no_group_straddles_processes(size):
    """However many share the work, and wherever a limit ends it."""
    whole = _worth(_play().trajectories)
    shares = [_worth(_play(shard=(rank, size)).trajectories) for rank in range(size)]
    assert sorted((w for share in shares for w in share), key=lambda w: w[0]) == whole
    some = _play(3, token_limit=30).trajectories
    assert 0 < len(some) < 20
    assert {len(members) for members in by_group(some).values()} == {4}
    assert _worth(some) == whole[: len(some)]


def test_groups_may_be_numbered_from_another_number_on():
    plain, later = _play().trajectories, _play(first_group=7).trajectories
    assert [t.group + 7 for t in plain] == [t.group for t in later]
    for one, other in zip(plain, later, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)


def test_a_member_whose_retrieval_failed_is_left_out():
    down = {"retriever": FakeRetriever(error=RetrievalError("down"))}
    found = _play(arguments=down).trajectories
    assert {t.valid for t in found} == {True, False}
    for t in found:
        assert (
            (t.reward, t.reward_parts) == (0.0, {}) if not t.valid else "frugal" in t.reward_parts
        )
    # Who did not search and is right has the fewest searches of those that count.
    assert all(t.reward_parts["frugal"] == t.scores["f1"] for t in found if t.valid)


def test_a_part_that_the_reward_has_is_refused_before_anything_is_played():
    with pytest.raises(ConfigurationError, match=r"got \['f1'\] in both"):
        _play(group_reward=GroupReward("mine", ("f1",), len))


def test_the_same_numbers_in_rollouts_vector_environment_and_file(tmp_path):
    seen = {}

    def keep(question, transcript, trajectory):
        seen.setdefault(trajectory.group, (question, []))[1].append((transcript, trajectory))

    _play(on_episode=keep)
    path = tmp_path / "episodes.jsonl"
    writer = EpisodeWriter(path, _envs(4))
    envs = _envs(4, group_size=4, group_reward=FEWEST)
    paid, told = [], []
    for group, (question, members) in sorted(seen.items()):
        paid += [Score(t.reward, t.reward_parts) for _, t in members]
        envs.reset(seed=0, options={"index": question})
        told += _told(envs, [t.tokens[t.policy].tolist() for _, t in members])
        for transcript, _ in members:
            writer.write(transcript, group=RecordedGroup(f"group-{group}", 4))
    assert told == paid
    assert rescore(path, "f1", group_reward=FEWEST).scores == tuple(paid)
    assert 0 < sum(score.parts["frugal"] for score in paid) < len(paid)


def _told(envs, scripts):
    """Write known ids in each row; return what rewards and infos say, added up by the learner."""
    own, ended = [None] * len(scripts), np.zeros(len(scripts), bool)
    while not ended.all():
        rows = np.flatnonzero(~ended)
        envs.send(np.array([scripts[row].pop(0) for row in rows]), rows)
        _, rewards, terminated, truncated, infos = envs.recv(len(rows))
        for row in np.flatnonzero(terminated | truncated):
            own[row] = rewards[row], {"f1": infos["reward_parts"]["f1"][row]}
        ended |= terminated | truncated
    assert infos["_group_reward"].all()
    beside, parts = infos["group_reward"], infos["group_reward_parts"]["frugal"]
    return [
        Score(total + beside[row], {**mine, "frugal": parts[row]})
        for row, (total, mine) in enumerate(own)
    ]


@pytest.fixture
def recorded(tmp_path):
    """Two groups of two, taken turns: right after 0 and 1 searches, wrong and right after 2."""
    path = tmp_path / "recorded.jsonl"
    envs = _envs(4)
    envs.reset(seed=0, options={"index": [9, 3, 9, 3]})
    writer = EpisodeWriter(path, envs)
    left = [
        ids_of(SCRIPTS[script], envs.transcript(row), envs.tokenizer)
        for row, script in enumerate((0, 4, 1, 2))
    ]
    ended = np.zeros(4, bool)
    while not ended.all():
        rows = np.flatnonzero(~ended)
        envs.send(np.array([left[row].pop(0) for row in rows]), rows)
        _, _, terminated, truncated, _ = envs.recv(len(rows))
        ended |= terminated | truncated
    for row in range(4):
        writer.write(envs.transcript(row), group=RecordedGroup(f"g{row % 2}", 2))
    return path


def _alone(path):
    """Write the same episodes without their groups."""
    other = path.with_name("alone.jsonl")
    writer = EpisodeWriter(other, _envs(1))
    for episode in read_episodes(path):
        writer.write(episode.transcript)
    return other


def test_recorded_groups_by_hand(recorded):
    found = rescore(recorded, "f1", group_reward=FEWEST)
    assert found.reward == "f1 + test-fewest-searches"
    assert found.parts == ("f1", "frugal")
    assert [score.parts["frugal"] for score in found.scores] == [1.0, 0.0, 0.0, 1.0]
    assert found.mean() == Score(1.25, {"f1": 0.75, "frugal": 0.5})
    assert [e.group for e in read_episodes(recorded)] == [
        RecordedGroup("g0", 2),
        RecordedGroup("g1", 2),
    ] * 2


def test_records_without_groups_are_grouped_by_question_only_if_asked(recorded):
    alone = _alone(recorded)
    assert b'"group"' not in alone.read_bytes()
    assert [episode.group for episode in read_episodes(alone)] == [None] * 4
    with pytest.raises(EpisodeFileError, match=r"line 1: expected an episode .* with its group"):
        rescore(alone, "f1", group_reward=FEWEST)
    assert rescore(alone, "f1").reward == "f1"
    asked = rescore(alone, "f1", group_reward=FEWEST, group_by="question")
    assert asked.scores == rescore(recorded, "f1", group_reward=FEWEST).scores
    both = recorded.with_name("both.jsonl")
    both.write_bytes(recorded.read_bytes() + recorded.read_bytes())
    assert rescore(both, "f1", group_reward=FEWEST).scores == asked.scores * 2


def test_a_group_with_missing_members_is_named(recorded):
    lines = recorded.read_bytes().splitlines(keepends=True)
    recorded.write_bytes(b"".join(lines[:3]))
    with pytest.raises(EpisodeFileError, match="line 2: expected all 2 episodes of group 'g1'"):
        rescore(recorded, "f1", group_reward=FEWEST)


def test_bad_groups_are_named(recorded):
    with pytest.raises(ConfigurationError, match="Expected group_by among"):
        rescore(recorded, "f1", group_reward=FEWEST, group_by="id")
    with pytest.raises(ConfigurationError, match=r"got \['f1'\] in both"):
        rescore(recorded, "f1", group_reward=GroupReward("mine", ("f1",), len))
    (episode, *_) = read_episodes(recorded)
    writer = EpisodeWriter(recorded, _envs(1))
    for group in (RecordedGroup("", 2), RecordedGroup(3, 2), RecordedGroup("g", 0)):
        with pytest.raises(ConfigurationError, match="of a group to be"):
            writer.write(episode.transcript, group=group)


class _Samples(Silent):
    def __init__(self):
        self.of = {}

    def step(self, step, metrics, samples):
        self.of[step] = samples


def test_a_phase_pays_its_group_reward(tmp_path):
    """Independently: what was recorded, scored again."""
    told = _Samples()
    phases = (
        Phase(reward="r1-searcher-stage1"),
        Phase(reward="f1", group_reward="test-fewest-searches"),
    )
    config = toy_config(
        tmp_path, phases=phases, phase_episodes=16, steps=2, record_every=1, max_tokens=16
    )
    assert TrainConfig.from_json(config.to_json()) == config
    train(config, model=tiny_model(), observer=told)
    assert all("frugal" not in t.reward_parts for t in told.of[1])
    path = tmp_path / "episodes" / "step-000002.jsonl"
    found = rescore(path, "f1", group_reward="test-fewest-searches")
    paid = {(t.group, t.tokens.tobytes()): Score(t.reward, t.reward_parts) for t in told.of[2]}
    for episode, score in zip(read_episodes(path), found.scores, strict=True):
        number = int(episode.group.id.removeprefix("step-000002/"))
        assert episode.group.size == 4
        assert paid[number, episode.transcript.tokens.tobytes()] == score


def test_a_phases_rewards_are_looked_up_before_training(tmp_path):
    late = (Phase(reward="f1"), Phase(reward="f1", group_reward="nobody"))
    with pytest.raises(ConfigurationError, match="Expected group_reward among"):
        train(toy_config(tmp_path, phases=late), model=tiny_model())
    register_group_reward(dataclasses.replace(FEWEST, name="test-takes-f1", parts=("f1",)))
    with pytest.raises(ConfigurationError, match=r"got \['f1'\] in both"):
        Phase(reward="f1", group_reward="test-takes-f1").rewards()
