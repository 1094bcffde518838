"""Noise: Philox against its published vectors and plain integers, floats against float64, and purity bit for bit."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reverie.base import DATA, HOOK, PLAN, PRIOR, TRAIN, ArgumentError, Noise
from reverie.base import noise as module

WORD = 0xFFFFFFFF
word32 = st.integers(0, WORD)


def philox(counter, key):
    """Philox4x32-10 in Python integers, from the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & WORD, (p0 >> 32) ^ c[3] ^ k[1], p0 & WORD]
        k = [(k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD]
    return c


def words(size, seed, sample, stage, stream):
    """The word of each element of one sample: element e is word e div m of counter e mod m."""
    m = -(-size // 4)
    key = (seed & WORD, seed >> 32)
    found = [philox((b, stage, sample & WORD, (sample >> 32) | (stream << 16)), key) for b in range(m)]
    return [found[e % m][e // m] for e in range(4 * m)], m


def in_tensors(counter, key):
    columns = [torch.tensor([[c]]) for c in counter]
    found, _ = module._philox(columns, key, list(torch.empty(6, 1, 1, dtype=torch.int64)))
    return [int(w) & WORD for w in found]


def bits(x):
    return x.view(torch.int32)


def same(a, b):
    return a.shape == b.shape and torch.equal(bits(a), bits(b))


# --- the integers


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, answer):
    assert in_tensors(counter, key) == list(answer)
    assert philox(counter, key) == list(answer)


@settings(max_examples=50, deadline=None)
@given(st.tuples(word32, word32, word32, word32), st.tuples(word32, word32))
def test_philox_agrees_with_python_integers(counter, key):
    assert in_tensors(counter, key) == philox(counter, key)


# --- the floats, from address to value


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**48 - 1),
    word32,
    st.integers(0, 2**14 - 1),
    st.sampled_from([1, 3, 4, 35]),
)
def test_a_normal_is_box_muller_of_the_words_at_its_address(seed, sample, stage, stream, size):
    w, m = words(size, seed, sample, stage, stream)
    truth = []
    for e in range(size):
        lane, block = divmod(e, m)
        first, second = w[2 * (lane % 2) * m + block], w[(2 * (lane % 2) + 1) * m + block]
        radius = math.sqrt(-2.0 * math.log((first + 0.5) / 2**32))
        angle = math.pi / 2 * (((second << 1) + 2**31) % 2**32 - 2**31) / 2**31
        cosine = math.cos(angle) * (-1 if second >> 31 else 1)
        truth.append(radius * (cosine if lane < 2 else math.sin(angle)))
    drawn = Noise(seed).normal((size,), index=[sample], stage=stage, stream=stream)[0]
    assert torch.allclose(drawn.double(), torch.tensor(truth, dtype=torch.float64), rtol=1e-5, atol=2e-6)


def test_the_floats_are_within_five_units_in_the_last_place():
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    w = [torch.randint(0, 2**32, (1, n), generator=generator) for _ in range(4)]
    w[0][0, :1000], w[0][0, 1000:2000] = torch.arange(1000), WORD - torch.arange(1000)  # both ends of the logarithm
    first, second = (x.numpy().copy()[0] for x in w[:2])
    out = torch.empty(4, 1, n)
    module._box_muller(w, list(torch.empty(2, 1, n, dtype=torch.int64)), out)

    u = (first.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)).astype(np.float64)
    x = (((second << 1) + 2**31) % 2**32 - 2**31).astype(np.float32).astype(np.float64) * 2.0**-31
    radius, sign = np.sqrt(-2.0 * np.log(u)), np.where(second >> 31, -1.0, 1.0)
    for drawn, wave in ((out[0, 0], sign * np.sin(np.pi / 2 * (1 - np.abs(x)))), (out[2, 0], np.sin(np.pi / 2 * x))):
        truth = radius * wave
        inside = truth != 0.0
        error = np.abs(drawn.double().numpy() - truth) / np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
        assert error[inside].max() < 5.0
        assert error[inside].mean() < 0.8
        assert drawn.abs()[~torch.from_numpy(inside)].sum() < 1e-15


def test_the_root_is_within_an_ulp_and_the_same_wherever_it_stands():
    x = torch.cat([torch.logspace(-7, 1.7, 40_001), torch.tensor([0.0])])
    root = module._sqrt(x.clone(), torch.empty_like(x), torch.empty_like(x))
    truth = x[:-1].double().sqrt()
    assert ((root[:-1].double() - truth).abs() <= 1.2e-7 * truth).all()
    assert 0.0 <= root[-1] < 1e-19
    for k in (1, 7, 33):
        part = x[k : k + 5].clone()
        assert same(module._sqrt(part, torch.empty(5), torch.empty(5)), root[k : k + 5])


