"""Reads a drawn scene: which shapes a 64x64 picture shows, hence whether it is what its caption asks for. No weight is learned.

1. background b: a quadratic in x and y a channel, fitted to the pixels near it, three times over
2. objects: connected parts where |picture - b| exceeds a share of the part's own peak
3. an object's coverage: its difference from b projected on its own colour; mass, centre and radius of gyration rho
4. shape, filling, size, angle: the drawn template, seen in the same frame (centre, rho), of the highest cosine
5. colour: least squares of the difference on the template's coverage, which undoes what edges and blur took; nearest name in Lab
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.base import ArgumentError, Noise, NonFiniteError, ShapeError, unknown
from reverie.data.captions import BACKGROUNDS, COLOURS, OUTLINED, SHAPES, Demand, Request, Scene, Thing, demands, parse
from reverie.data.shapes import coverage, shapes

__all__ = [
    "CATEGORIES", "Accuracy", "Benchmark", "accuracy", "benchmark", "calibration", "category", "prompts", "read", "reward",
]  # fmt: skip

SIDE, FRAME = 64, 24
"""Pixels of a picture and of the frame, 2.3 rho each way, in which an object meets its templates."""
REACH = 2.3
SEEN = 0.10
"""Least difference from the background, in RGB of [0, 1], of an object."""
EDGE = 0.35
"""Share of an object's peak difference at which it ends."""
OTHER = 0.45
"""Share of its difference from the background by which a pixel misses a colour's line to be another object's."""
MOST = 12
"""Objects looked at in one picture; a picture of noise has hundreds."""
WINDOW = 44
"""Pixels around an object that are looked at."""
AREA = 18.0
"""Least area of an object in pixels; less is a speck."""
LIKE = 0.92
"""Least cosine with a template; less is a blob, which has no shape."""
NEAR = 34.0
"""Largest distance from a colour, in Lab with half the lightness; beyond it is another colour, without a name here."""


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `(N, C, H, W)`."""
    n = max(1, round(3 * sigma))
    w = torch.exp(-(torch.arange(-n, n + 1.0) ** 2) / (2 * sigma**2))
    w = (w / w.sum()).repeat(x.shape[1], 1, 1, 1)
    x = F.pad(x, (n, n, n, n), mode="replicate")
    x = F.conv2d(x, w, groups=x.shape[1])
    return F.conv2d(x, w.transpose(2, 3), groups=x.shape[1])


def _length(d: Tensor) -> Tensor:
    """The Euclidean norm over the three channels of `(N, 3, ...)`; `norm(dim=1)` takes ten times as long."""
    r, g, b = d.unbind(1)
    return (r * r + g * g + b * b).sqrt()


@lru_cache(maxsize=2)
def _quadratic(side: int = SIDE) -> Tensor:
    """The six monomials up to degree 2, `(side^2, 6)`."""
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = (a.flatten() for a in torch.meshgrid(at, at, indexing="ij"))
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)


def _ground(p: Tensor) -> Tensor:
    """The background behind the objects of pictures `(N, 3, 64, 64)` in [0, 1]."""
    half = F.avg_pool2d(p, 2)
    ring = torch.cat([half[..., 0, :], half[..., -1, :], half[..., 0], half[..., -1]], 2)
    guess = ring.median(2).values[..., None].expand(-1, -1, 1024)
    q, values = _quadratic(32), half.flatten(2)
    products = (q[:, :, None] * q[:, None]).flatten(1)
    for within in (0.20, 0.10, 0.08):
        w = (_length(values - guess) < within).float() + 1e-4
        m = (w @ products).view(-1, 6, 6) + 1e-3 * torch.eye(6)
        a = torch.linalg.solve(m, ((w[:, None] * values) @ q).transpose(1, 2))
        guess = (q @ a).transpose(1, 2)
    return (_quadratic() @ a).transpose(1, 2).reshape(p.shape)


def _labelled(mask: Tensor) -> Tensor:
    """The connected parts of masks `(N, 64, 64)`, numbered from 1 over all of them; 0 is none."""
    from scipy import ndimage

    tall = F.pad(mask, (0, 0, 0, 1)).flatten(0, 1)  # all pictures in one, with an empty row between two
    return torch.from_numpy(ndimage.label(tall.numpy())[0]).long().view(len(mask), SIDE + 1, SIDE)[:, :SIDE]


def _peak(values: Tensor, numbers: Tensor) -> Tensor:
    """The largest of the values `(N, 64, 64)` in each part, from 0."""
    start = torch.zeros(int(numbers.max()) + 1)
    return start.scatter_reduce(0, numbers.flatten(), values.flatten(), "amax")


def _off(d: Tensor, strength: Tensor, numbers: Tensor) -> Tensor:
    """How far each pixel's difference is from the line through 0 and that of its part's strongest pixel, `(N, 64, 64)`."""
    peak = _peak(strength, numbers)
    top = (strength == peak[numbers]) & (numbers > 0)
    v = torch.zeros(len(peak), 3)
    v[numbers[top]] = d.permute(0, 2, 3, 1)[top]
    line = v[numbers].permute(0, 3, 1, 2)
    share = ((d * line).sum(1) / (line * line).sum(1).clamp_min(1e-6)).clamp(0, 1.3)
    return _length(d - share[:, None] * line)


def _parts(d: Tensor) -> tuple[Tensor, Tensor]:
    """Connected parts that differ from the background by `d`: a number for each pixel `(N, 64, 64)`, and each part's picture."""
    d = F.pad(d, (1, 1, 1, 1), mode="replicate")
    d = d[..., :-2, :] + 2 * d[..., 1:-1, :] + d[..., 2:, :]
    d = (d[..., :-2] + 2 * d[..., 1:-1] + d[..., 2:]) / 16
    far = _length(d)
    rough = _labelled(far > SEEN)
    numbers = _labelled((far > EDGE * _peak(far, rough)[rough]) & (rough > 0))

    # Objects that touch: pixels off the line from the background to a part's strongest colour are another object's, if enough.
    first = _off(d, far, numbers)
    second = _off(d, first * (first > OTHER * far), numbers)
    many = torch.bincount(numbers.flatten(), ((first > OTHER * far) & (numbers > 0)).flatten().float()) >= AREA
    if many.any():
        other = many[numbers] & (second < first)
        more = _labelled(other)
        numbers = _labelled((numbers > 0) & ~other)
        numbers = torch.where(more > 0, more + numbers.max(), numbers)

    area = torch.bincount(numbers.flatten())
    area[0] = 0
    owner = torch.zeros(len(area), dtype=torch.long)
    owner[numbers.flatten()] = torch.arange(len(d))[:, None, None].expand_as(numbers).flatten()
    rank = torch.empty_like(area)  # among the parts of one picture, by area
    rank[(owner * SIDE**2 * 2 - area).argsort(stable=True)] = torch.arange(len(area))
    first = torch.full((len(d),), len(area)).scatter_reduce(0, owner, rank, "amin")
    keep = (area >= AREA / 2) & (rank - first[owner] < MOST)
    return torch.where(keep, keep.cumsum(0), 0)[numbers], owner[keep]


