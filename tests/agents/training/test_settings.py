"""Settings of a run: every field by each of the ways, with the right precedence, or refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, fields, replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.rollouts.memorisation import MemorisationConfig
from search_env.agents.training.config import Phase, TrainConfig
from search_env.agents.training.default_run import tiny_run
from search_env.agents.training.settings import configure
from search_env.errors import ConfigurationError, DataNotFoundError

OTHER = {
    "model": "tiny-trained",
    "env_id": "SearchQA-Toy-v0",
    "imports": ["json"],
    "env_options": {"top_k": 4, "dataset": "hotpotqa+musique"},
    "eval_options": {"split": "test"},
    "max_tokens": 99,
    "phases": [
        {"reward": "f1", "group_reward": None, "changes": {"learning_rate": 0.5}, "levels": []},
        {"reward": "search-r1-em", "group_reward": "x", "changes": {}, "levels": ["easy"]},
    ],
    "phase_episodes": 500,
    "phase_search_rate": 0.5,
    "phase_format_rate": None,
    "phase_window": 100,
    "hops": [[0, 1], [9, 3]],
    "difficulties": "labels.jsonl",
    "steps": 3,
    "minutes": 2.5,
    "num_envs": 7,
    "wait_for_all": False,
    "lora_rank": 2,
    "device": "cpu",
    "sharded": True,
    "dtype": "fp32",
    "max_tokens_per_micro_batch": 128,
    "gradient_checkpointing": True,
    "seed": 11,
    "eval_every": 5,
    "eval_questions": 13,
    "checkpoint_every": 6,
    "keep_checkpoints": 9,
    "record_every": 4,
    "out": "runs/elsewhere",
    "processes": 1,
    "threads": 3,
    "algorithm.advantage": "rloo",
    "algorithm.surrogate": "gspo",
    "algorithm.aggregation": "seq_mean_token_sum",
    "algorithm.horizon": 300,
    "algorithm.prompts": 5,
    "algorithm.group_size": 4,
    "algorithm.epochs": 2,
    "algorithm.minibatch": 16,
    "algorithm.gamma": 0.9,
    "algorithm.lam": 0.8,
    "algorithm.normalize_std": False,
    "algorithm.gdpo_whitening": "episodes",
    "algorithm.eps_low": 0.1,
    "algorithm.eps_high": 0.3,
    "algorithm.dual_clip": 3.0,
    "algorithm.value_clip": None,
    "algorithm.value_coefficient": 0.7,
    "algorithm.kl": "loss",
    "algorithm.kl_estimator": "k2",
    "algorithm.kl_coefficient": 0.01,
    "algorithm.k3_limit": None,
    "algorithm.entropy_coefficient": 0.002,
    "algorithm.dynamic_sampling": True,
    "algorithm.max_batches": 3,
    "algorithm.mask_retrieved": False,
    "algorithm.overlong_filter": True,
    "algorithm.importance_correction": "icepop",
    "algorithm.importance_cap": 4.0,
    "algorithm.learning_rate": 1e-4 / 3,
    "algorithm.value_learning_rate": 1e-5,
    "algorithm.warmup_steps": 8,
    "algorithm.temperature": 0.7,
    "algorithm.top_p": 0.5,
    "optimizer.learning_rate": 2e-5,
    "optimizer.value_learning_rate": 1e-5,
    "optimizer.betas": [0.8, 0.99],
    "optimizer.weight_decay": 0.1,
    "optimizer.eps": 1e-9,
    "optimizer.max_grad_norm": 2.0,
    "optimizer.warmup_steps": 4,
    "optimizer.schedule": "cosine",
    "optimizer.floor": 0.1,
    "optimizer.total_steps": 70,
    "optimizer.optimizer": "muon",
    "memorisation.weight": 0.1,
    "memorisation.source": "oracle",
    "memorisation.endpoint_model": "m",
    "memorisation.keep": ["right", "well-formed"],
    "memorisation.min_searches": 1,
    "memorisation.per_question": 2,
    "memorisation.share": 0.5,
    "memorisation.first_step": 4,
    "memorisation.last_step": 40,
    "memorisation.every": 2,
    "memorisation.tries": 3,
    "memorisation.max_tokens": 64,
    "memorisation.prompt": "{question} {documents}",
    "memorisation.statement": "{query} is {answer}",
    "memorisation.temperature": 0.5,
    "memorisation.timeout": 7.0,
    "memorisation.retries": 1,
    "memorisation.concurrency": 2,
}
"""A valid value of every field, not the default run's."""

