"""Settings of a run: a frozen dataclass, and JSON or YAML on disk.

    settings = load(Stage1Config, Path("stage_1.yaml"))
    save(settings, run / "config.json")

A key that is no setting, a value of the wrong type, or a value that the dataclass itself refuses is a
:class:`DataError` that names the file, the key and what would be right.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from nextmem_agents.errors import DataError, InvalidArgument, MissingExtra

Settings = TypeVar("Settings")

_YAML = (".yaml", ".yml")


def load(kind: type[Settings], path: Path) -> Settings:
    """Read settings of a dataclass ``kind`` from ``.json``, ``.yaml`` or ``.yml``.

    Raises:
        DataError: see :func:`read`; or the file is not what ``kind`` takes.
        MissingExtra: YAML without pyyaml.
    """
    return parse(kind, read(path), str(path))


def read(path: Path) -> object:
    """What a ``.json``, ``.yaml`` or ``.yml`` file holds.

    Raises:
        DataError: the file is missing, of another ending, or unreadable.
        MissingExtra: YAML without pyyaml.
    """
    if path.suffix not in (".json", *_YAML):
        raise DataError(f"settings {path}: give a .json, .yaml or .yml file")
    try:
        text = path.read_text(encoding="utf-8")
        return _parse_yaml(text) if path.suffix in _YAML else json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"settings {path} cannot be read: {error}") from error


def parse(kind: type[Settings], values: object, source: str = "settings") -> Settings:
    """Settings from a mapping, as JSON or YAML gives it; ``source`` is what errors call it.

    Raises:
        DataError: a key is unknown, a value is of the wrong type, or ``kind`` refuses a value.

    Examples:
        >>> from nextmem_agents.training.stage_2 import Stage2Config
        >>> parse(Stage2Config, {"steps": 40, "learning_rate": "1e-3"}).learning_rate
        0.001
        >>> parse(Stage2Config, {"stesp": 40})
        Traceback (most recent call last):
        ...
        nextmem_agents.errors.DataError: settings: unknown setting 'stesp'; known are ...
    """
    assert dataclasses.is_dataclass(kind)  # noqa: S101 - a programming error otherwise; narrows the type
    known = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(values, dict):
        raise DataError(f"{source}: settings are a mapping of names to values, not {type(values).__name__}")
    if wrong := sorted(str(key) for key in values if key not in known):
        named = ", ".join(map(repr, wrong))
        raise DataError(f"{source}: unknown setting{'s' * (len(wrong) > 1)} {named}; known are {known}")
    hints = typing.get_type_hints(kind)
    converted = {key: _convert(value, hints[key], f"{source}: {key!r}") for key, value in values.items()}
    try:
        return kind(**converted)
    except InvalidArgument as error:
        raise DataError(f"{source}: {error}") from error


def save(settings: Any, path: Path) -> None:
    """Write a dataclass as JSON, every setting by name."""
    path.write_text(json.dumps(dataclasses.asdict(settings), indent=1) + "\n", encoding="utf-8")


def differences(a: Any, b: Any) -> list[str]:
    """The names of the settings in which two of one kind differ."""
    return [f.name for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)]


def _parse_yaml(text: str) -> object:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("YAML settings need pyyaml: pip install 'nextmem-agents[train]'") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type that an annotation names: bool, int, float, str, None, Literal, tuple or dict."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise DataError(f"{where} must be one of {list(arguments)}, not {value!r}")
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(item, arguments[0], where) for item in value)
    if origin is dict and isinstance(value, dict):
        # JSON has no numbers as keys.
        return {
            _number(key, arguments[0]): _convert(item, arguments[1], where) for key, item in value.items()
        }
    if hint in (int, float) and not isinstance(value, bool):
        # YAML 1.1 takes 1e-3 for a string.
        number = _number(value, hint)
        if isinstance(number, hint):
            return number
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise DataError(f"{where} must be of type {getattr(hint, '__name__', hint)}, not {value!r}")


def _number(value: Any, kind: type) -> Any:
    if kind is int and isinstance(value, float):
        return value
    if kind in (int, float) and isinstance(value, (int, float, str)):
        try:
            return kind(value)
        except ValueError:
            return value
    return value