def _windows(d: Tensor, numbers: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Around each part a window: the differences where the part may reach, `(M, 3, WINDOW, WINDOW)`, and its corner (x, y), `(M, 2)`."""
    low, high = torch.full((2, len(owner) + 1, 2), SIDE).unbind()
    high = high * 0
    n, row, column = numbers.nonzero().T
    which, at = numbers[n, row, column], torch.stack([column, row], 1)
    low = low.scatter_reduce(0, which[:, None].expand(-1, 2), at, "amin")[1:]
    high = high.scatter_reduce(0, which[:, None].expand(-1, 2), at, "amax")[1:]
    corner = ((low + high + 1) // 2 - WINDOW // 2).clamp(0, SIDE - WINDOW)
    span = torch.arange(WINDOW)
    rows, columns = (corner[:, 1:] + span)[:, :, None], (corner[:, :1] + span)[:, None]
    there = numbers[owner[:, None, None], rows, columns]
    own = there == torch.arange(1, len(owner) + 1)[:, None, None]
    near = F.max_pool2d(own[:, None].float(), 5, 1, 2)[:, 0] > 0
    seen = d.permute(0, 2, 3, 1)[owner[:, None, None], rows, columns]
    return (seen * (near & (own | (there == 0)))[..., None]).permute(0, 3, 1, 2).contiguous(), corner


def _framed(d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objects in their own frame, from differences from the background `(M, 3, S, S)` that hold one object each.

    Returns:
        The differences in the frame `(M, 3, FRAME, FRAME)`, the coverage there `(M, FRAME, FRAME)` in [0, 1.2], mass `(M,)`, and
        centre (x, y) and rho `(M, 3)`.
    """
    side = d.shape[-1]
    far = _length(d.flatten(2))
    core = (far >= 0.7 * far.amax(1, keepdim=True)).float()
    v = torch.einsum("mck,mk->mc", d.flatten(2), core) / core.sum(1, keepdim=True)
    alpha = torch.einsum("mchw,mc->mhw", d, v / (v * v).sum(1, keepdim=True).clamp_min(1e-6)).clamp(0, 1.2)
    at = torch.arange(side) + 0.5
    across, down = alpha.sum(1), alpha.sum(2)
    mass = across.sum(1).clamp_min(1e-6)
    x, y = (across @ at) / mass, (down @ at) / mass
    spread = (across * (at - x[:, None]) ** 2).sum(1) + (down * (at - y[:, None]) ** 2).sum(1)
    rho = (spread / mass).sqrt().clamp_min(0.5)
    u = ((torch.arange(FRAME) + 0.5) / FRAME * 2 - 1) * REACH
    gx, gy = ((z[:, None] + rho[:, None] * u) / side * 2 - 1 for z in (x, y))
    grid = torch.stack([gx[:, None].expand(-1, FRAME, -1), gy[:, :, None].expand(-1, -1, FRAME)], 3)
    both = F.grid_sample(torch.cat([d, alpha[:, None]], 1), grid, align_corners=False)
    return both[:, :3], both[:, 3], mass, torch.stack([x, y, rho], 1)


@dataclass(frozen=True)
class _Templates:
    things: tuple[Thing, ...]
    images: Tensor
    """Coverage in the frame, `(K, FRAME^2)`, of unit norm."""
    norms: Tensor
    """What that norm was, `(K,)`."""
    rho: Tensor
    """Radius of gyration in pixels, `(K,)`."""
    handicap: Tensor
    """What is taken off the cosine, `(K,)`: a turn by more than 15 degrees is rare, and blur makes a cross resemble a turned square."""


@lru_cache(maxsize=1)
def _templates() -> _Templates:
    things, images, rhos = [], [], []
    for shape in SHAPES:
        turn = {"circle": 0, "square": 45, "triangle": 60}.get(
            shape, 25
        )  # a turned square is one; a turned cross is an x
        angles = range(min(0, 5 - turn), turn + 1, 5)
        some = [
            Thing(shape, "red", 32 + 0.37 * k % 1, 32 + 0.61 * k % 1, size, filled, angle)
            for k, size in enumerate((8.5, 10, 11.5, 13.5, 15.5, 18, 21, 24, 27))
            for filled in ((True, False) if shape in OUTLINED else (True,))
            for angle in angles
        ]
        drawn = coverage(some)
        for sigma in (0.4, 0.8, 1.2):
            frames, _, _, moments = _framed(_blurred(drawn[:, None], sigma).expand(-1, 3, -1, -1))
            things += some
            images.append(frames[:, 0].flatten(1))
            rhos.append(moments[:, 2])
    image = torch.cat(images)
    norms = image.norm(dim=1)
    turned = torch.tensor([abs(t.angle) for t in things])
    return _Templates(tuple(things), image / norms[:, None], norms, torch.cat(rhos), 0.001 * (turned - 15).clamp_min(0))


def _lab(rgb: Tensor) -> Tensor:
    """CIE L*a*b* of sRGB in [0, 1], `(..., 3)`."""
    c = rgb.clamp(0, 1)
    c = torch.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    m = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = (c @ m.T) / torch.tensor([0.9505, 1.0, 1.089])
    f = torch.where(f > 0.008856, f.clamp_min(1e-9) ** (1 / 3), 7.787 * f + 16 / 116)
    return torch.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def _named(rgb: Tensor) -> list[str]:
    """The nearest colour's name for each of `(M, 3)`; lightness counts half."""
    weight = torch.tensor([0.5, 1.0, 1.0])
    names = [*COLOURS, "other"]
    apart = torch.cdist(_lab(rgb) * weight, _lab(torch.tensor(list(COLOURS.values()))) * weight)
    near, which = apart.min(1)
    return [names[k] for k in torch.where(near <= NEAR, which, len(COLOURS)).tolist()]


@torch.no_grad()
def read(pictures: Tensor, batch: int = 64) -> list[Scene]:
    """What each picture shows.

    Args:
        pictures: `(N, 3, 64, 64)` in [-1, 1]; what lies outside is cut off. batch: how many are worked on at a time.

    Returns:
        N scenes: their objects, largest first, with shape, colour, centre, size (pixels), filled, angle and rgb, and the background.

    Raises:
        ShapeError: other shapes. NonFiniteError: NaN or infinity. ArgumentError: SciPy is missing.

    >>> import reverie as rv
    >>> thing = rv.data.Thing("square", "blue", x=20, y=40, size=16)
    >>> seen = read(rv.data.render([rv.data.Scene((thing,))]))[0].things[0]
    >>> seen.shape, seen.colour, round(seen.x), round(seen.y), round(seen.size)
    ('square', 'blue', 20, 40, 16)
    """
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or tuple(pictures.shape[1:]) != (3, SIDE, SIDE):
        got = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
        raise ShapeError(f"scenes are read from pictures (N, 3, {SIDE}, {SIDE}), got {got}")
    bad = (~pictures.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(
            f"{len(bad)} pictures hold NaN or infinity, the first is number {bad[0]}", samples=tuple(bad)
        )
    try:
        import scipy.ndimage  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            "reading scenes needs scipy, which is not installed: pip install 'reverie[data]'"
        ) from error
    out: list[Scene] = []
    for part in pictures.split(batch) if len(pictures) else ():
        out += _read(((part.float().cpu() + 1) / 2).clamp(0, 1))
    return out


def _read(p: Tensor) -> list[Scene]:
    ground = _ground(p)
    numbers, owner = _parts(p - ground)
    found: list[list[Thing]] = [[] for _ in p]
    if len(owner):
        bank = _templates()
        windows, corner = _windows(p - ground, numbers, owner)
        d, alpha, mass, moments = _framed(windows)
        flat, (x, y, rho) = alpha.flatten(1), moments.T
        fit = (flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-6)) @ bank.images.T
        apart = (rho[:, None].log() - bank.rho.log()).abs()
        like, best = (fit - (apart - 0.12).clamp_min(0) - bank.handicap).max(1)
        painted = torch.einsum("mck,mk->mc", d.flatten(2), bank.images[best]) / bank.norms[best, None]
        x, y = x + corner[:, 0], y + corner[:, 1]
        column, row = (v.long().clamp(0, SIDE - 1) for v in (x, y))
        rgb = (ground[owner, :, row, column] + painted).clamp(0, 1)
        scale = rho / bank.rho[best]
        columns = (owner, best, like, x, y, scale, mass, rgb)
        for colour, (n, k, cosine, cx, cy, s, area, paint) in zip(
            _named(rgb), zip(*(c.tolist() for c in columns), strict=True), strict=True
        ):
            if area >= AREA:
                t = bank.things[k]
                shape = t.shape if cosine >= LIKE else "blob"
                found[n].append(Thing(shape, colour, cx, cy, t.size * s, t.filled, t.angle, tuple(paint)))
    return [
        Scene(
            tuple(sorted(things, key=lambda t: -t.size)),
            BACKGROUNDS[(value > 0.36) + (value > 0.67)],
            (tuple(tone), tuple(tone)),
        )
        for things, value, tone in zip(
            found, ground.mean((1, 2, 3)).tolist(), ground.mean((2, 3)).tolist(), strict=True
        )
    ]


