"""A process that forks trainings and kills them: `python killed.py SEED FOLDER`; says what it did as JSON.

A run is killed by SIGKILL at a random step, at the start of the step, between the moves of its players, or with half of a checkpoint written; it is
then resumed in a fresh fork. One thread only, so that no fork inherits the locks of another.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import select
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from trainings import SAVE_EVERY, STEPS, TRAININGS

from reverie.train import ema, fit

KILLS = 5


def run(name: str, folder: Path) -> None:
    fit(TRAININGS[name](), folder, STEPS, seed=3, save_every=SAVE_EVERY, check_every=2, quiet=True)


def armed(name: str, folder: Path, place: str, step: int, die: Callable[[], None]) -> None:
    """The same training, which asks to be killed in a step (from 0), at a place in it."""
    objective = TRAININGS[name]()
    if place == "source":
        source = objective.source
        objective = dataclasses.replace(
            objective, source=lambda p, k: (die() if int(k) == step else None, source(p, k))[1]
        )
    elif place == "move":
        update, calls = ema.update, [0]

        def torn(*args: object) -> None:
            calls[0] += 1
            if calls[0] > step:
                die()
            update(*args)  # type: ignore[arg-type]

        ema.update = torn
    else:
        write, saves = Path.write_bytes, [0]

        def half(self: Path, data: bytes) -> int:
            if ".checkpoint-" in self.name:
                saves[0] += 1
                if saves[0] > step // SAVE_EVERY:
                    write(self, data[: len(data) // 2])
                    die()
            return write(self, data)

        Path.write_bytes = half  # type: ignore[method-assign, assignment]
    fit(objective, folder, STEPS, seed=3, save_every=SAVE_EVERY, check_every=2, quiet=True)


def fork(work: Callable[[Callable[[], None]], None]) -> int:
    """Do some work in a child, which is killed as soon as it asks for it; its wait status."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:

            def die() -> None:
                os.write(writing, b"k")
                select.select([], [], [], 60)

            work(die)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    if os.read(reading, 1):  # nothing, once the child has ended
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    return os.waitpid(child, 0)[1]


def main(seed: str, root: Path) -> None:
    torch.set_num_threads(1)
    report: dict[str, list[Any]] = {}
    for name in TRAININGS:
        run(name, root / name / "whole")  # here, so that the forks find everything imported
        draw = random.Random(f"{seed} {name}")
        report[name] = []
        for k, step in enumerate(draw.sample(range(1, STEPS), KILLS)):
            place, folder = draw.choice(["source", "move", "save"]), root / name / f"killed-{k}"
            killed = fork(partial(armed, name, folder, place, step))
            left = sorted(path.name for path in folder.glob("*.safetensors"))
            report[name].append((folder.name, place, step, killed, left, fork(lambda die, f=folder, n=name: run(n, f))))  # type: ignore[misc]
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