BESIDE = {
    "algorithm.horizon": {"algorithm.aggregation": "const_norm"},
    "algorithm.gdpo_whitening": {"algorithm.advantage": "gdpo"},
    "algorithm.kl_coefficient": {"algorithm.kl": "loss"},
    "optimizer.schedule": {"optimizer.total_steps": 70},
    "memorisation.endpoint_model": {"memorisation.source": "http://host/v1"},
    "sharded": {"processes": 1},
}
"""What else must be set with a field."""


PARTS = ("algorithm", "optimizer", "memorisation")


def names() -> list[str]:
    parts = {"algorithm.": Algorithm, "optimizer.": OptimizerConfig, "": TrainConfig}
    parts["memorisation."] = MemorisationConfig
    return [
        prefix + field.name
        for prefix, cls in parts.items()
        for field in fields(cls)
        if field.name not in PARTS or prefix
    ]


def plain(config: TrainConfig) -> dict:
    """Return the settings by dotted name."""
    settings = config.to_json()
    flat = {f"{part}.{name}": value for part in PARTS for name, value in settings.pop(part).items()}
    return {**settings, **flat}


def expected(changes: dict) -> dict:
    base = plain(configure())
    for name in ("env_options", "eval_options"):
        if name in changes:  # arguments that are not named stay
            changes = {**changes, name: {**base[name], **changes[name]}}
    return {**base, **changes}


def toml(value) -> str:
    """Return TOML of a value, whose objects are written on one line."""
    if value is None:
        return '"null"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def nested(changes: dict) -> dict:
    tree: dict = {}
    for name, value in changes.items():
        part, dot, rest = name.partition(".")
        tree.setdefault(part, {}).update({rest: value}) if dot else tree.update({part: value})
    return tree


WRITERS = {
    "dotted.toml": lambda changes: "\n".join(f"{n} = {toml(v)}" for n, v in changes.items()),
    "nested.toml": lambda changes: "\n".join(
        f"{n} = {toml(v)}" for n, v in nested(changes).items()
    ),
    "dotted.yaml": lambda changes: yaml.safe_dump(changes),
    "nested.yml": lambda changes: yaml.safe_dump(nested(changes)),
    "nested.json": lambda changes: json.dumps(nested(changes)),
}


def test_every_field_has_a_value_here():
    assert OTHER.keys() == set(names())
    base = plain(configure())
    same = {name for name, value in OTHER.items() if base[name] == value}
    assert same <= {"processes", "dtype"}  # they depend on the machine


@pytest.mark.parametrize("name", OTHER)
def test_every_field_can_be_set_and_comes_back(name, tmp_path):
    changes = {**BESIDE.get(name, {}), name: OTHER[name]}
    texts = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    config = configure(texts=texts)
    other_questions = name in ("env_id", "env_options")  # the schedule of hops is the world's
    assert plain(config) == expected({"hops": []} | changes if other_questions else changes)
    assert configure(values=changes) == config
    for file_name, write in WRITERS.items():
        file = tmp_path / file_name
        file.write_text(write(changes), encoding="utf-8")
        assert configure(file=file) == config, file_name
    written = tmp_path / "config.json"
    written.write_text(json.dumps(config.to_json()), encoding="utf-8")
    assert configure(file=written) == config
    plain_name = name.rpartition(".")[2]
    if name.startswith("algorithm.") and "optimizer" not in plain_name:
        with_plain = [text.removeprefix("algorithm.") for text in texts]
        assert configure(texts=with_plain) == config