# Pictures against captions.

CATEGORIES = ("single", "two objects", "counting", "colours", "position", "binding")
"""GenEval's tasks: one object, two objects without colours, a number of objects, one object's colour, where objects are (in the frame
or to each other), and which object has which colour."""
KINDS = ("count", "shape", "colour", "size", "filled", "place", "relation", "background")
"""What a caption can demand."""


def _judged(pictures: Tensor, captions: str | Sequence[str]) -> tuple[list[Request], list[list[Demand]]]:
    texts = [captions] * len(pictures) if isinstance(captions, str) else list(captions)
    if len(texts) != len(pictures):
        raise ShapeError(f"one caption a picture is needed, got {len(texts)} for {len(pictures)}")
    known = {text: parse(text) for text in dict.fromkeys(texts)}
    requests = [known[text] for text in texts]
    return requests, [demands(request, scene) for request, scene in zip(requests, read(pictures), strict=True)]


def reward(pictures: Tensor, captions: str | Sequence[str]) -> Tensor:
    """The share of its caption's demands that each picture meets, `(N,)` in [0, 1]; 1 only if it meets all.

    A caption demands its number of objects, and the shape, colour, size, filling and place of each as far as it names them, its relations and
    its background (`rv.data.demands`).

    Args:
        pictures: `(N, 3, 64, 64)` in [-1, 1]. captions: N of them, or one for all.

    Raises:
        ArgumentError: a caption that cannot be understood. ShapeError: other pictures, or not one caption a picture. NonFiniteError: NaN.

    >>> import reverie as rv
    >>> x, captions = rv.data.shapes(2)
    >>> reward(x, captions).tolist(), reward(x[:1], "a circle").item() < 1
    ([1.0, 1.0], True)
    """
    _, met = _judged(pictures, captions)
    return torch.tensor([sum(d.met for d in one) / len(one) for one in met])


