"""Settings of a run from a preset, a file and single values, in this order of precedence.

A file is TOML, YAML or JSON, the ``config.json`` of an earlier run among them. Its names and those
of single values are the fields of :class:`~search_env.agents.training.config.TrainConfig`, dotted
where they are nested: ``steps``, ``algorithm.kl_coefficient``, ``optimizer.weight_decay``,
``phases.0.changes.learning_rate``, ``env_options.top_k``. Fields of algorithm and optimizer also go
by their plain names; what both have is the algorithm's.
"""

from __future__ import annotations

import json
import re
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from search_env.agents.algorithms.config import Algorithm
from search_env.agents.algorithms.presets import PRESETS, get_preset
from search_env.agents.learning.optimizers import OptimizerConfig
from search_env.agents.learning.precision import resolve_dtype
from search_env.agents.rollouts.memorisation import MemorisationConfig
from search_env.agents.training import default_run, run_folder
from search_env.agents.training.config import (
    FORMER_NAMES,
    PHASES,
    PLUS_PLUS_PHASES,
    Phase,
    TrainConfig,
)
from search_env.datasets.json_stream import unique_keys
from search_env.envs.config import EnvConfig
from search_env.errors import ConfigurationError, DataNotFoundError, nearest
from search_env.typed_values import annotations_of, build, check_type, fits
from search_env.validation import check_choice

DEFAULT_PRESET = "tiny"
PRESET_NAMES = (DEFAULT_PRESET, *PRESETS)
"""Names of presets: that of the default run, and the published algorithms."""

PLUS_PLUS = "r1-searcher++"
"""The preset that also has a protocol, phases and a memorisation."""

_PARTS = {"algorithm": Algorithm, "optimizer": OptimizerConfig}
_OPTIONS = ("env_options", "eval_options")
_LATER = frozenset({"imports", "memorisation"})  # fields that the files of earlier runs may lack


def configure(
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    values: Mapping[str, Any] | None = None,
    texts: Sequence[str] = (),
) -> TrainConfig:
    """Return the configuration of a run.

    Args:
        preset: One of :data:`PRESET_NAMES`; None is that of the file, else the default run.
        file: Settings that differ from the preset's. One with all settings, such as
            ``config.json``, needs no preset.
        values: Settings by name, which go before those of the file.
        texts: More of them as ``NAME=VALUE``, values in JSON; other text stands for itself.

    Raises:
        ConfigurationError: An unknown name, a value of another type, a setting given twice, or
            settings that contradict each other.
        DataNotFoundError: There is no such file.
    """
    content = {} if file is None else read_settings(file)
    is_whole = _is_whole(content)
    if preset is not None and is_whole:
        raise ConfigurationError(
            f"Expected no preset with {file}, which has every setting, got {preset!r}. Leave one "
            "of them out."
        )
    named = content.pop("preset", DEFAULT_PRESET) if preset is None else preset
    content.pop("preset", None)
    base = TrainConfig.from_json(content) if is_whole else _base(check_type("preset", named, str))
    draft = _Draft(base, DEFAULT_PRESET if is_whole else named)
    if not is_whole:
        draft.assign(content.items(), f" in {file}")
    draft.assign([*(values or {}).items(), *map(_split, texts)])
    config = draft.config()
    given = {*content, *(values or {}), *(_split(text)[0] for text in texts)}
    if "hops" not in given and not _plays_the_world(config):
        config = replace(config, hops=())  # the default schedule is for questions of known hops
    return replace(config, dtype=resolve_dtype(config.dtype, config.device))


def _plays_the_world(config: TrainConfig) -> bool:
    dataset = config.env_options.get("dataset")
    return config.env_id == default_run.tiny_run().env_id and dataset in (None, "world")


