"""Train: objectives of any number of players, an engine that resumes exactly, and recipes."""

from reverie.train.autoencoder import autoencoding, psnr
from reverie.train.engine import Fitted, fit
from reverie.train.objectives import classification, denoising, edm_weight, min_snr_weight, stratified, times, weights
from reverie.train.players import Objective, Player, Step, plain
from reverie.train.recipe import Augment, Recipe, Times, load_recipe, recipes
from reverie.train.trainer import Trained, train

__all__ = [
    "Augment", "Fitted", "Objective", "Player", "Recipe", "Step", "Times", "Trained",
    "autoencoding", "classification", "denoising", "edm_weight", "fit", "load_recipe", "min_snr_weight", "plain", "psnr", "recipes", "stratified",
    "times", "train", "weights",
]  # fmt: skip
