"""What a recipe trains: the network, the loss of a step, the figures on held-out data, and the card of the finished
model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, FileError, Noise, unknown
from reverie.base.noise import TRAIN
from reverie.data import digits
from reverie.data.drawing import render
from reverie.data.shapes import scenes, shapes
from reverie.measure import Judge, SceneJudge
from reverie.measure.judge_shapes import KINDS, LOOKS
from reverie.model import Model
from reverie.nets import NETS, build, models_in, read_tensors
from reverie.process import from_spec
from reverie.train.autoencoder import autoencoding, psnr
from reverie.train.batches import augmented, rows
from reverie.train.objectives import classification, denoising, stratified, times, weights
from reverie.train.players import Step
from reverie.train.reading import reading, spoilt, truth
from reverie.train.recipe import Recipe
from reverie.train.sources import SOURCES, Pictures, Source, source

__all__ = ["Task", "begin", "fill", "task"]

CHECK = 2**31  # held-out noise is drawn for this step, which no training reaches
DRAWS = 4  # noise draws a held-out sample


@dataclass(frozen=True)
class Task:
    """A training made concrete; all of it a pure function of the recipe.

    Attributes:
        net: with fresh weights. loss: step (and part of its batch) -> scalar loss of `net`. check: figures of `net` on held-out data.
        card: what the model file says beside the weights. pictures: samples `(N, C, H, W)` of `net` in [-1, 1], for a sheet along the way.
        write: writes `net` and its card as a folder in Stable Diffusion's layout, for a model that is more than one file.
    """

    net: nn.Module
    loss: Callable[[Step], Tensor]
    check: Callable[[], dict[str, float]]
    card: dict[str, Any]
    pictures: Callable[[], Tensor] | None = None
    write: Callable[[Path, dict[str, Any]], None] | None = None


def task(recipe: Recipe, folder: Path | None = None, say: Callable[[str], None] = lambda text: None) -> Task:
    """The task of a recipe; weights are drawn from torch's global generator.

    Args:
        folder: where what is computed once is kept (the latents of a text-to-image model). say: is told how that comes along.

    Raises:
        UnknownNameError: data or a network of an unknown name. ArgumentError: what its network, process or model
            refuses, and weights to begin with that are of another network. FileError: no such weights.
    """
    if recipe.task == "text-to-image":
        return _text_to_image(recipe, folder, say)
    made = _of_one_file(recipe)
    if recipe.begin:
        made.card["begun"] = begin(made.net, recipe.begin)
    return made


def begin(net: nn.Module, path: str | Path) -> str:
    """Give a network the weights of a finished model (`NAME.json` with `NAME.safetensors`), and return the SHA-256 of their file.

    Args:
        path: of either file, or of the folder that holds exactly one model.

    Raises:
        FileError: no such model, or damaged weights. ArgumentError: weights of another network.
    """
    source = Path(path)
    if source.is_dir():
        found = models_in(source)
        if len(found) != 1:
            raise FileError(
                f"{str(source)!r} holds {len(found)} models (<name>.json with <name>.safetensors); name one to begin with"
            )
        source = found[0]
    file = source.with_suffix(".safetensors")
    weights, _ = read_tensors(file)
    fill(net, weights, str(source))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fill(net: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Give a network weights, in its own precision. Raises `ArgumentError` where they are another network's."""
    own = net.state_dict()
    wrong = sorted(
        k for k in own.keys() | weights.keys() if k not in own or k not in weights or own[k].shape != weights[k].shape
    )
    if wrong:
        raise ArgumentError(
            f"begin: the weights of {name!r} do not fit the recipe's network: {wrong[0]!r} and {len(wrong) - 1} more differ; begin with a model of "
            "the same network"
        )
    net.load_state_dict({k: v.to(own[k].dtype) for k, v in weights.items()})


def _of_one_file(recipe: Recipe) -> Task:
    """The task of a recipe whose model is one file of weights."""
    if recipe.task == "autoencoding":
        return _autoencoding(recipe)
    if recipe.task == "classification" and recipe.data == "shapes":
        return _scene_reading(recipe)
    if recipe.task == "classification" and recipe.data != "digits":
        raise unknown("data set with classes", recipe.data, ["digits", "shapes"])
    if recipe.data not in SOURCES:
        raise unknown("data set", recipe.data, SOURCES)
    net = build(recipe.net["name"], recipe.net.get("args"), NETS | {"judge": Judge})
    if recipe.task == "classification":
        return _classification(recipe, net, digits("train"), digits("heldout"))
    return _denoising(recipe, net, source(recipe))


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _args(recipe: Recipe, net: nn.Module) -> dict[str, Any]:
    """What the network is built from again: its own words, or the recipe's."""
    own = getattr(net, "config", None)
    return own if type(own) is dict else dict(recipe.net.get("args", {}))


def _card(recipe: Recipe, net: nn.Module, kind: str, classes: int) -> dict[str, Any]:
    return {
        "format": 1,
        "kind": kind,
        "name": recipe.name,
        "net": {"name": recipe.net["name"], "args": _args(recipe, net)},
        "classes": [str(c) for c in range(classes)],
        "data": recipe.data,
        "recipe": recipe.spec(),
    }


