"""Train: recipes, objectives, and a trainer that resumes exactly."""

from reverie.train.objectives import classification, denoising, stratified, times
from reverie.train.recipe import Augment, Recipe, Times, load_recipe, recipes
from reverie.train.trainer import Trained, train

__all__ = [
    "Augment", "Recipe", "Times", "Trained", "classification", "denoising", "load_recipe", "recipes",
    "stratified", "times", "train",
]  # fmt: skip
