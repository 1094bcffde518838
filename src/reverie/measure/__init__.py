"""Measures: metrics and estimators over samples."""

from reverie.measure.benchmark import Benchmark, benchmark, calibration
from reverie.measure.categories import category, prompts
from reverie.measure.frechet import frechet_distance
from reverie.measure.judge import Judge, judge
from reverie.measure.judge_shapes import SceneJudge, scene_judge
from reverie.measure.kernel import kernel_distance
from reverie.measure.memorised import memorised
from reverie.measure.nearest import nearest_distance
from reverie.measure.scene import read
from reverie.measure.sliced import Sliced, sliced_wasserstein
from reverie.measure.spread import class_spread, spread_ratio
from reverie.measure.verifier import Accuracy, accuracy, reward

__all__ = [
    "Accuracy",
    "Benchmark",
    "Judge",
    "SceneJudge",
    "Sliced",
    "accuracy",
    "benchmark",
    "calibration",
    "category",
    "class_spread",
    "frechet_distance",
    "judge",
    "kernel_distance",
    "memorised",
    "nearest_distance",
    "prompts",
    "read",
    "reward",
    "scene_judge",
    "sliced_wasserstein",
    "spread_ratio",
]