def _classification(recipe: Recipe, net: nn.Module, train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> Task:
    def loss(step: Step) -> Tensor:
        pick, part = rows(recipe.seed, int(step), recipe.batch, len(train[0])), list(step.slots(recipe.batch))
        x, device = augmented(train[0][pick], recipe.augment, recipe.seed, int(step)), _device(net)
        return classification(net, x[part].to(device), train[1][pick][part].to(device))

    def check() -> dict[str, float]:
        logits = net(held[0].to(_device(net))).cpu()
        right = (logits.argmax(1) == held[1]).double().mean().item()
        return {"heldout": nn.functional.cross_entropy(logits, held[1]).item(), "accuracy": right}

    return Task(net, loss, check, _card(recipe, net, "reverie-judge", int(train[1].max()) + 1))


def _scene_reading(recipe: Recipe) -> Task:
    net: Any = build(recipe.net["name"], recipe.net.get("args"), {"scene-judge": SceneJudge})
    held = scenes(512, split="heldout")
    pictures, right = render(held), truth(held)

    def loss(step: Step) -> Tensor:
        slots = step.slots(recipe.batch)
        drawn = scenes([step * recipe.batch + slot for slot in slots], seed=recipe.seed)
        x, share, light = spoilt(render(drawn), recipe.spoil, recipe.seed, int(step), slots)
        true = truth(drawn)
        true.looks[:, :3] += 1.5 * light[:, None]  # as seen: tones are 3 times those in [0, 1], light is of [-1, 1]
        true.looks[:, 3:] = 2 * share
        return reading(net, x.to(_device(net)), true)

    def check() -> dict[str, float]:
        x = pictures.to(_device(net))
        return {"heldout": reading(net, x, right).item(), "accuracy": net.accuracy(x, held)}

    card = _card(recipe, net, "reverie-judge", 0)
    card |= {"classes": [f"{colour} {shape}" for shape, colour in KINDS], "looks": list(LOOKS)}
    return Task(net, loss, check, card)


def _autoencoding(recipe: Recipe) -> Task:
    if recipe.data != "shapes":
        raise unknown("data set for an autoencoder", recipe.data, ["shapes"])
    net, noise = build(recipe.net["name"], recipe.net.get("args")), Noise(recipe.seed)
    held, _ = shapes(256, split="heldout")
    with torch.no_grad():
        latent = tuple(net.encode(held[:1]).latent_dist.mean.shape[1:])  # type: ignore[operator]

    def loss(step: Step) -> Tensor:
        slots = step.slots(recipe.batch)
        x, _ = shapes([step * recipe.batch + slot for slot in slots], seed=recipe.seed)
        eps = noise.normal(latent, index=slots, stage=int(step), stream=TRAIN)
        return autoencoding(net, x.to(_device(net)), eps.to(_device(net)), recipe.kl)

    def check() -> dict[str, float]:
        return {"psnr": psnr(net, held.to(_device(net)))}

    return Task(net, loss, check, _card(recipe, net, "reverie-autoencoder", 0) | {"latent": list(latent)})


def _text_to_image(recipe: Recipe, folder: Path | None, say: Callable[[str], None]) -> Task:
    from reverie.train.text import TextToImage

    made = TextToImage(recipe, folder, say)
    card = {
        "format": 1,
        "kind": "reverie-pipeline",
        "name": recipe.name,
        "data": recipe.data,
        "autoencoder": made.digest,
        "vocabulary": "whole",
        "sampling": dict(recipe.sampling),
        "recipe": recipe.spec(),
    }
    if made.begun:
        card["begun"] = made.begun
    return Task(made.net, made.loss, made.check, card, made.pictures, made.write)


def _denoising(recipe: Recipe, net: nn.Module, data: Source) -> Task:
    if not isinstance(recipe.predicts, str):
        raise ArgumentError(f"a recipe names its prediction type, got {recipe.predicts!r}")
    if not data.classes and getattr(net, "classes", None) is not None:
        raise ArgumentError(
            f"the data {recipe.data!r} have no classes, the network has some: give it classes: 0 in net.args"
        )
    null = {"class_labels": data.classes} if data.classes else None
    model = Model(net, from_spec(dict(recipe.process)), recipe.predicts, recipe.label, null, name=recipe.name)
    law, noise = recipe.times, Noise(recipe.seed)

    def sample(pictures: Pictures, step: int, drop: float, part: Sequence[int] | None = None) -> Tensor:
        x0, labels = pictures
        slots = range(len(x0))
        u = noise.uniform((2,), index=slots, stage=step, stream=TRAIN)
        eps = model.process.draw(noise, tuple(x0.shape[1:]), slots, stage=step, stream=TRAIN)
        t = times(model.process, stratified(u[:, 0]), law.law, law.mean, law.std)
        of, device = list(slots if part is None else part), _device(net)
        cond = {}
        if labels is not None:
            cond["class_labels"] = torch.where(u[:, 1] < drop, data.classes, labels)[of].to(device)
        x0, t, eps = (v[of].to(device) for v in (x0, t, eps))
        return denoising(model, x0, t, eps, cond, weights(model, t, recipe.weight))

    def loss(step: Step) -> Tensor:
        return sample(data.batch(int(step)), int(step), recipe.drop, step.slots(recipe.batch))

    def check() -> dict[str, float]:
        return {
            name: sum(sample(pictures, CHECK + draw, 0.0).item() for draw in range(DRAWS)) / DRAWS
            for name, pictures in (("heldout", data.heldout), ("trained", data.trained))
        }

    card = _card(recipe, net, "reverie-model", data.classes)
    card |= {
        "process": model.process.spec(),
        "predicts": recipe.predicts,
        "label": recipe.label,
        "null": null,
        "shape": list(data.heldout[0].shape[1:]),
        "sampling": dict(recipe.sampling),
        "classes": card["classes"] or None,
    }
    return Task(net, loss, check, card)
