"""Recipes: a training, whole, as one small YAML file.

Every field has a type and a range, checked before anything is computed; what a recipe does not say has the default
stated here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from reverie.base import ArgumentError, FileError, unknown

__all__ = ["Augment", "Recipe", "Spoil", "Times", "load_recipe", "recipes"]


def _check(ok: bool, what: str, name: str, value: object) -> None:
    if not ok:
        raise ArgumentError(f"recipe field {name!r} must be {what}, got {value!r}")


@dataclass(frozen=True)
class Times:
    """The law of training times: see `objectives.times`."""

    law: str = "normal-lam"
    mean: float = 0.8
    std: float = 1.7

    def __post_init__(self) -> None:
        from reverie.train.objectives import LAWS

        if self.law not in LAWS:
            raise unknown("law of times", self.law, LAWS)
        _check(self.std > 0, "positive", "times.std", self.std)


@dataclass(frozen=True)
class Augment:
    """The largest random change of a picture: shift in pixels, turn in degrees, relative change of size, and deviation
    of the noise added.
    """

    shift: float = 0.0
    turn: float = 0.0
    scale: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            _check(getattr(self, f.name) >= 0, "at least 0", f"augment.{f.name}", getattr(self, f.name))
        _check(self.scale < 1, "below 1", "augment.scale", self.scale)


@dataclass(frozen=True)
class Spoil:
    """How much pictures of shapes are spoilt at most while their judge learns: blur in pixels (a Gaussian's deviation), deviation of the noise
    added, and change of brightness, of pictures in [-1, 1].
    """

    blur: float = 0.0
    noise: float = 0.0
    light: float = 0.0

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            _check(getattr(self, f.name) >= 0, "at least 0", f"spoil.{f.name}", getattr(self, f.name))


@dataclass(frozen=True)
class Recipe:
    """A training: what is trained, on what, how.

    Args:
        name: of the model and its files. task: "denoising", "classification", "autoencoding" or "text-to-image". data: "digits", "shapes" or
            "patches", of which the last has no classes.
        net: {"name": ..., "args": {...}}; of a text-to-image model "unet-2d-condition" or "pixart-transformer-2d" (`hub.layouts`).
        process: a process's spec, {"name": ..., ...}; of a text-to-image model "scaled-linear" with beta_start, beta_end and labels for the U-Net,
            "flow" with shift and labels for the transformer.
        predicts, label: as `reverie.Model` takes them. drop: probability, in [0, 1), of training on the null class.
        times: the law of training times. weight: of the x0-error, "none" (the network's own error), "edm:DATA", "min-snr:GAMMA" or
            "truncated-snr:GAMMA", see `objectives`.
        augment: random changes of the pictures. spoil: those of shapes, of which their judge must tell the strength.
        begin: path of a finished model of the same network (its card, weights or folder), with whose weights the training begins; of a text-to-image
            model its pipeline's folder, whose autoencoder must be the recipe's. Without, they are drawn.
        steps, batch: optimiser steps, and pictures a step. seed: of everything random, in [0, 2^32).
        rate, decay: AdamW's highest learning rate and its weight decay. warmup: steps to reach the rate; it then falls
            as a cosine to 0.
        clip: largest norm of the gradient. ema: decay of the average of the weights, in [0, 1).
        kl: weight of an autoencoder's divergence. precision: of the network's arithmetic in training, "float32", "bfloat16" or "float16"
            (autocast). accumulate: parts in which a process takes its share of a batch.
        sampling: how the finished model is best sampled, as `reverie.Model` takes it, and of a text-to-image model the guide that
            `reverie sample` takes ("cfg:5"); goes into its card.
        vae: a text-to-image model's autoencoder, the path of its card, weights or folder. scenes: how many are drawn for it, and encoded once.
        text: its text encoder, fields of transformers' `CLIPTextConfig`, and `length`, the tokens of a prompt; or `pipeline`, the path of a finished
            one, whose text encoder is taken as it is and not trained.
        save_every, check_every, picture_every: steps between checkpoints, measurements on held-out data, and sheets of samples (0: none).

    Raises:
        ArgumentError: a field out of its range, named with its value.
    """

    name: str
    task: str = "denoising"
    data: str = "digits"
    net: Mapping[str, Any] = field(default_factory=lambda: {"name": "unet", "args": {}})
    process: Mapping[str, Any] = field(default_factory=lambda: {"name": "vp-linear"})
    predicts: str = "v"
    label: str = "lam"
    drop: float = 0.1
    times: Times = field(default_factory=Times)
    weight: str = "none"
    augment: Augment = field(default_factory=Augment)
    spoil: Spoil = field(default_factory=Spoil)
    begin: str = ""
    steps: int = 10000
    batch: int = 256
    seed: int = 0
    rate: float = 1e-3
    decay: float = 0.01
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    kl: float = 1e-5
    precision: str = "float32"
    accumulate: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    save_every: int = 500
    check_every: int = 250
    vae: str = ""
    scenes: int = 60000
    text: Mapping[str, Any] = field(default_factory=dict)
    picture_every: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every", "check_every", "scenes"):
            _check(getattr(self, name) >= 1, "at least 1", name, getattr(self, name))
        for name in ("drop", "ema"):
            _check(0 <= getattr(self, name) < 1, "in [0, 1)", name, getattr(self, name))
        for name in ("rate", "clip"):
            value = getattr(self, name)
            _check(value > 0 and math.isfinite(value), "positive", name, value)
        for name in ("decay", "warmup", "kl", "picture_every"):
            _check(getattr(self, name) >= 0, "at least 0", name, getattr(self, name))
        _check(0 <= self.seed < 2**32, "in [0, 2^32)", "seed", self.seed)
        _check(self.name != "" and "/" not in self.name, "a file name", "name", self.name)
        for name in ("net", "process"):
            _check(
                isinstance(getattr(self, name).get("name"), str),
                "a mapping with a 'name'",
                name,
                dict(getattr(self, name)),
            )
        told = ("solver", "grid", "end", *(["guide"] if self.task == "text-to-image" else []))
        extra = sorted(set(self.sampling) - set(told))
        _check(not extra, f"a mapping of {', '.join(told)}", "sampling", dict(self.sampling))
        from reverie.train.objectives import parse_weight

        parse_weight(self.weight)
        weighted = self.weight == "none" or self.task in ("denoising", "text-to-image")
        _check(weighted, f"'none' for {self.task}", "weight", self.weight)
        tasks = ("denoising", "classification", "autoencoding", "text-to-image")
        precisions = ("float32", "bfloat16", "float16")
        if self.task not in tasks:
            raise unknown("task", self.task, tasks)
        if self.precision not in precisions:
            raise unknown("precision", self.precision, precisions)
        read = self.task == "classification" and self.data == "shapes"
        _check(read or self.spoil == Spoil(), "left out but for the judge of shapes", "spoil", self.spoil)
        _check(not read or self.augment == Augment(), "left out for shapes, which are spoilt", "augment", self.augment)
        self._check_text()

    def _check_text(self) -> None:
        """What a text-to-image model needs, and others have no use for."""
        if self.task != "text-to-image":
            for name in ("vae", "text", "picture_every"):
                _check(not getattr(self, name), f"left out for {self.task}", name, getattr(self, name))
            return
        _check(self.vae != "", "the path of an autoencoder", "vae", self.vae)
        _check(self.data == "shapes", "'shapes' for text-to-image", "data", self.data)
        _check(self.label == "t", "'t' for text-to-image: networks of pipelines are told labels", "label", self.label)
        _check(
            self.augment == Augment(),
            "left out for text-to-image: captions would no longer be true",
            "augment",
            self.augment,
        )
        from reverie.hub.layouts import LAYOUTS

        net, process = self.net["name"], dict(self.process)
        _check(net in LAYOUTS, f"{' or '.join(map(repr, LAYOUTS))} for text-to-image", "net.name", net)
        layout = LAYOUTS[net]
        kinds = " or ".join(map(repr, layout.predicts))
        _check(self.predicts in layout.predicts, f"{kinds} for {net}", "predicts", self.predicts)
        _check(process["name"] == layout.process, f"{layout.process!r} for {net}", "process.name", process["name"])
        known = ("name", *layout.settings)
        for key in process:
            if key not in known:
                raise unknown("recipe key", f"process.{key}", [f"process.{k}" for k in known])
        if "pipeline" in self.text:
            _check(
                set(self.text) == {"pipeline"}, "a pipeline's path alone, or fields of its own", "text", dict(self.text)
            )
        for key in ("beta_start", "beta_end"):
            value = process.get(key, 0.01)
            _check(
                isinstance(value, int | float) and 0 < value < 1, "a number between 0 and 1", f"process.{key}", value
            )

    def spec(self) -> dict[str, Any]:
        """As plain JSON-able values; `Recipe.of` takes them back."""
        try:
            return json.loads(json.dumps(dataclasses.asdict(self)))
        except TypeError as error:
            raise ArgumentError(f"a recipe holds plain values only: {error}") from None

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values.

        Raises:
            UnknownNameError: a key that no field has, with the nearest. ArgumentError: a value of the wrong type or
                range.

        >>> Recipe.of({"name": "tiny", "steps": 10}).steps
        10
        """
        return _build(cls, spec, "")


_PARTS: dict[str, type] = {"times": Times, "augment": Augment, "spoil": Spoil}
_TYPES: dict[str, type] = {"int": int, "float": float, "str": str}


def _build(cls: type, spec: Mapping[str, Any], prefix: str) -> Any:
    if not isinstance(spec, Mapping):
        raise ArgumentError(
            f"{prefix.rstrip('.') or 'a recipe'} must be a mapping of fields to values, got {spec!r:.100}"
        )
    types = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    values = {}
    for key, value in spec.items():
        if key not in types:
            raise unknown("recipe key", f"{prefix}{key}", [prefix + name for name in types])
        values[key] = (
            _build(_PARTS[key], value, f"{key}.") if key in _PARTS else _value(types[key], prefix + key, value)
        )
    missing = [f for f in types if f == "name" and f not in values]
    if missing:
        raise ArgumentError("a recipe needs a 'name'")
    return cls(**values)


def _value(kind: str, name: str, value: Any) -> Any:
    if kind not in _TYPES:  # net, process, text and sampling
        _check(isinstance(value, Mapping), "a mapping", name, value)
        return dict(value)
    if kind == "float" and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            value = float(value)  # YAML reads 1e-3 as text
        except ValueError:
            _check(False, "a number", name, value)
    _check(isinstance(value, _TYPES[kind]) and not isinstance(value, bool), f"of type {kind}", name, value)
    if kind == "float":
        _check(math.isfinite(value), "finite", name, value)
    return value


def recipes() -> list[str]:
    """The names of the recipes that come with the package.

    >>> recipes()
    ['digits', 'digits-judge', 'patches', 'shapes', 'shapes-flow', 'shapes-judge', 'shapes-layout', 'shapes-vae']
    """
    folder = resources.files("reverie.train") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of a YAML file, or one that comes with the package, by name.

    Raises:
        UnknownNameError: neither a file nor a known name. FileError: no valid YAML. ArgumentError: as `Recipe.of`, or
            PyYAML is missing.

    >>> load_recipe("digits").predicts
    'v'
    """
    try:
        import yaml
    except ImportError as error:
        raise ArgumentError("recipes need PyYAML, which is not installed: pip install 'reverie[cli]'") from error
    path = Path(name)
    try:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
        elif path.suffix in (".yaml", ".yml"):
            raise FileError(f"the recipe {path} does not exist; those of the package are {', '.join(recipes())}")
        elif str(name) in recipes():
            text = (resources.files("reverie.train") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        else:
            raise unknown("recipe", str(name), recipes())
        return Recipe.of(yaml.safe_load(text))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError(f"the recipe {name} is no valid YAML: {' '.join(str(error).split())}") from error
