"""Noise as a pure function of (seed, stream, stage, sample): the same floats in any batch, order, chunk, thread or device.

    words = Philox4x32-10(counter = (block, stage, sample mod 2^32, sample div 2^32 + 2^16 stream), key = seed)
    u     = (w + 1/2) / 2^32 in (0, 1],   r = sqrt(-2 ln u)
    theta = pi w' / 2^32 from a second word,  z = r cos theta, r sin theta             (Box and Muller)

A Philox counter gives four words, hence four draws. A sample of n elements uses ceil(n/4) = m counters; element e takes
draw e div m of counter e mod m. Philox (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
is integer arithmetic, so it is exact everywhere. So that the floats are too, logarithm, sine and cosine are polynomials
here and the square root is Heron's, all evaluated one IEEE operation (+, -, *, /) at a time: a library's `log` rounds
differently in the vector body and in the tail of a tensor, so a value would depend on where it stands. Every draw is
a float32 number, accurate to 5 units in the last place; other types are conversions of it, so that a float64 run sees
the noise of the float32 run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from reverie.base.errors import ArgumentError

__all__ = ["DATA", "HOOK", "PLAN", "PRIOR", "TRAIN", "Noise"]

# Streams: who draws. Draws of different streams are independent. Anyone may use further numbers below 2^14.
PRIOR, PLAN, HOOK, DATA, TRAIN = range(5)

_LOW = 0xFFFFFFFF
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # Philox's Weyl increments of the key: golden ratio, sqrt(3) - 1
_CHUNK_CPU, _CHUNK_ELSEWHERE = 1 << 17, 1 << 22  # counters worked on at a time, in six int64 buffers of that length
_UNIFORM, _INTEGERS = 1 << 15, 1 << 14  # kinds of draw, as bits of the stream, so that no two kinds share a word


def _scalars(*values: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Constants as 0-dim CPU tensors, which cost an operation a microsecond less than Python numbers (on any device)."""
    return torch.tensor(values, dtype=dtype, device="cpu").unbind()


_M0, _M1, _MASK, _32 = _scalars(0xD2511F53, 0xCD9E8D57, _LOW, 32, dtype=torch.int64)  # Philox4x32's multipliers
_SPLIT, _HALFWAY, _SIGN = _scalars(0x3F3504F3 + 0x7FFFFF, 0x1FBB4F2E, -(1 << 31), dtype=torch.int32)  # see their uses
_1, _23 = _scalars(1, 23, dtype=torch.int32)
_HALF, _ONE, _2_31, _2_32, _2_33, _LOG_4 = _scalars(0.5, 1.0, 2.0**-31, 2.0**-32, 2.0**-33, math.log(4.0))

# Minimax polynomials (relative error below 6e-9): -2 log((1+s)/(1-s)) = s P(s^2), |s| < 0.172, and on x^2 <= 1
# sin(pi x/2) = x P(x^2), cos(pi x/2) = (x - 1)(x + 1) P(x^2).
_LOG = _scalars(-3.9999999972415448, -1.333336319929768, -0.7994957951578106, -0.5985158214061309)
_SIN = _scalars(
    1.5707963184477107, -0.6459637105993962, 0.079689678945552, -0.00467376660902559, 0.00015148512914266895
)
_COS = _scalars(
    -0.9999999990181038, 0.23370050298539244, -0.01996859007975837, 0.0008935099286635763, -2.358798482158553e-05
)