def resumed(out: str | Path, changes: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of the run in a folder, with new limits where there are any.

    Raises:
        ConfigurationError: There is no run, its settings are damaged, or a limit is not valid.
    """
    return replace(run_folder.load_settings(out), **changes, out=str(out))


def read_settings(path: str | Path) -> dict[str, Any]:
    """Return the content of a file of settings; ``"null"`` in TOML, which has no null, is None.

    Raises:
        ConfigurationError: It is damaged, of another kind, or names something twice.
        DataNotFoundError: There is no such file.
    """
    file = Path(path).expanduser()
    readers = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml, ".json": _json}
    if file.suffix.lower() not in readers:
        raise ConfigurationError(
            f"Expected a file of settings that ends in {', '.join(readers)}, got {file}. Rename "
            "it, or write one of these."
        )
    if not file.is_file():
        raise DataNotFoundError(f"Expected a file of settings at {file}, got none. Check the path.")
    try:
        content = readers[file.suffix.lower()](file.read_text(encoding="utf-8"))
    except ValueError as error:  # TOMLDecodeError, JSONDecodeError, UnicodeDecodeError
        raise ConfigurationError(
            f"Expected {file} to be {file.suffix[1:].upper()}, got: {error}. Correct the file."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError(
            f"Expected settings by name in {file}, got {str(content)[:60]!r}. Write NAME = VALUE."
        )
    return content


class _Place(NamedTuple):
    """A place in nested settings."""

    path: tuple[str | int, ...]
    annotation: Any

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))

    @property
    def has_names(self) -> bool:
        """Whether it holds a dataclass, or the arguments of an environment."""
        return is_dataclass(self.annotation) or self.path in {(name,) for name in _OPTIONS}


class _Text(NamedTuple):
    """A value as text, which is read when its type is known."""

    text: str


class _Draft:
    """Settings as plain data, in which single ones are replaced before the whole is checked."""

    def __init__(self, base: TrainConfig, preset: str) -> None:
        self._plain = base.to_json()
        self._phases = named_phases(preset)

    def assign(self, settings: Iterable[tuple[str, Any]], source: str = "") -> None:
        """Replace settings; ``source`` says in errors where they are from.

        Objects of named values change what they name and leave the rest as it is.
        """
        seen: dict[str, str] = {}
        left = list(reversed(list(settings)))
        while left:
            name, value = left.pop()
            place = self._find(name, source)
            if isinstance(value, _Text):
                value = _parse(value.text, place.annotation)
            # TOML reads phases.0.reward = "f1" as nested names.
            if isinstance(value, Mapping) and (place.has_names or place.path == ("phases",)):
                left += [(f"{name}.{part}", inner) for part, inner in reversed([*value.items()])]
                continue
            for other, spelling in seen.items():
                if f"{other}.".startswith(f"{place.name}."):
                    raise ConfigurationError(
                        f"Expected each setting once{source}, got {spelling!r} and {name!r}. Leave "
                        "one of them out."
                    )
            seen[place.name] = name
            if place.path == ("phases",):
                value = self._plain_phases(value)
            elif place.has_names:
                raise ConfigurationError(
                    f"Expected {name}{source} to be an object of named values, got {value!r}. "
                    f"Write {name}.NAME = VALUE."
                )
            else:
                value = check_type(f"{name}{source}", value, place.annotation)
            self._put(place.path, value)

    def config(self) -> TrainConfig:
        """Return the configuration."""
        return TrainConfig.from_json(self._plain)

    def _find(self, name: str, source: str) -> _Place:
        """Return the place that a name stands for."""
        first, *rest = name.strip().replace("-", "_").split(".")
        annotations = annotations_of(TrainConfig)
        if not rest and first not in annotations:
            part = next((part for part in _PARTS if first in annotations_of(_PARTS[part])), None)
            first, rest = (first, rest) if part is None else (part, [first])
        if first not in annotations:
            is_option = first in {field.name for field in fields(EnvConfig)}
            hint = f"Did you mean 'env_options.{first}'? " if is_option and not rest else ""
            raise ConfigurationError(
                f"Expected the name of a setting{source}, got {name!r}. "
                f"{hint or nearest(name, setting_names())}Names are fields of TrainConfig, of "
                "Algorithm and OptimizerConfig, or dotted, such as env_options.top_k."
            )
        place = _Place((first,), annotations[first])
        for part in rest:
            place = self._inside(place, part, name)
        return place

    def _inside(self, place: _Place, part: str, name: str) -> _Place:
        """Return the place of a part of what is at a place."""
        annotation, inner = place.annotation, typing.get_args(place.annotation)
        if is_dataclass(annotation) or place.path[-1] == "changes":
            known = annotations_of(Algorithm if place.path[-1] == "changes" else annotation)
            check_choice(f"a field of {place.name}", part, list(known))
            return _Place((*place.path, part), known[part])
        if place.path[0] in _OPTIONS and len(place.path) == 1:
            return _Place((*place.path, part), Any)
        items = self._at(place.path)
        if inner and isinstance(items, list):
            if not part.isdigit() or int(part) >= len(items):
                raise ConfigurationError(
                    f"Expected the number of one of {len(items)} {place.name}, from 0, got "
                    f"{name!r}. Give {place.path[0]} as a whole for more of them."
                )
            repeats = inner[-1] is ...
            return _Place((*place.path, int(part)), inner[0 if repeats else int(part)])
        if annotation is Any and isinstance(items, dict):
            return _Place((*place.path, part), Any)
        raise ConfigurationError(
            f"Expected {place.name}, which has no parts, got {name!r}. Leave the rest out."
        )

    def _at(self, path: Sequence[str | int]) -> Any:
        inner: Any = self._plain
        for part in path:
            inner = inner.get(part) if isinstance(inner, dict) else inner[part]
        return inner

    def _put(self, path: tuple[str | int, ...], value: Any) -> None:
        self._at(path[:-1])[path[-1]] = list(value) if isinstance(value, tuple) else value

    def _plain_phases(self, value: Any) -> list[Any]:
        """Return phases by the name of both or one of two, by names of rewards, or as they are."""
        if isinstance(value, str | int) and str(value) in self._phases:
            return [_plain(phase) for phase in self._phases[str(value)]]
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",")]
        if not isinstance(value, list | tuple):
            names = ", ".join(self._phases)
            raise ConfigurationError(
                f"Expected phases to be {names}, or a list of names of rewards or of objects with "
                f"the fields of a phase, got {value!r}. Change phases."
            )
        if "" in value:
            raise ConfigurationError(
                f"Expected names of rewards, separated by commas, got {value!r}. Name a "
                "reward for each phase."
            )
        items = [{"reward": item} if isinstance(item, str) else item for item in value]
        return [_plain(build(Phase, item, f"phases.{i}.")) for i, item in enumerate(items)]


def named_phases(preset: str) -> dict[str, tuple[Phase, ...]]:
    """Return the phases that ``both``, ``1`` and ``2`` stand for with a preset."""
    if preset == DEFAULT_PRESET:
        return dict(default_run.PHASES)
    if preset == PLUS_PLUS:
        return {"both": PLUS_PLUS_PHASES}
    return {"both": PHASES, "1": PHASES[:1], "2": PHASES[1:]}


def setting_names() -> list[str]:
    """Return the names of settings: fields, and dotted ones of what is nested."""
    names = [field.name for field in fields(TrainConfig)]
    for part, cls in _PARTS.items():
        names += [name for field in fields(cls) for name in (field.name, f"{part}.{field.name}")]
    return names + [f"memorisation.{field.name}" for field in fields(MemorisationConfig)]


def _base(preset: str) -> TrainConfig:
    """Return the configuration that a preset begins with."""
    check_choice("preset", preset, PRESET_NAMES)
    if preset == DEFAULT_PRESET:
        return default_run.tiny_run()
    config = TrainConfig(model="tiny-base", algorithm=get_preset(preset))
    if preset == PLUS_PLUS:
        memorisation = MemorisationConfig(weight=0.1)  # [paper] mu
        options = {"protocol": PLUS_PLUS}
        config = replace(
            config, phases=PLUS_PLUS_PHASES, env_options=options, memorisation=memorisation
        )
    return config


def _is_whole(content: Mapping[str, Any]) -> bool:
    """Return whether a file has every setting of a run."""
    names = {FORMER_NAMES.get(name, name) for name in content}
    return {field.name for field in fields(TrainConfig)} - _LATER <= names


def _plain(phase: Phase) -> Any:
    return json.loads(json.dumps(asdict(phase)))


def _split(text: str) -> tuple[str, _Text]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(
            f"Expected NAME=VALUE, got {text!r}. Write for example --set group_size=8."
        )
    return name.strip(), _Text(value)


def _parse(text: str, annotation: Any) -> Any:
    """Return the JSON value of a text, or the text where only that fits."""
    try:
        value = _json(text)
    except ValueError:
        return text
    return text if fits(text, annotation) and not fits(value, annotation) else value


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=unique_keys)


def _toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return _with_null(tomllib.loads(text))


def _with_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_null(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_null(inner) for inner in value]
    return None if value == "null" else value


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no annotations
        """Refuses names given twice, and takes 1e-4 for a number, as YAML 1.2 does."""

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        loader.flatten_mapping(node)
        return unique_keys(loader.construct_pairs(node, deep=True))

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