def category(caption: str | Request) -> str:
    """Which of `CATEGORIES` a caption belongs to.

    >>> category("a red circle and a blue square"), category("two circles"), category("a circle on the left")
    ('binding', 'counting', 'position')
    """
    request = parse(caption) if isinstance(caption, str) else caption
    asks = request.asks
    if request.relations or any(ask.place for ask in asks):
        return "position"
    if any(ask.count > 1 for ask in asks):
        return "counting"
    if len(asks) == 1:
        return "colours" if asks[0].colour else "single"
    return "binding" if len({ask.colour for ask in asks} - {None}) > 1 else "two objects"


@dataclass(frozen=True)
class Accuracy:
    """How often pictures are what their captions ask for; it prints as a table.

    Args:
        categories: share of the captions of each category that are met in full, and how many there are.
        kinds: share of the demands of each kind that are met, and how many there are.
        overall: share of all captions that are met in full, and how many there are.
        reward: the mean share of a caption's demands that are met.
    """

    categories: Mapping[str, tuple[float, int]]
    kinds: Mapping[str, tuple[float, int]]
    overall: tuple[float, int]
    reward: float

    def __str__(self) -> str:
        return str(Benchmark({"met": self}))


@dataclass(frozen=True)
class Benchmark:
    """Several accuracies side by side, by name; it prints as one table."""

    columns: Mapping[str, Accuracy]

    def __str__(self) -> str:
        names = list(self.columns)
        first = self.columns[names[0]]
        wide = [max(9, len(name) + 2) for name in names]
        head = f"{'':14}{'n':>6}" + "".join(f"{n:>{w}}" for n, w in zip(names, wide, strict=True))
        lines = [head, "caption met in full"]

        def row(
            label: str, of: Mapping[str, tuple[float, int]], cells: Sequence[Mapping[str, tuple[float, int]]]
        ) -> str:
            shown = (f"{100 * c[label][0]:.1f}%" if label in c else "-" for c in cells)
            count = of[label][1] if label in of else 0
            return f"  {label:12}{count:>6}" + "".join(f"{s:>{w}}" for s, w in zip(shown, wide, strict=True))

        all_of = [{**a.categories, "overall": a.overall} for a in self.columns.values()]
        lines += [row(label, all_of[0], all_of) for label in (*CATEGORIES, "overall")]
        lines.append("demands met, by kind")
        kinds = [a.kinds for a in self.columns.values()]
        lines += [row(label, first.kinds, kinds) for label in KINDS]
        means = (f"{100 * a.reward:.1f}%" for a in self.columns.values())
        lines.append(f"{'mean reward':20}" + "".join(f"{s:>{w}}" for s, w in zip(means, wide, strict=True)))
        return "\n".join(lines)