@pytest.mark.parametrize("word", [0, WORD, 1 << 31, (1 << 31) - 1])
def test_extreme_words_give_finite_normals_and_open_uniforms(monkeypatch, word):
    def constant(counters, key, buffers):
        return [b.fill_(word | (5 << 40)) for b in buffers[:4]], buffers[4:]  # with rubbish in the upper half

    monkeypatch.setattr(module, "_philox", constant)
    normal, uniform = Noise().normal((8,), index=[0]), Noise().uniform((8,), index=[0])
    assert normal.isfinite().all()
    assert normal.abs().max() <= 6.77
    assert ((uniform > 0) & (uniform < 1)).all()
    assert Noise().integers(7, (8,), index=[0])[0].tolist() == [word * 7 >> 32] * 8
    if word == 0:  # the farthest draw there is: u = 2^-33 at angle 0
        assert normal[0, 0].item() == pytest.approx(math.sqrt(2 * 33 * math.log(2)), rel=1e-6)


def test_uniforms_and_integers_are_functions_of_their_words():
    w, _ = words(6, 5, 9, 3, 2 | 1 << 15)
    expected = [((x >> 9) + 0.5) / 2**23 for x in w[:6]]
    assert Noise(5).uniform((2, 3), index=[9], stage=3, stream=2).flatten().tolist() == expected
    w, _ = words(6, 5, 9, 3, 2 | 1 << 14)
    for high in (1, 10, 1 << 31):
        found = Noise(5).integers(high, (2, 3), index=[9], stage=3, stream=2)
        assert found.dtype is torch.int64
        assert found.flatten().tolist() == [x * high >> 32 for x in w[:6]]


# --- purity


@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (4, 4, 4), (1, 33, 3)])
def test_a_draw_is_the_same_alone_in_a_batch_reordered_and_in_any_chunk(monkeypatch, shape):
    noise, index, stages = Noise(11), [4, 0, 2**47 + 3, 9, 4], [7, 0, 2**32 - 1]
    whole = noise.normals(shape, index=index, stages=stages, stream=PLAN)
    assert whole.shape == (3, 5, *shape)
    for (k, stage), (i, sample) in itertools.product(enumerate(stages), enumerate(index)):
        assert same(noise.normal(shape, index=[sample], stage=stage, stream=PLAN)[0], whole[k, i])
    order = torch.tensor([3, 1, 4, 0, 2])
    assert same(noise.normals(shape, index=torch.tensor(index)[order], stages=stages, stream=PLAN), whole[:, order])
    uniform, integers = noise.uniform(shape, index=index), noise.integers(10**6, shape, index=index)
    for chunk in (1, 2, 5, 16):
        monkeypatch.setattr(module, "_CHUNK_CPU", chunk)
        assert same(noise.normals(shape, index=index, stages=stages, stream=PLAN), whole)
        assert same(noise.uniform(shape, index=index), uniform)
        assert torch.equal(noise.integers(10**6, shape, index=index), integers)