@dataclass(frozen=True)
class Noise:
    """Random numbers that depend on nothing but the seed and their address (stream, stage, sample id).

    Args:
        seed: an integer in [0, 2^64).

    Every method takes `shape`, the shape of one sample; `index`, the B sample ids in [0, 2^48) as a list or an integer
    tensor; `stage` in [0, 2^32); and `stream` in [0, 2^14). Memory beyond the result is bounded (about 8 MB on the CPU).

    Raises:
        ArgumentError: for a value outside these ranges.

    Source: Salmon et al., SC 2011 (Philox4x32-10); Box and Muller 1958.

    >>> a = Noise(0).normal((3, 8, 8), index=[4, 7])
    >>> torch.equal(a[1:], Noise(0).normal((3, 8, 8), index=[7]))
    True
    """

    seed: int = 0

    def __post_init__(self) -> None:
        _check("seed", self.seed, 1 << 64)

    def normal(
        self,
        shape: Sequence[int],
        index: Iterable[int] | Tensor,
        stage: int = 0,
        stream: int = PRIOR,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normal draws, (B, *shape), in [-6.77, 6.77]; a float32 value whatever the `dtype`.

        >>> Noise(1).normal((2, 2), index=range(5), stage=3).shape
        torch.Size([5, 2, 2])
        """
        return self.normals(shape, index, [stage], stream, device, dtype)[0]

    def normals(
        self,
        shape: Sequence[int],
        index: Iterable[int] | Tensor,
        stages: Iterable[int],
        stream: int = PRIOR,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Standard normal draws of K stages at once, (K, B, *shape): row k is `normal(..., stage=stages[k])`.

        >>> z = Noise(1).normals((2,), index=[9], stages=[0, 5])
        >>> torch.equal(z[1], Noise(1).normal((2,), index=[9], stage=5))
        True
        """
        job = _Job(self.seed, shape, index, stages, stream, 0, device)
        out = job.empty(torch.float32)
        for rows, blocks, words, spare in job:
            _box_muller(words, spare, out[rows, :, blocks].transpose(0, 1))
        return job.shaped(out).to(_floating(dtype))

    def uniform(
        self,
        shape: Sequence[int],
        index: Iterable[int] | Tensor,
        stage: int = 0,
        stream: int = PRIOR,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Uniform draws in the open interval (0, 1), (B, *shape): (w div 2^9 + 1/2) / 2^23, exact in float32 and float64.

        >>> bool(Noise(1).uniform((4,), index=[0]).lt(1).all())
        True
        """
        job = _Job(self.seed, shape, index, [stage], stream, _UNIFORM, device)
        out = job.empty(torch.float32)
        for rows, blocks, words, _ in job:
            for lane, word in enumerate(words):
                out[rows, lane, blocks] = word.bitwise_and_(_MASK).bitwise_right_shift_(9)
        return job.shaped(out.add_(0.5).mul_(2.0**-23))[0].to(_floating(dtype))

    def integers(
        self,
        high: int,
        shape: Sequence[int],
        index: Iterable[int] | Tensor,
        stage: int = 0,
        stream: int = PRIOR,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Integers in [0, high), (B, *shape), int64: w high div 2^32, each value of probability 1/high within 2^-32.

        Args:
            high: in [1, 2^31]; the relative bias of one value is below 2^-32 high.

        >>> Noise(1).integers(10, (), index=range(6)).shape
        torch.Size([6])
        """
        _check("high", high, (1 << 31) + 1, low=1)
        job = _Job(self.seed, shape, index, [stage], stream, _INTEGERS, device)
        out = job.empty(torch.int64)
        for rows, blocks, words, _ in job:
            for lane, word in enumerate(words):
                out[rows, lane, blocks] = word.bitwise_and_(_MASK).mul_(high).bitwise_right_shift_(32)
        return job.shaped(out)[0]


class _Job:
    """One request cut into chunks of rows (a row is a stage of a sample) times counters that stay in the cache."""

    def __init__(
        self,
        seed: int,
        shape: Sequence[int],
        index: Iterable[int] | Tensor,
        stages: Iterable[int],
        stream: int,
        kind: int,
        device: torch.device | str,
    ) -> None:
        _check("stream", stream, 1 << 14)
        ids = _integers("index", index, 1 << 48).to(device)
        steps = _integers("stage", stages, 1 << 32).to(device)
        for size in shape:
            _check("shape", size, 1 << 34)
        self.shape = (len(steps), len(ids), *shape)
        self.size = math.prod(shape)
        _check("number of elements of one sample", self.size, 1 << 34)
        self.blocks = -(-self.size // 4)
        self.key = (int(seed) & _LOW, int(seed) >> 32)
        row = steps.repeat_interleave(len(ids)), ids.repeat(len(steps))
        self.counters = [c[:, None] for c in (row[0], row[1] & _LOW, (row[1] >> 32) | ((stream | kind) << 16))]
        self.device = ids.device
        self.chunk = _CHUNK_CPU if self.device.type == "cpu" else _CHUNK_ELSEWHERE

    def empty(self, dtype: torch.dtype) -> Tensor:
        """(rows, 4, blocks) for the result, padded to whole counters."""
        return torch.empty(len(self.counters[0]), 4, self.blocks, dtype=dtype, device=self.device)

    def shaped(self, out: Tensor) -> Tensor:
        """The result in its final shape, without the padding."""
        return out.flatten(1)[:, : self.size].reshape(self.shape)

    def __iter__(self) -> Iterator[tuple[slice, slice, list[Tensor], list[Tensor]]]:
        """Rows, counters, their four words (R, C) in the low halves of int64, and two spare buffers of the same size."""
        total = len(self.counters[0])
        if total == 0 or self.blocks == 0:
            return
        wide = min(self.blocks, self.chunk)
        tall = min(total, max(1, self.chunk // wide))
        memory = torch.empty(6, tall * wide, dtype=torch.int64, device=self.device)
        for start in range(0, self.blocks, wide):
            blocks = slice(start, min(start + wide, self.blocks))
            block = torch.arange(blocks.start, blocks.stop, device=self.device)[None]
            for top in range(0, total, tall):
                rows = slice(top, min(top + tall, total))
                counters = [block, *(c[rows] for c in self.counters)]
                size = (rows.stop - top, blocks.stop - start)
                buffers = [m[: size[0] * size[1]].view(size) for m in memory]
                yield rows, blocks, *_philox(counters, self.key, buffers)


def _philox(
    counters: Sequence[Tensor], key: tuple[int, int], buffers: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Philox4x32-10: four words in the low halves of four of the six `buffers` (R, C), and the two that are left.

    A round: (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)). int64 products wrap to
    the right bits, and only a factor needs a clean upper half, so lo() is left out. The block number (1, C) and the rest
    of the counter (R, 1) meet in the first rounds, of which most is therefore small.
    """
    schedule = [[(k + r * w) & _LOW for k, w in zip(key, (_W0, _W1), strict=True)] for r in range(10)]
    keys = torch.tensor(schedule, device="cpu")  # 0-dim CPU operands, as _scalars
    a, b, c, d, p, q = buffers
    block, stage, low, high = counters

    (k0, k1), (l0, l1), *later = (k.unbind() for k in keys.unbind())
    p0, p1 = block * _M0, low * _M1
    c0 = ((p1 >> _32) ^ stage ^ k0) & _MASK  # (R, 1); p1 too, while p0 is (1, C)
    torch.bitwise_xor(((p0 >> _32) ^ k1) & _MASK, high, out=c)

    r0, r1 = c0 * _M0, torch.mul(c, _M1, out=b)
    torch.bitwise_right_shift(r1, _32, out=a).bitwise_xor_(p1 ^ l0).bitwise_and_(_MASK)
    torch.bitwise_xor((r0 >> _32) ^ l1, p0, out=c).bitwise_and_(_MASK)

    d.copy_(r0.expand_as(d))
    for k0, k1 in later:
        torch.mul(a, _M0, out=p)
        torch.mul(c, _M1, out=q)
        torch.bitwise_right_shift(q, _32, out=a).bitwise_xor_(b).bitwise_xor_(k0).bitwise_and_(_MASK)
        torch.bitwise_right_shift(p, _32, out=c).bitwise_xor_(d).bitwise_xor_(k1).bitwise_and_(_MASK)
        b, d, p, q = q, p, d, b
    return [a, b, c, d], [p, q]


def _box_muller(words: Sequence[Tensor], spare: Sequence[Tensor], out: Tensor) -> None:
    """Write r cos theta, r sin theta of word pairs (0, 1) and (2, 3) to `out` (4, R, C); overwrites its arguments."""
    size = (2, *words[0].shape)
    u, angle = spare[0].view(torch.float32).view(size), spare[1].view(torch.int32).view(size)
    for k in (0, 1):
        u[k].copy_(words[2 * k].bitwise_and_(_MASK))
        angle[k].copy_(words[2 * k + 1])
    f, t, s, z = (w.view(torch.float32).view(size) for w in words)

    bits, e = u.mul_(_2_32).add_(_2_33).view(torch.int32), t.view(torch.int32)
    torch.sub(_SPLIT, bits, out=e).bitwise_right_shift_(_23)  # u = m / 2^e, sqrt(1/2) <= m < sqrt(2)
    f.copy_(e)
    bits.add_(e.bitwise_left_shift_(_23))
    torch.sub(u, _ONE, out=t).div_(u.add_(_ONE))  # s = (m - 1)/(m + 1)
    _horner(_LOG, torch.mul(t, t, out=z), out=s).mul_(t)
    r = _sqrt(f.mul_(_LOG_4).add_(s), z, t)

    x = u.copy_(torch.bitwise_left_shift(angle, _1, out=e)).mul_(_2_31)  # theta = pi x / 2, |x| <= 1, and then
    sign = angle.bitwise_and_(_SIGN)  # the sign of the cosine
    torch.mul(x, x, out=t)
    torch.mul(_horner(_SIN, t, out=s).mul_(x), r, out=out[2:])
    _horner(_COS, t, out=s).mul_(torch.sub(x, _ONE, out=t)).mul_(x.add_(_ONE)).mul_(r)
    torch.bitwise_xor(s.view(torch.int32), sign, out=out.view(torch.int32)[:2])


def _sqrt(x: Tensor, y: Tensor, spare: Tensor) -> Tensor:
    """sqrt(x) in y, x >= +0: halve the exponent (3.5 % off), then Heron's y <- (y + x/y)/2 thrice; sqrt(0) is 1e-20.

    Not `torch.sqrt`, which is not the correctly rounded root on every machine: vector libraries err in the last bit.
    """
    torch.bitwise_right_shift(x.view(torch.int32), _1, out=y.view(torch.int32)).add_(_HALFWAY)
    for _ in range(3):
        y.add_(torch.div(x, y, out=spare)).mul_(_HALF)
    return y


def _horner(coefficients: Sequence[Tensor], x: Tensor, out: Tensor) -> Tensor:
    """sum_i c_i x^i, one multiplication or addition at a time: a fused one would round differently here and there."""
    *rest, second, last = coefficients
    torch.mul(x, last, out=out).add_(second)
    for c in reversed(rest):
        out.mul_(x).add_(c)
    return out


def _check(name: str, value: object, stop: int, low: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) < stop:
        raise ArgumentError(f"{name} is {value!r}; it must be an int in [{low}, {stop})")


def _integers(name: str, values: Iterable[int] | Tensor, stop: int) -> Tensor:
    """A validated (N,) int64 tensor on the CPU."""
    if isinstance(values, Tensor):
        if values.ndim != 1 or values.is_floating_point() or values.dtype is torch.bool:
            raise ArgumentError(f"{name} is a {values.dtype} tensor of shape {tuple(values.shape)}; give integers (N,)")
        ids = values.to("cpu", torch.int64)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < stop:
            raise ArgumentError(f"{name} spans {int(ids.min())} to {int(ids.max())}; it must lie in [0, {stop})")
        return ids
    if not isinstance(values, Iterable):
        raise ArgumentError(f"{name} is {values!r}; give a list or a tensor of integers, one for each row")
    listed = list(values)
    for value in listed:
        _check(name, value, stop)
    return torch.tensor([int(value) for value in listed], dtype=torch.int64, device="cpu")


def _floating(dtype: torch.dtype) -> torch.dtype:
    if not dtype.is_floating_point:
        raise ArgumentError(f"dtype is {dtype}; it must be a floating-point type (integers() draws integers)")
    return dtype