def accuracy(pictures: Tensor, captions: str | Sequence[str]) -> Accuracy:
    """How often pictures are what their captions ask for, by category, by kind of demand and overall.

    Args:
        pictures: `(N, 3, 64, 64)` in [-1, 1]. captions: N of them, or one for all.

    Raises:
        as `reward`; ShapeError: no picture.

    >>> import reverie as rv
    >>> accuracy(*rv.data.shapes(8)).overall
    (1.0, 8)
    """
    requests, met = _judged(pictures, captions)
    if not met:
        raise ShapeError("an accuracy needs at least one picture, got none")
    full = [all(d.met for d in one) for one in met]
    tasks = [category(request) for request in requests]

    def share(values: list[bool]) -> tuple[float, int]:
        return sum(values) / len(values), len(values)

    by_task = {c: [ok for ok, task in zip(full, tasks, strict=True) if task == c] for c in CATEGORIES}
    by_kind = {kind: [d.met for one in met for d in one if d.kind == kind] for kind in KINDS}
    return Accuracy(
        {c: share(values) for c, values in by_task.items() if values},
        {kind: share(values) for kind, values in by_kind.items() if values},
        share(full),
        sum(sum(d.met for d in one) / len(one) for one in met) / len(met),
    )


def calibration(
    n: int = 500, seed: int = 0, autoencoder: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Accuracy]:
    """What the verifier itself gets right on held-out scenes: as drawn, against others' captions, and through an autoencoder.

    Args:
        n: scenes, at least 2. seed: of the scenes. autoencoder: pictures `(n, 3, 64, 64)` to pictures, if there is one.

    Returns:
        "clean" (the verifier's own errors), "shuffled" (every picture with the caption of the one before: chance), and "round trip" (what
        no model behind that autoencoder can be expected to exceed).

    Raises:
        ArgumentError: n below 2.

    >>> {name: a.overall[0] > 0.5 for name, a in calibration(20).items()}
    {'clean': True, 'shuffled': False}
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise ArgumentError(f"n must be a whole number of at least 2, got {n!r}")
    x, captions = shapes(n, seed, "heldout")
    out = {"clean": accuracy(x, captions), "shuffled": accuracy(x, captions[-1:] + captions[:-1])}
    if autoencoder is not None:
        with torch.no_grad():
            out["round trip"] = accuracy(autoencoder(x), captions)
    return out


def benchmark(
    pictures: Tensor,
    captions: str | Sequence[str],
    autoencoder: Callable[[Tensor], Tensor] | None = None,
    n: int = 500,
    name: str = "pictures",
) -> Benchmark:
    """How often pictures are what their captions ask for, beside what the verifier itself gets right: one table.

    Args:
        pictures, captions: as of `accuracy`; those of `prompts`, for figures to compare. autoencoder, n: as of `calibration`.
        name: of the first column.

    >>> import reverie as rv
    >>> print(str(benchmark(*rv.data.shapes(8), n=20)).splitlines()[0])
                       n  pictures    clean  shuffled
    """
    return Benchmark({name: accuracy(pictures, captions), **calibration(n, autoencoder=autoencoder)})


def prompts(n: int = 50, seed: int = 0, categories: Iterable[str] = CATEGORIES) -> list[str]:
    """Captions that a text-to-image model is judged by: n of each category, one category after the other.

    Args:
        n: of each, at least 1. seed: what they are drawn from. categories: which, of `CATEGORIES`.

    Raises:
        ArgumentError: n below 1. UnknownNameError: another category.

    >>> prompts(1, categories=["counting"])[0].split()[0] in ("two", "three", "four")
    True
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ArgumentError(f"n must be a whole number of at least 1, got {n!r}")
    out = []
    for name in categories:
        if name not in CATEGORIES:
            raise unknown("category", name, CATEGORIES)
        draws = Noise(seed).uniform((8,), range(n), stage=CATEGORIES.index(name), stream=_PROMPTS).tolist()
        out += [_prompt(name, k, u) for k, u in enumerate(draws)]
    return out