FREE = [  # fields that go with any others
    *("steps", "minutes", "num_envs", "seed", "eval_every", "record_every", "threads", "device"),
    *("phase_search_rate", "hops", "env_options", "imports", "algorithm.gamma", "algorithm.top_p"),
    *("algorithm.learning_rate", "optimizer.betas", "optimizer.weight_decay"),
]


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(FREE)), st.sets(st.sampled_from(FREE)), st.data())
def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(
    tmp_path_factory, of_file, of_line, data
):
    file = tmp_path_factory.mktemp("run") / "run.toml"
    content = {name: OTHER[name] for name in of_file}
    file.write_text(data.draw(st.sampled_from(list(WRITERS.values())[:2]))(content))
    shift = {"steps": 40, "seed": 0, "algorithm.gamma": 0.25, "hops": [], "imports": []}
    line = {name: shift.get(name, OTHER[name]) for name in of_line}
    preset = data.draw(st.sampled_from(["tiny", "grpo"]))
    actual = plain(configure(preset=preset, file=file, values=line))
    base = plain(configure(preset=preset))
    for name in names():
        options = name == "env_options"
        wanted = base[name]
        if name == "hops" and "env_options" in {**content, **line}:
            wanted = []  # other questions than the world's
        for source in (content, line):
            if name in source:
                wanted = {**wanted, **source[name]} if options else source[name]
        assert actual[name] == wanted, name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from([name for name in names() if name != "phases"]), value=JSON)
def test_any_value_is_taken_as_it_is_or_refused(name, value):
    """Nothing is converted but integers to float; there is no error but a ConfigurationError."""
    try:
        actual = plain(configure(values={name: value}))[name]
    except ConfigurationError:
        return
    if name in ("env_options", "eval_options"):
        assert actual == {**plain(configure())[name], **value}
    elif name != "dtype":  # "auto" is resolved
        assert actual == value
        assert isinstance(actual, bool) == isinstance(value, bool)


@settings(max_examples=50, deadline=None)
@given(value=JSON | st.lists(st.dictionaries(st.sampled_from(["reward", "changes"]), JSON)))
def test_any_phases_are_taken_or_refused(value):
    with contextlib.suppress(ConfigurationError):
        assert configure(values={"phases": value}).phases


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["stepps=3"], ["'stepps'", "Did you mean 'steps'"]),
        (["algorithm.lerning_rate=1"], ["algorithm", "Did you mean 'learning_rate'"]),
        (["optimiser.betas=1"], ["'optimiser.betas'", "Did you mean 'optimizer.betas'"]),
        (["top_k=3"], ["Did you mean 'env_options.top_k'"]),
        (["steps"], ["NAME=VALUE", "'steps'"]),
        (["=3"], ["got ''"]),
        (["steps=1e3"], ["steps to be an integer", "1000.0"]),
        (["steps=None"], ["steps to be an integer", "Write null"]),
        (["steps=true"], ["steps to be an integer", "True"]),
        (["minutes=NaN"], ["minutes to be a number", "nan"]),
        (["minutes=Infinity"], ["minutes", "inf"]),
        (["learning_rate=true"], ["learning_rate", "True"]),
        (["learning_rate=-1"], ["learning_rate", "-1.0"]),
        (["sharded=1"], ["sharded to be true or false"]),
        (["sharded=True"], ["sharded", "Write true"]),
        (["seed=null"], ["seed to be an integer", "None"]),
        (["dtype=fp16"], ["dtype", "Did you mean 'bf16'"]),
        (["device=gpu"], ["device", "'gpu'"]),
        (["steps=1", "steps=2"], ["once", "'steps'"]),
        (["learning_rate=1", "algorithm.learning_rate=1"], ["once", "'algorithm.learning_rate'"]),
        (["phases.0.reward=f1", "phases=f1"], ["once", "'phases'"]),
        (["phases.2.reward=f1"], ["2 phases", "'phases.2.reward'"]),
        (["phases.0.changes.lr=1"], ["phases.0.changes", "'lr'"]),
        (["phases.0.levels=[\"hard\"]"], ["levels", "'hard'"]),
        (["phases=[]"], ["at least one phase"]),
        (["phases=3.5"], ["phases", "3.5"]),
        (["phases=[{\"rewrad\": \"f1\"}]"], ["phases.0", "Did you mean 'reward'"]),
        (["phases=[{}]"], ["phases.0.reward", "none"]),
        (["algorithm=3"], ["algorithm", "named values"]),
        (["steps.x=3"], ["steps, which has no parts"]),
        (["imports=[\"no.such.module\"]"], ["no.such.module"]),
        (["phase_search_rate=1.5"], ["phase_search_rate from 0 to 1"]),
    ],
)  # fmt: skip
def test_refusals_say_what_is_wrong(texts, parts):
    with pytest.raises(ConfigurationError) as caught:
        configure(texts=texts)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.toml", "steps = 3\nsteps = 4", ["TOML"]),
        ("a.toml", 'steps = "3"', ["steps in", "a.toml", "an integer", "'3'"]),
        ("a.toml", "learning_rate = 1.0\n[algorithm]\nlearning_rate = 2.0", ["once in", "a.toml"]),
        ("a.toml", "preset = 3", ["preset to be text"]),
        ("a.toml", 'preset = "grop"', ["Did you mean 'grpo'"]),
        ("a.yaml", "steps: 3\nsteps: 4", ["YAML", "'steps' occurs twice"]),
        ("a.yaml", "a: [", ["YAML"]),
        ("a.yaml", "- 1", ["settings by name"]),
        ("a.yaml", "", ["settings by name"]),
        ("a.json", '{"seed": 1, "seed": 1}', ["JSON", "'seed' occurs twice"]),
        ("a.json", '{"seed": ', ["JSON"]),
        ("a.txt", "seed = 1", [".toml", "a.txt"]),
    ],
)
def test_files_are_refused_by_name(tmp_path, name, content, parts):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        configure(file=file)
    assert all(part in str(caught.value) for part in parts), caught.value
    with pytest.raises(DataNotFoundError, match="Check the path"):
        configure(file=tmp_path / "none.toml")


