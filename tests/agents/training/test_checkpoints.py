from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.agents.errors import CheckpointError
from search_env.agents.training import checkpoints
from search_env.agents.training.checkpoints import Checkpoint

_TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def _checkpoint(step: int = 7, **state) -> Checkpoint:
    weights = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5]).bfloat16()}
    return Checkpoint(step, weights, state, {"seed": 1, "phases": ["x"]})


@settings(max_examples=40, deadline=None)
@given(tree=st.dictionaries(st.text(), _TREES, max_size=3))
def test_any_tree_comes_back_as_it_was(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = checkpoints.save(folder, _checkpoint(**{"tree": tree}))
    back = checkpoints.load(path).state["tree"]
    assert back == tree
    assert repr(back) == repr(tree)  # int keys, tuples and -0.0 too


def test_an_optimizer_comes_back_exactly(tmp_path):
    def model():
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 3)
        return layer, torch.optim.AdamW(layer.parameters(), 0.1, fused=False)

    def step(layer, optimizer):
        layer(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    layer, optimizer = model()
    step(layer, optimizer)
    saved = _checkpoint(optimizer=optimizer.state_dict(), weights=layer.state_dict(), loss=math.inf)
    path = checkpoints.save(tmp_path, saved)
    step(layer, optimizer)

    other, resumed = model()
    state = checkpoints.load(path).state
    other.load_state_dict(state["weights"])
    resumed.load_state_dict(state["optimizer"])
    step(other, resumed)
    assert state["loss"] == math.inf
    torch.testing.assert_close(other.weight, layer.weight, rtol=0, atol=0)


def test_weights_steps_and_names(tmp_path):
    assert checkpoints.latest(tmp_path / "none") is None
    for step in (3, 12, 1_000_000, 20):
        checkpoints.save(tmp_path, _checkpoint(step), keep_last=3)
    (tmp_path / ".step-000099").mkdir()  # a write that was killed
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [
        "step-000012",
        "step-000020",
        "step-1000000",
    ]
    found = checkpoints.load(checkpoints.latest(tmp_path))
    assert found.step == 1_000_000
    assert found.weights["b"].dtype == torch.bfloat16
    torch.testing.assert_close(found.weights["a.weight"], torch.arange(6.0).view(2, 3))
    checkpoints.save(tmp_path, _checkpoint(20))
    assert not list(tmp_path.glob(".*"))


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, _checkpoint(1))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        checkpoints.save(tmp_path, _checkpoint(2))
    assert checkpoints.latest(tmp_path).name == "step-000001"
    monkeypatch.undo()
    assert checkpoints.save(tmp_path, _checkpoint(2)).name == "step-000002"


@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_damage_is_found_and_named(tmp_path, name, harm):
    path = checkpoints.save(tmp_path, _checkpoint(t=torch.ones(3)))
    file = path / name
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[:-9])
    elif harm == "flip":
        content[len(content) // 2 if name != "state.json" else 0] ^= 0xFF
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoints.load(path)


def test_other_versions_and_settings_are_refused(tmp_path):
    path = checkpoints.save(tmp_path, _checkpoint())
    assert checkpoints.load(path, config={"seed": 1}).step == 7
    with pytest.raises(CheckpointError, match="seed was 1 and is 2"):
        checkpoints.load(path, config={"seed": 2, "phases": ["x"]})
    record = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**record, "format": 0}))
    with pytest.raises(CheckpointError, match="format 1, got format 0"):
        checkpoints.load(path)
    del record["files"]
    (path / "state.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="missing"):
        checkpoints.load(path)


def test_what_is_no_plain_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"state\.x"):
        checkpoints.save(tmp_path, _checkpoint(x=object()))
    assert checkpoints.latest(tmp_path) is None


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    tensors = one.weights.keys() == other.weights.keys() and all(
        torch.equal(one.weights[name], other.weights[name]) for name in one.weights
    )
    state = repr(one.state) == repr(other.state)
    return tensors and state and (one.step, one.config) == (other.step, other.config)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder of two checkpoints."""
    folder = tmp_path_factory.mktemp("pair")
    for step in (12, 24):
        checkpoints.save(folder, _checkpoint(step, rate=0.1 * step, t=torch.full((3,), step)))
    return folder


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_b8_any_corruption_is_named_or_changes_nothing(pair, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    shutil.copytree(pair, folder)
    path = folder / "step-000024"
    before = checkpoints.load(path)
    file = path / data.draw(st.sampled_from(sorted(f.name for f in path.iterdir())))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    harm = data.draw(st.sampled_from(["byte", "cut", "remove", "swap", "insert", "json"]))
    if harm == "byte":
        content[at] = data.draw(st.integers(0, 255))
    elif harm == "cut":
        del content[at:]
    elif harm == "insert":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    elif harm == "json" and file.name == "state.json":
        record = json.loads(content)
        name = data.draw(st.sampled_from(sorted(record)))
        record[name] = data.draw(_TREES.map(lambda tree: json.loads(json.dumps(repr(tree)))))
        content = bytearray(json.dumps(record).encode())
    elif harm == "swap":
        content = bytearray((folder / "step-000012" / file.name).read_bytes())
    file.write_bytes(content)
    if harm == "remove":
        file.unlink()
    loaded, said = None, ""
    try:
        loaded = checkpoints.load(path)
    except CheckpointError as error:
        said = str(error)
    if loaded is not None:
        assert _same(loaded, before)
    else:
        assert "step-000024" in said
        assert f"go on from {folder / 'step-000012'}" in said or "format" in said
    assert checkpoints.load(folder / "step-000012").step == 12


@pytest.mark.parametrize("change", [{"step": 23}, {"config": {"seed": 2}}, {"state": 7}])
def test_b8_a_changed_value_is_refused(pair, tmp_path, change):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pair, folder)
    file = folder / "step-000024" / "state.json"
    record = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps(record))
    for read in (checkpoints.load, checkpoints.settings):
        with pytest.raises(CheckpointError, match=r"checksum.*go on from .*step-000012"):
            read(file.parent)
    shutil.rmtree(folder / "step-000012")
    with pytest.raises(CheckpointError, match="no whole checkpoint beside it"):
        checkpoints.load(file.parent)


def test_b8_a_checkpoint_under_another_name_is_refused(pair, tmp_path):
    shutil.copytree(pair / "step-000012", tmp_path / "step-000024")
    with pytest.raises(CheckpointError, match="it is of step 12"):
        checkpoints.load(tmp_path / "step-000024")


@pytest.mark.parametrize("change", [{}, {"step": "24"}, {"files": []}, {"state": {"x": 1}}])
def test_b8_one_without_a_checksum_is_read_with_a_notice(pair, tmp_path, monkeypatch, change):
    shutil.copytree(pair / "step-000024", tmp_path / "step-000024")
    file = tmp_path / "step-000024" / "state.json"
    record = {**json.loads(file.read_text()), **change}
    del record["checksum"]
    file.write_text(json.dumps(record))
    if not change:
        with pytest.warns(UserWarning, match="no checksum"):
            assert _same(checkpoints.load(file.parent), checkpoints.load(pair / "step-000024"))
    else:
        monkeypatch.setattr("warnings.warn", lambda *_, **__: None)
        with pytest.raises(CheckpointError):
            checkpoints.load(file.parent)


def test_b4_a_run_that_was_killed_leaves_nothing_to_the_next(pair, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(pair, folder)
    (folder / ".step-000099.abc.tmp" / "new").mkdir(parents=True)
    checkpoints.prune(folder, 1)
    assert [path.name for path in folder.iterdir()] == ["step-000024"]
