"""Many scenes with their captions, and two objects that tests look at."""

from __future__ import annotations

from functools import lru_cache

from reverie.base import Noise
from reverie.data import Scene, Thing, caption, demands, parse, scenes

MANY = 3000
RED, BLUE = Thing("circle", "red", 14, 12, 12), Thing("square", "blue", 16, 50, 22, filled=False)
PAIR = Scene((RED, BLUE), "dark")


@lru_cache(maxsize=1)
def many() -> tuple[list[Scene], list[str]]:
    drawn = scenes(MANY, seed=4)
    words = Noise(9).uniform((32,), range(MANY)).tolist()
    return drawn, [caption(s, w) for s, w in zip(drawn, words, strict=True)]


def true(text: str, s: Scene) -> bool:
    return all(d.met for d in demands(parse(text), s))