_PROMPTS = 0x5A6


def _prompt(name: str, k: int, u: list[float]) -> str:
    """Prompt k of a category; shapes and colours go round in turn, so that few prompts cover them evenly."""
    first, second = SHAPES[k % len(SHAPES)], SHAPES[(k + 1 + int(u[0] * (len(SHAPES) - 1))) % len(SHAPES)]
    names = tuple(COLOURS)
    one = names[(k + int(u[1] * 2)) % len(names)]
    other = names[(names.index(one) + 1 + int(u[2] * (len(names) - 1))) % len(names)]
    if name == "single":
        size = ("", "small ", "large ")[int(u[3] * 3)]
        return f"a {size}{first}"
    if name == "two objects":
        return f"a {first} and a {second}"
    if name == "counting":
        plural = first + ("es" if first == "cross" else "s")
        return f"{('two', 'three', 'four')[int(u[3] * 3)]} {one} {plural}"
    if name == "colours":
        return f"{_an(one)} {first}"
    if name == "binding":
        return f"{_an(one)} {first} and {_an(other)} {second}"
    if k % 2:
        where = ("in the top left", "in the top right", "in the bottom left", "in the bottom right", "in the center",
                 "at the top", "at the bottom", "on the left", "on the right")  # fmt: skip
        return f"{_an(one)} {first} {where[int(u[4] * len(where))]}"
    relation = ("to the left of", "to the right of", "above", "below")[int(u[4] * 4)]
    return f"{_an(one)} {first} {relation} {_an(other)} {second}"


def _an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