def test_yaml_reads_numbers_as_people_write_them(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-4\nminutes: null\nphases: [f1, search-r1-em]\n")
    config = configure(file=file)
    assert (config.algorithm.learning_rate, config.minutes) == (1e-4, None)
    assert config.phases == (Phase(reward="f1"), Phase(reward="search-r1-em"))


def test_phases_by_name_and_a_preset_in_a_file(tmp_path):
    assert configure().phases == tiny_run().phases
    assert configure(values={"phases": 2}).phases == tiny_run(phases="2").phases
    assert configure(preset="grpo", texts=["phases=1"]).phases == (
        Phase(reward="r1-searcher-stage1", levels=("medium",)),
    )
    texts = ["phases=f1, exact-match,f1", "phases.2.changes.learning_rate=0.5"]
    three = configure(texts=texts).phases
    assert [phase.reward for phase in three] == ["f1", "exact-match", "f1"]
    assert [dict(phase.changes) for phase in three] == [{}, {}, {"learning_rate": 0.5}]
    file = tmp_path / "run.toml"
    file.write_text('phases.1.reward = "f1"\n')
    assert [phase.reward for phase in configure(file=file).phases] == ["r1-searcher-stage1", "f1"]
    file.write_text('preset = "rloo"\nphases = "f1"\n')
    assert configure(file=file).algorithm.advantage == "rloo"
    assert configure(preset="gspo", file=file).algorithm.surrogate == "gspo"


def test_a_whole_file_needs_no_preset(tmp_path):
    file = tmp_path / "config.json"
    config = configure(preset="grpo", texts=["steps=9"])
    file.write_text(json.dumps(config.to_json()))
    assert configure(file=file) == config  # nothing of the default preset, such as its env_options
    assert configure(file=file, texts=["steps=8"]) == replace(config, steps=8)
    with pytest.raises(ConfigurationError, match="no preset with"):
        configure(preset="rloo", file=file)


def test_text_stays_text_where_text_is_wanted():
    config = configure(texts=["model=7", "out=2026", 'difficulties="x.jsonl"', "env-id=1.5"])
    assert (config.model, config.out, config.env_id) == ("7", "2026", "1.5")
    assert config.difficulties == "x.jsonl"


def test_the_schedule_of_hops_is_for_the_world():
    assert configure().hops == configure(texts=["steps=3"]).hops == ((0, 2),)
    for other in (
        {"env_id": "SearchQA-Toy-v0"},
        {"env_options": {"dataset": "hotpotqa"}},
        {"env_options": {"dataset": "questions.jsonl"}},
    ):
        assert configure(values=other).hops == ()
        assert configure(values=other, texts=["hops=[[0,3]]"]).hops == ((0, 3),)


def test_the_default_run_is_what_it_was():
    """Its settings of 2026-11-30, with the fields that were added since at what was done then."""
    config = configure()
    assert config == replace(tiny_run(), dtype=config.dtype)
    assert (config.algorithm.k3_limit, config.algorithm.gdpo_whitening) == (10.0, "tokens")
    assert config.imports == ()
    algorithm = asdict(config.algorithm)
    assert (algorithm["learning_rate"], algorithm["top_p"], config.steps) == (1.5e-4, 0.95, 18)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
