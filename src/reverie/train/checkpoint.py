"""Checkpoints: one safetensors file with weights, their average and the optimiser's state, its header saying at which
step.

A single file, written beside its place and renamed, cannot be half there; and the one before it is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, FileError
from reverie.nets import read_tensors, write_tensors

__all__ = ["checkpoints", "restore", "save", "sweep"]

KEEP = 2
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for part in folder.glob(".checkpoint-*.tmp"):
        part.unlink(missing_ok=True)


def save(
    folder: Path,
    step: int,
    recipe: dict[str, Any],
    net: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write the state after `step` steps and remove all but the newest checkpoints. Raises `FileError`; older ones then
    survive.
    """
    tensors = {f"net/{k}": v for k, v in net.state_dict().items()} | {f"ema/{k}": v for k, v in average.items()}
    for name, parameter in net.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam/{moment}/{name}"] = value
    path = folder / f"checkpoint-{step:08d}.safetensors"
    header = {"kind": "reverie-checkpoint", "format": 1, "step": step, "recipe": recipe}
    write_tensors(path, tensors, {"reverie": json.dumps(header)})
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def restore(
    path: Path, recipe: dict[str, Any], net: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Load a checkpoint into a network, its average and its optimiser; returns the steps it had done.

    Raises:
        FileError: truncated, or no checkpoint. ArgumentError: it belongs to another recipe.
    """
    before = [p for p in checkpoints(path.parent) if p < path]
    remedy = (
        f"delete it, and the training resumes from {before[-1].name}"
        if before
        else "delete it, and the training starts anew"
    )
    try:
        tensors, metadata = read_tensors(path)
        header = json.loads(metadata["reverie"])
        step, theirs = int(header["step"]), dict(header["recipe"])
        kind, version = header["kind"], header["format"]
    except (FileError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"checkpoint {path} is truncated or damaged ({error}); {remedy}") from error
    if kind != "reverie-checkpoint" or version != 1:
        raise FileError(
            f"{path} is a {kind} of format {version}; this version reads reverie-checkpoint of format 1: {remedy}"
        )
    # How often to save and to measure, and how to sample, does not change the weights.
    differ = [k for k in recipe if k not in ("save_every", "check_every", "sampling") and recipe[k] != theirs.get(k)]
    if differ:
        was = ", ".join(f"{k} = {theirs.get(k)!r} (now {recipe[k]!r})" for k in differ)
        raise ArgumentError(
            f"{path} was trained by another recipe: {was}; choose another folder, or start anew with resume=False"
        )
    try:
        net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net/")})
        for name in average:
            average[name].copy_(tensors[f"ema/{name}"])
        for name, parameter in net.named_parameters():
            if f"adam/step/{name}" in tensors:
                optimizer.state[parameter] = {m: tensors[f"adam/{m}/{name}"] for m in _MOMENTS}
    except (KeyError, RuntimeError) as error:
        raise FileError(f"checkpoint {path} lacks a part ({error}); {remedy}") from error
    return step
