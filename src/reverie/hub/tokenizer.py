"""The tokenizer of a small text-to-image model: CLIP's, with each word of the captions one token.

CLIP's tokenizer joins bytes by pairs. For a word in turn, the merges so far are applied and a new one, of lower priority, joins the first two pieces
until one is left. A new merge is never taken while an older one applies, so it cannot undo the words before it.

Sources: Radford et al. 2021 (2103.00020); Sennrich et al. 2016 (1508.07909) for the merges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.base import ArgumentError, Noise, unknown
from reverie.data import caption, scenes

__all__ = ["caption_words", "check_words", "cut", "make_tokenizer", "texts_of", "tokens", "too_long", "write_tokenizer"]

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDINGS = 0x5A8  # stream of the wordings that `caption_words` looks at
_WORD = re.compile(r"[^\W\d_]+")


def missing() -> ArgumentError:
    """The error where diffusers or transformers is not installed."""
    return ArgumentError("pipelines need diffusers and transformers: pip install 'reverie[diffusers]'")


@lru_cache(maxsize=1)
def caption_words() -> tuple[str, ...]:
    """Every word and sign of the captions of drawn scenes, sorted: those of 2000 captions.

    >>> [w for w in caption_words() if w.startswith("c")]
    ['center', 'circle', 'circles', 'corner', 'cross', 'crosses', 'cyan']
    """
    some = scenes(2000)
    wordings = Noise(0).uniform((32,), range(len(some)), stream=_WORDINGS).tolist()
    said = " ".join(caption(scene, wording) for scene, wording in zip(some, wordings, strict=True))
    return tuple(sorted(set(re.findall(r"\w+|[^\w\s]", said))))


def _bytes() -> list[str]:
    """The 256 letters by which byte-level pairs write bytes, in CLIP's order: printable ones as themselves, the others from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + k) for k in range(len(others))]


def _merge(pieces: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Byte pair encoding: the pair of highest priority is joined, until no pair has one."""
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not pairs:
            return pieces
        i = min(pairs)[1]
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]


def _vocabulary(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> number, and the merges in order of priority, that make each word one token."""
    letters = _bytes()
    vocabulary = {piece: i for i, piece in enumerate([*letters, *(b + "</w>" for b in letters)])}
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        if not word or not word.isascii() or not set(word) <= set(letters):
            raise ArgumentError(f"a word of the vocabulary is written in ASCII letters or signs, got {word!r}")
        while len(pieces := _merge(pieces, ranks)) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            vocabulary.setdefault(pieces[0] + pieces[1], len(vocabulary))
    for special in (_START, _END):
        vocabulary[special] = len(vocabulary)
    return vocabulary, list(ranks)


def make_tokenizer(words: Iterable[str] | None = None, length: int = 32) -> Any:
    """A `CLIPTokenizer` in which each of some words is one token; other words fall into letters.

    Args:
        words: lower case, those of the captions (`caption_words`) by default. length: tokens of a prompt at most, start and end included.

    Raises:
        ArgumentError: a length below 3, a word that is not ASCII, or transformers is missing.

    >>> make_tokenizer().tokenize("Two small red circles, above a star")
    ['two</w>', 'small</w>', 'red</w>', 'circles</w>', ',</w>', 'above</w>', 'a</w>', 'star</w>']
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 3:
        raise ArgumentError(f"length is a number of tokens, at least 3, got {length!r}")
    try:
        from transformers import CLIPTokenizer
    except ImportError:
        raise missing() from None
    vocabulary, merges = _vocabulary(caption_words() if words is None else sorted(set(words)))
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)  # type: ignore[arg-type]


def texts_of(prompts: Any) -> list[str]:
    """One text or several as a list. Raises `ArgumentError` for what is none."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts) if isinstance(prompts, Sequence) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ArgumentError(f"a prompt is a str, or several are a list of them, got {prompts!r:.100}")
    return texts


def check_words(tokenizer: Any, texts: Iterable[str]) -> None:
    """Raise `UnknownNameError` for a word that is no token of CLIP's kind."""
    known = tokenizer.get_vocab()
    for text in texts:
        for word in _WORD.findall(text.lower()):
            if f"{word}</w>" not in known:
                plain = sorted({w.removesuffix("</w>") for w in known if w.endswith("</w>") and len(w) > 5})
                raise unknown(f"word in the prompt {text!r:.200},", word, [w for w in plain if w.isalpha()])


def cut(tokenizer: Any, numbers: Sequence[int], length: int) -> str:
    """What of a text, given as its tokens with those added, a reader of `length` tokens does not read."""
    return str(tokenizer.decode(list(numbers)[length - 1 : -1])).strip()


def too_long(tokenizer: Any, text: str, numbers: Sequence[int], length: int) -> ArgumentError:
    """The error for a prompt of more than `length` tokens."""
    added = tokenizer.num_special_tokens_to_add()
    return ArgumentError(
        f"the prompt {text!r:.200} has {len(numbers) - added} tokens, this model reads {length - added} at most; shorten it: "
        f"{cut(tokenizer, numbers, length)!r:.200} does not fit"
    )


def tokens(tokenizer: Any, prompts: str | Sequence[str], whole: bool = True) -> Tensor:
    """Prompts as token numbers `(N, length)`, filled up with the end token, as Stable Diffusion's pipeline has them.

    Args:
        whole: whether a word that the vocabulary lacks, and that would fall into letters which no training saw, is an error.

    Raises:
        ArgumentError: no text, a prompt longer than the tokenizer's length. UnknownNameError: with `whole`, a word that is no token.

    >>> words = make_tokenizer()
    >>> tokens(words, ["a red star", ""]).shape
    torch.Size([2, 32])
    """
    texts = texts_of(prompts)
    if whole:
        check_words(tokenizer, texts)
    length = tokenizer.model_max_length
    numbers = tokenizer(texts, padding="max_length", max_length=length, truncation=False, return_tensors=None).input_ids
    for text, row in zip(texts, numbers, strict=True):
        if len(row) > length:
            raise too_long(tokenizer, text, row, length)
    return torch.tensor(numbers, dtype=torch.long)


def write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """CLIP's own four files."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    write_json(folder / "vocab.json", model["vocab"])
    lines = ["#version: 0.2", *(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", special | config)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A file of JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