def test_a_draw_is_the_same_for_any_number_of_threads():
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            drawn.append(Noise(2).normals((3, 129, 97), index=range(3), stages=range(2)))
    finally:
        torch.set_num_threads(before)
    assert same(drawn[0], drawn[1])
    assert same(drawn[0], drawn[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_draw_is_the_same_on_cuda():
    here, there = (Noise(2).normals((3, 65, 67), index=range(3), stages=range(2), device=d) for d in ("cpu", "cuda"))
    assert same(here, there.cpu())


def test_neither_torchs_generator_nor_the_default_device_or_type_matters():
    state, first = torch.get_rng_state(), Noise(4).normal((9,), index=[1])
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert same(Noise(4).normal((9,), index=[1]), first)
    finally:
        torch.set_default_dtype(torch.float32)


def test_other_types_are_conversions_of_the_float32_draw():
    single = Noise(4).normal((50,), index=[1, 2])
    double = Noise(4).normal((50,), index=[1, 2], dtype=torch.float64)
    assert double.dtype is torch.float64
    assert torch.equal(double, single.double())
    assert torch.equal(Noise(4).normal((50,), index=[1, 2], dtype=torch.bfloat16), single.bfloat16())
    uniform = Noise(4).uniform((50,), index=[1])
    assert torch.equal(Noise(4).uniform((50,), index=[1], dtype=torch.float64), uniform.double())


def test_every_part_of_the_address_matters():
    base = {"seed": 1, "index": 5, "stage": 2, "stream": PRIOR}
    others = [{"seed": s} for s in (0, 2, 1 + 2**32, 2**64 - 1)]
    others += [{"index": i} for i in (4, 6, 5 + 2**32, 2**48 - 1)]
    others += [{"stage": s} for s in (1, 3, 2**32 - 1)] + [{"stream": s} for s in (PLAN, HOOK, DATA, TRAIN, 2**14 - 1)]
    others += [{"index": 2, "stage": 5}]
    drawn = []
    for change in ({}, *others):
        at = base | change
        noise = Noise(at["seed"])
        for draw in (noise.normal, noise.uniform):
            drawn.append(draw((64,), index=[at["index"]], stage=at["stage"], stream=at["stream"])[0])
    for a, b in itertools.combinations(drawn, 2):
        assert (a == b).sum() == 0


# --- the law


@pytest.fixture(scope="module")
def normals():
    return Noise(123).normals((20_000,), index=[0, 1], stages=range(5)).double().reshape(10, -1)


def test_normals_have_the_law_of_normals(normals):
    x = normals.flatten().numpy()
    n = len(x)
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert stats.kstest(x, "norm").pvalue > 1e-3
    for level in (1.0, 2.0, 3.0, 4.0):
        for tail in ((x > level).sum(), (x < -level).sum()):
            p = stats.norm.sf(level)
            assert abs(tail - n * p) < 4.5 * (n * p) ** 0.5 + 1


def test_normals_of_neighbours_are_independent(normals):
    quarter = 5000  # a counter's four draws stand this far apart
    row = normals[0]
    pairs = [(normals[k], normals[k + 1]) for k in range(9)]  # neighbouring samples and stages
    pairs += [(row[:-1], row[1:]), (row[:-2], row[2:])]
    pairs += [(row[:-k], row[k:]) for k in (quarter, 2 * quarter, 3 * quarter)]
    pairs += [(row, stats.norm.ppf(Noise(123).uniform((20_000,), index=[0])[0].double()))]
    pairs += [(row, Noise(124).normal((20_000,), index=[0])[0].double())]
    for a, b in pairs:
        a, b = np.asarray(a), np.asarray(b)
        for f in (lambda z: z, np.square, np.abs, np.sign):
            assert abs(np.corrcoef(f(a), f(b))[0, 1]) < 4.5 / len(a) ** 0.5


def test_uniforms_and_integers_have_their_laws():
    u = Noise(7).uniform((100_000,), index=[0, 1]).double().numpy().ravel()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    counts = np.bincount(Noise(7).integers(13, (65_000,), index=[0, 1]).numpy().ravel(), minlength=13)
    assert len(counts) == 13
    assert stats.chisquare(counts).pvalue > 1e-3


# --- the edges


def test_nothing_asked_gives_nothing():
    assert Noise().normal((3,), index=[]).shape == (0, 3)
    assert Noise().normal((0, 2), index=[1, 2]).shape == (2, 0, 2)
    assert Noise().normals((3,), index=[1], stages=[]).shape == (0, 1, 3)


def test_numpy_integers_are_integers():
    a = Noise(np.uint64(2**63)).normal((3,), index=np.arange(2), stage=np.int64(4))
    assert same(a, Noise(2**63).normal((3,), index=[0, 1], stage=4))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "0", True, None])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ArgumentError, match="seed is"):
        Noise(seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": [-1]}, "index is -1"),
        ({"index": [0, 2**48]}, "index is 281474976710656"),
        ({"index": [0.5]}, "index is 0.5"),
        ({"index": 3}, "index is 3; give a list"),
        ({"index": torch.tensor([0, -2])}, "index spans -2 to 0"),
        ({"index": torch.tensor([2**48])}, "index spans 2814"),
        ({"index": torch.tensor([0.0])}, "index is a torch.float32"),
        ({"index": torch.tensor([[0]])}, r"shape \(1, 1\)"),
        ({"index": torch.tensor([True])}, "index is a torch.bool"),
        ({"stage": -1}, "stage is -1"),
        ({"stage": 2**32}, "stage is 4294967296"),
        ({"stream": 2**14}, "stream is 16384"),
        ({"shape": (2, -1)}, "shape is -1"),
        ({"shape": (2**20, 2**20)}, "number of elements"),
        ({"dtype": torch.int64}, "dtype is torch.int64"),
    ],
)
def test_an_address_out_of_range_is_refused(change, message):
    with pytest.raises(ArgumentError, match=message):
        Noise().normal(**{"shape": (2,), "index": [0]} | change)


@pytest.mark.parametrize("high", [0, 2**31 + 1, 2.5])
def test_a_range_of_integers_out_of_range_is_refused(high):
    with pytest.raises(ArgumentError, match="high is"):
        Noise().integers(high, (2,), index=[0])
