"""Training a denoiser, and its text encoder, to make pictures from captions, on the latents of a finished autoencoder.

    z0 = s mean(q(z | x)),   z_t = alpha z0 + sigma eps,   c = text encoder(caption, or in a share of cases the empty one)
    loss = mean w |net(z_t, t, c) - y|^2 / dimension,      y = v, eps or the flow's velocity, of (z0, eps, t)

The denoiser is a U-Net on DDPM's noise or a transformer on straight paths; `hub.layouts` knows what each needs. The text encoder may be that of a
finished pipeline, and then stays as it is.

Latents of N captioned scenes are made once, in parts that a killed training finds again. They are means: what sampling q would add is white noise
that no network can foresee, and that the decoder has learnt to bear. s is 1 over the standard deviation of all their entries. Captions are kept as
tokens.

Sources: Rombach et al. 2022 (2112.10752, sections 3.2 and 3.3, and appendix G for s); Ho & Salimans 2022 (2207.12598) for the empty caption.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.base import ArgumentError, FileError, Noise
from reverie.base.noise import TRAIN
from reverie.data import shapes
from reverie.guide import CFG
from reverie.hub.folder import read_parts
from reverie.hub.layouts import LAYOUTS
from reverie.hub.pipeline import make_text_encoder, read_autoencoder
from reverie.hub.tokenizer import make_tokenizer, tokens
from reverie.measure import accuracy, prompts
from reverie.model import Model
from reverie.model.fingerprint import feed
from reverie.nets import read_tensors, write_tensors
from reverie.solve import sample
from reverie.train.batches import rows
from reverie.train.objectives import denoising, stratified, times, weights
from reverie.train.players import Step
from reverie.train.recipe import Recipe
from reverie.train.tasks import fill

__all__ = ["Latents", "TextToImage", "latents"]

CHECK = 2**31  # held-out noise is drawn for this step, which no training reaches
DRAWS, HELD = 2, 256
PROMPTS, SHOWN = 8, 16  # of each category for the verifier, and how many in all on a sheet
STEPS, SCALE = 12, 4.0  # of the pictures along the way
PART = 2000


@dataclass(frozen=True)
class Latents:
    """Scenes as a text-to-image model meets them: `mean` `(N, C, H, W)`, half precision and not scaled, and `tokens` `(N, length)`, int16."""

    mean: Tensor
    tokens: Tensor

    @property
    def scaling(self) -> float:
        """1 over the standard deviation of all entries."""
        n = self.mean.numel()
        parts = [part.double() for part in self.mean.split(4096)]
        mean = sum(part.sum().item() for part in parts) / n
        return (sum((part - mean).square().sum().item() for part in parts) / max(1, n - 1)) ** -0.5


@torch.no_grad()
def latents(
    vae: Any,
    tokenizer: Any,
    n: int,
    *,
    folder: Path | None = None,
    digest: str = "",
    seed: int = 0,
    split: str = "train",
    part: int = PART,
    batch: int = 50,
    say: Callable[[str], None] = lambda text: None,
) -> Latents:
    """The latents and tokens of scenes 0 to n - 1, made in parts that are kept in a folder.

    Args:
        folder: `latents` in it has a file a part; those that are there, of this autoencoder, vocabulary and seed, are not made again.
        digest: of the autoencoder. batch: pictures encoded at a time. say: is told of each part made.

    Raises:
        FileError: a part cannot be written. UnknownNameError, ArgumentError: a caption that the tokenizer cannot hold.
    """
    key = json.dumps([digest, sorted(tokenizer.get_vocab().items()), tokenizer.model_max_length, seed, split, batch])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    device = next(vae.parameters()).device
    found: list[dict[str, Tensor]] = []
    for start in range(0, n, part):
        ids, remark = range(start, min(start + part, n)), ""
        path = (
            None
            if folder is None
            else folder / "latents" / f"{split}-{name}-{ids.start:07d}-{ids.stop:07d}.safetensors"
        )
        try:
            if path is not None and path.is_file():
                found.append(read_tensors(path)[0])
                continue
        except FileError:
            remark = f"; {path} was damaged, and made anew"
        means, told = [], []
        for at in range(ids.start, ids.stop, batch):
            x, captions = shapes(range(at, min(at + batch, ids.stop)), seed=seed, split=split)
            means.append(vae.encode(x.to(device)).latent_dist.mean.half().cpu())
            told.append(tokens(tokenizer, captions).to(torch.int16))
        found.append({"mean": torch.cat(means), "tokens": torch.cat(told)})
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(f"cannot make {str(path.parent)!r}: {error.strerror or error}") from None
            write_tensors(path, found[-1])
        say(f"latents of {ids.stop} of {n} scenes ({split}){remark}")
    return Latents(torch.cat([f["mean"] for f in found]), torch.cat([f["tokens"] for f in found]))


class TextToImage:
    """A text-to-image training made concrete: a pure function of the recipe and its autoencoder.

    Args:
        recipe: of the task "text-to-image". folder: where latents are kept; None keeps none. say: is told how the latents come along.

    Attributes:
        net: "unet" or "transformer", with fresh weights, and "text_encoder" where it is trained.

    Raises:
        FileError: no autoencoder where the recipe says. ArgumentError: parts that do not fit each other.
    """

    def __init__(
        self, recipe: Recipe, folder: Path | None = None, say: Callable[[str], None] = lambda text: None
    ) -> None:
        if not Path(recipe.vae).exists():
            raise FileError(
                f"the recipe's autoencoder {recipe.vae!r} does not exist; train it first (reverie train shapes-vae), or say where it is (vae: PATH)"
            )
        self.recipe, self.noise = recipe, Noise(recipe.seed)
        self.vae: Any
        self.vae, self.digest = read_autoencoder(recipe.vae)
        self.layout = LAYOUTS[recipe.net["name"]]
        self.tokenizer, self.text_encoder, trained = self._text()
        denoiser = self.layout.make(**dict(recipe.net.get("args", {})))
        self.scheduler = self.layout.scheduler(
            recipe.predicts, **{k: v for k, v in recipe.process.items() if k != "name"}
        )
        self._fit(denoiser)
        self.train = latents(
            self.vae, self.tokenizer, recipe.scenes, folder=folder, digest=self.digest, seed=recipe.seed, say=say
        )
        self.held = latents(self.vae, self.tokenizer, HELD, split="heldout")
        self.vae.register_to_config(scaling_factor=self.train.scaling)
        self.empty = tokens(self.tokenizer, "")[0]
        _quick(denoiser)
        self.net = nn.ModuleDict(
            {self.layout.part: denoiser} | ({"text_encoder": self.text_encoder} if trained else {})
        )
        self.begun = self._begin(recipe.begin) if recipe.begin else ""
        whole = self.model
        self._bare = Model(whole.net, whole.process, whole.target, whole.label)  # without prompts, for the loss
        kinds = prompts(PROMPTS)
        self.prompts = [p for k in range(PROMPTS) for p in kinds[k::PROMPTS]]  # one of each category after the other

    def _text(self) -> tuple[Any, Any, bool]:
        """Tokenizer, text encoder, and whether the latter is trained."""
        said = dict(self.recipe.text)
        if "pipeline" not in said:
            tokenizer = make_tokenizer(length=said.pop("length", 32))
            return tokenizer, make_text_encoder(tokenizer, **said), True
        parts = read_parts(said["pipeline"])
        return parts["tokenizer"], parts["text_encoder"], False

    def _fit(self, denoiser: Any) -> None:
        """Raise `ArgumentError` where the parts do not fit each other."""
        with torch.no_grad():
            shape = tuple(self.vae.encode(shapes(1)[0]).latent_dist.mean.shape[1:])
        asked, width, name = self.layout.needs(denoiser)
        if asked != shape or denoiser.config.out_channels not in (None, shape[0]):
            raise ArgumentError(
                f"the autoencoder makes latents of shape {shape}, the {self.layout.part} takes {asked}; set in_channels, out_channels and sample_size"
            )
        if width != self.text_encoder.config.hidden_size:
            raise ArgumentError(
                f"the text encoder's hidden_size {self.text_encoder.config.hidden_size} must be the {self.layout.part}'s {name} {width}"
            )

    def _begin(self, path: str) -> str:
        """Take the weights of a finished pipeline, and its scale of latents; returns their digest.

        Raises `FileError` for no pipeline, and `ArgumentError` for one of another network, vocabulary or autoencoder.
        """
        parts = read_parts(path)
        if parts["tokenizer"].get_vocab() != self.tokenizer.get_vocab():
            raise ArgumentError(
                f"begin: the pipeline {path!r} has another vocabulary; begin with one that a recipe of the same captions made"
            )
        theirs = {k: v.half() for k, v in parts["vae"].state_dict().items()}
        if any(not torch.equal(v.half(), theirs[k]) for k, v in self.vae.state_dict().items() if k in theirs):
            raise ArgumentError(
                f"begin: the pipeline {path!r} has another autoencoder than the recipe's vae, {self.recipe.vae!r}"
            )
        h = hashlib.sha256()
        for name in self.net:
            if parts.get(name) is None:
                raise ArgumentError(
                    f"begin: the pipeline {path!r} has no {name}; begin with a model of the same layout"
                )
            weights = parts[name].state_dict()
            fill(self.net[name], weights, f"{path}/{name}")
            feed(h, weights)
        self.vae.register_to_config(scaling_factor=parts["vae"].config.scaling_factor)
        return h.hexdigest()

    @property
    def model(self) -> Model:
        """With the present weights; its null condition is of these."""
        device = next(self.net.parameters()).device
        self.vae.to(device)
        return self.layout.model(
            self.net[self.layout.part], text_encoder=self.text_encoder.to(device), tokenizer=self.tokenizer, scheduler=self.scheduler,
            vae=self.vae, name=self.recipe.name,
        )  # fmt: skip

    def _error(self, some: Latents, pick: Tensor, step: int, drop: float, part: Sequence[int]) -> Tensor:
        """The loss of samples `pick` of some latents; what is drawn for a slot does not depend on the part asked for."""
        recipe, model, slots = self.recipe, self._bare, range(len(pick))
        own = list(part)
        u = self.noise.uniform((2,), index=slots, stage=step, stream=TRAIN)
        eps = model.process.draw(self.noise, tuple(some.mean.shape[1:]), own, stage=step, stream=TRAIN)
        law = recipe.times
        t, pick = times(model.process, stratified(u[:, 0]), law.law, law.mean, law.std)[own], pick[own]
        told = torch.where(u[own, 1:] < drop, self.empty, some.tokens[pick].long())
        x0 = some.mean[pick].float() * self.vae.config.scaling_factor
        device = next(self.net.parameters()).device
        x0, t, eps, told = (v.to(device) for v in (x0, t, eps, told))
        cond = self.layout.told(self.text_encoder, told)
        return denoising(model, x0, t, eps, cond, weights(model, t, recipe.weight))

    def loss(self, step: Step) -> Tensor:
        """The loss of a part of a step's batch."""
        recipe = self.recipe
        pick = rows(recipe.seed, int(step), recipe.batch, len(self.train.mean))
        return self._error(self.train, pick, int(step), recipe.drop, step.slots(recipe.batch))

    def sampled(self, captions: Sequence[str]) -> Tensor:
        """A picture of each caption, guided, in 12 steps."""
        model = self.model
        model.sampling = {k: v for k, v in self.recipe.sampling.items() if k != "guide"}
        cond = model.embed(list(captions)) if model.embed is not None else None
        return sample(model, len(captions), steps=STEPS, guide=CFG(SCALE), cond=cond).clamp(-1, 1).cpu()

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """The loss on held-out scenes, and how many of the prompts the pictures meet: in full, and by demands."""
        every = torch.arange(len(self.held.mean))
        losses = [
            self._error(self.held, every, CHECK + draw, 0.0, part).item() * len(part)
            for draw in range(DRAWS)
            for part in (range(start, min(start + 64, len(every))) for start in range(0, len(every), 64))
        ]
        met = accuracy(self.sampled(self.prompts), self.prompts)
        return {"heldout": sum(losses) / (DRAWS * len(every)), "accuracy": met.overall[0], "reward": met.reward}

    @torch.no_grad()
    def pictures(self) -> Tensor:
        """Pictures of 16 prompts."""
        return self.sampled(self.prompts[:SHOWN])

    def write(self, folder: Path, card: dict[str, Any]) -> None:
        """Write the pipeline with its present weights."""
        self.layout.write(
            folder, self.net[self.layout.part], vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, scheduler=self.scheduler,
            card=card,
        )  # fmt: skip


def _quick(denoiser: Any) -> None:
    """Lay a denoiser out for speed on a CPU, in training alone: bfloat16 convolutions are several times as fast with channels last, and the fused
    attention's gradient is slower than that of plain products for a few hundred positions. Neither changes a weight or the configuration.
    """
    from diffusers.models.attention_processor import AttnProcessor

    denoiser.to(memory_format=torch.channels_last)
    if not torch.cuda.is_available():
        denoiser.set_attn_processor(AttnProcessor())
