"""Checkpoints of players: one safetensors file with everything trained, its averages and its optimisers' states, the header saying at which step.

A single file, written beside its place and renamed, cannot be half there; and the one before it is kept. Nothing is unpickled: an optimiser's
state is tensors by the names of the parameters, its numbers stand in the header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, FileError
from reverie.nets import read_tensors, write_tensors
from reverie.train.players import Player

__all__ = ["checkpoints", "name_of", "put", "refuse_pickles", "restore", "save", "sweep"]

KEEP = 2
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
_KIND, _FORMAT = "reverie-checkpoint", 2
Optimizers = Mapping[str, torch.optim.Optimizer | None]


def name_of(step: int) -> str:
    """The file of a checkpoint."""
    return f"checkpoint-{step:08d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for part in folder.glob(".checkpoint-*.tmp"):
        part.unlink(missing_ok=True)


def refuse_pickles(folder: Path) -> None:
    """Raise `FileError` for a folder whose checkpoints are pickles: unpickling runs whatever code the file holds."""
    found = sorted(p for p in folder.iterdir() if p.suffix in PICKLES)
    if found:
        raise FileError(
            f"{found[0]} may be a pickle, which is not read, and the folder has no checkpoint of ours; load it yourself, "
            f"weights = torch.load({found[0].name!r}, weights_only=True), put the weights into the players before the training (to keep them as a "
            "file: safetensors.torch.save_file(weights, 'weights.safetensors')), and choose another folder or resume=False"
        )


def put(player: Player, weights: Mapping[str, Tensor]) -> None:
    """Copy weights, by the names of its state, into a player."""
    with torch.no_grad():
        for name, value in player.state.items():
            value.copy_(weights[name])


def save(
    folder: Path,
    step: int,
    spec: Mapping[str, Any],
    players: Mapping[str, Player],
    optimizers: Optimizers,
    averages: Mapping[str, Mapping[str, Tensor]],
    scaler: Any = None,
    said: Mapping[str, float] | None = None,
) -> Path:
    """Write the state after `step` steps, with the players' latest figures `said`, and remove all but the newest checkpoints.

    Raises:
        FileError: it cannot be written; older ones then survive. ArgumentError: an optimiser's state is neither tensors nor numbers.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, player in players.items():
        tensors |= {f"{name}/weights/{k}": v.detach() for k, v in player.state.items()}
        tensors |= {f"{name}/average/{k}": v for k, v in averages.get(name, {}).items()}
        optimizer = optimizers[name]
        if optimizer is None:
            continue
        groups[name] = [_moved(group, optimizer.defaults) for group in optimizer.param_groups]
        for key, parameter in player.parameters.items():
            for moment, value in optimizer.state.get(parameter, {}).items():
                place = f"{name}/{moment}/{key}"
                if isinstance(value, Tensor):
                    tensors[place] = value
                elif value is None or isinstance(value, int | float | bool):
                    numbers[place] = value
                else:
                    raise ArgumentError(
                        f"the optimiser of {name!r} keeps a {type(value).__name__} ({moment}); a checkpoint holds tensors and numbers"
                    )
    header = {
        "kind": _KIND,
        "format": _FORMAT,
        "step": step,
        "spec": dict(spec),
        "numbers": numbers,
        "groups": groups,
        "optimizers": {name: _kind_of(optimizer) for name, optimizer in optimizers.items()},
        "said": dict(said or {}),
    }
    if scaler is not None:
        header["scaler"] = scaler.state_dict()
    path = folder / name_of(step)
    write_tensors(path, _apart(tensors), {"reverie": json.dumps(header)})
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def restore(
    path: Path,
    spec: Mapping[str, Any],
    players: Mapping[str, Player],
    optimizers: Optimizers,
    averages: Mapping[str, dict[str, Tensor]],
    scaler: Any = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[int, dict[str, float]]:
    """Load a checkpoint into players, optimisers and averages; returns the steps it had done, and the players' latest figures.

    Args:
        defaults: values of the spec that a checkpoint without them is taken to have (it may be from before they existed).

    Raises:
        FileError: truncated, no checkpoint, or of another format. ArgumentError: it belongs to another training.
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
        kind, version, step, theirs, numbers = (header[key] for key in ("kind", "format", "step", "spec", "numbers"))
    except (FileError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"checkpoint {path} is truncated or damaged ({error}); {remedy}") from error
    if kind != _KIND or version != _FORMAT:
        raise FileError(
            f"{path} is a {kind} of format {version}; this version reads {_KIND} of format {_FORMAT}: {remedy}"
        )
    theirs = {k: v for k, v in (defaults or {}).items() if k in spec} | theirs
    differ = [k for k in {**spec, **theirs} if spec.get(k) != theirs.get(k)]
    if differ:
        was = ", ".join(f"{k} = {theirs.get(k)!r} (now {spec.get(k)!r})" for k in sorted(differ))
        raise ArgumentError(
            f"{path} was trained by another recipe: {was}; choose another folder, or start anew with resume=False"
        )
    _check_fit(path, tensors, players, averages)
    for name, kept in header.get("optimizers", {}).items():
        if kept != _kind_of(optimizers[name]):
            raise ArgumentError(
                f"{path} was trained with {kept} for {name!r}, now it is {_kind_of(optimizers[name])}; take {kept} again, choose another folder, or "
                "start anew with resume=False"
            )
    for name, player in players.items():
        put(player, _under(tensors, f"{name}/weights/"))
        kept = _under(tensors, f"{name}/average/")
        for key, average in averages.get(name, {}).items():
            average.copy_(kept[key])
        _moments(name, player, optimizers[name], tensors, numbers)
        for group, moved in zip(
            getattr(optimizers[name], "param_groups", []), header.get("groups", {}).get(name, []), strict=False
        ):
            group |= moved
    if scaler is not None and "scaler" in header:
        scaler.load_state_dict(header["scaler"])
    return step, header.get("said", {})


def _check_fit(
    path: Path,
    tensors: Mapping[str, Tensor],
    players: Mapping[str, Player],
    averages: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Raise `ArgumentError` unless names and shapes are those of the players."""
    ours = {
        f"{name}/weights/{key}": value.shape for name, player in players.items() for key, value in player.state.items()
    }
    ours |= {
        f"{name}/average/{key}": value.shape for name, average in averages.items() for key, value in average.items()
    }
    theirs = {k: v.shape for k, v in tensors.items() if k.split("/", 2)[1:2] in (["weights"], ["average"])}
    for place in sorted({*ours, *theirs}):
        if ours.get(place) != theirs.get(place):
            there, here = (f"shape {tuple(s[place])}" if place in s else "nothing" for s in (theirs, ours))
            raise ArgumentError(
                f"{path} was trained with other players: it has {there} for {place!r}, the training {here}; choose another folder, or start anew "
                "with resume=False"
            )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which no two share memory, as a file wants them (tied weights are written twice)."""
    seen: set[int] = set()
    out = {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        out[name] = value.clone() if place in seen else value
        seen.add(place)
    return out


def _kind_of(optimizer: torch.optim.Optimizer | None) -> str:
    return "no optimiser" if optimizer is None else type(optimizer).__name__


def _moved(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a group that are no longer the optimiser's defaults: some count their steps there. The rate is set anew in each step."""
    return {
        k: v
        for k, v in group.items()
        if k != "lr" and isinstance(v, int | float) and (k not in defaults or v != defaults[k]) and math.isfinite(v)
    }


def _moments(
    name: str,
    player: Player,
    optimizer: torch.optim.Optimizer | None,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """An optimiser's state, parameter by parameter."""
    if optimizer is None:
        return
    parameters = player.parameters
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for table in (tensors, numbers):
        for place, value in table.items():
            who, moment, key = [*place.split("/", 2), "", ""][:3]
            if who == name and moment not in ("weights", "average") and key in parameters:
                if isinstance(value, Tensor) and (value.ndim or on_device):  # counts of steps stay on the CPU otherwise
                    value = value.to(parameters[key].device)
                optimizer.state[parameters[key]][moment] = value
