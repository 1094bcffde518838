"""The autoencoder's objective: against a closed form, and a recipe that runs, resumes and is refused where it cannot work."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.train import Recipe, train
from reverie.train.autoencoder import autoencoding, psnr
from tiny_parts import VAE

TINY = {"name": "autoencoder-kl", "args": VAE}


class Linear(nn.Module):
    """q(z | x) = N(x, std^2), decode(z) = z + shift."""

    def __init__(self, std=0.5, shift=0.0):
        super().__init__()
        self.std, self.shift = std, shift

    def encode(self, x):
        std = torch.full_like(x, self.std)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=x, std=std, logvar=2 * std.log()))

    def decode(self, z):
        return SimpleNamespace(sample=z + self.shift)


def test_the_loss_is_the_squared_error_and_the_divergence():
    x = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    noise = torch.full_like(x, 2.0)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(x, torch.full_like(x, 0.5)), torch.distributions.Normal(0.0, 1.0)
    ).mean()
    loss = autoencoding(Linear(0.5, 0.25), x, noise, kl=0.1)
    assert torch.allclose(loss, 1.5625 + 0.1 * exact, atol=1e-6)  # (0.5 * 2 + 0.25)^2
    with pytest.raises(ShapeError, match="latents have shape"):
        autoencoding(Linear(), x, noise[..., :1])


def test_psnr_is_that_of_a_known_error():
    x = torch.zeros(5, 3, 4, 4)
    assert psnr(Linear(shift=0.2), x, batch=2) == pytest.approx(20.0, abs=1e-4)  # 10 log10(4 / 0.04)


def test_a_recipe_trains_in_either_precision_and_resumes_to_the_same_bits(tmp_path):
    torch.set_num_threads(1)
    spec = {
        "name": "vae",
        "task": "autoencoding",
        "data": "shapes",
        "net": TINY,
        "steps": 3,
        "batch": 2,
        "save_every": 1,
    }
    for precision in ("float32", "bfloat16"):
        recipe = Recipe.of(spec | {"precision": precision})
        whole = train(recipe, tmp_path / precision / "a", quiet=True)
        folder = tmp_path / precision / "b"
        train(recipe, folder, quiet=True)
        sorted(folder.glob("checkpoint-*"))[-1].unlink()  # as if killed after the step before
        again = train(recipe, folder, quiet=True)
        assert again.weights.read_bytes() == whole.weights.read_bytes()
        assert 0 < again.figures["psnr"] < 30


def test_what_cannot_work_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match="precision"):
        Recipe.of({"name": "x", "precision": "float8"})
    with pytest.raises(UnknownNameError, match="data set for an autoencoder"):
        train(
            Recipe.of({"name": "x", "task": "autoencoding", "data": "digits", "net": TINY, "steps": 1}),
            tmp_path,
            quiet=True,
        )
    with pytest.raises(ArgumentError, match="kl"):
        Recipe.of({"name": "x", "kl": -1.0})
