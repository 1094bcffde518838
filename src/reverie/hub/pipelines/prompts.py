"""Prompts of a pipeline: what its tokenizers read of them, and what does not fit, which is told and never cut in silence.

A pipeline may have several text encoders of different lengths (CLIP 77 tokens, T5 256 or 512). A prompt must fit the longest of those that read it;
where it is too long for a shorter one, that one reads its beginning, and a warning says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reverie.base import ArgumentError
from reverie.hub.tokenizer import check_words, cut, texts_of, too_long

__all__ = ["Prompts", "Reader"]


@dataclass(frozen=True)
class Reader:
    """A tokenizer of a pipeline.

    Args:
        name: of the component. length: tokens that it reads, those that it adds included. slot: which of a pipeline's prompts it reads (0: prompt,
            1: prompt_2, 2: prompt_3).
    """

    name: str
    length: int
    slot: int = 0


@dataclass
class Prompts:
    """Checks prompts against a pipeline's tokenizers.

    Args:
        whole: whether a word that is no token is an error, see `hub.tokenizer.tokens`.
    """

    pipe: Any
    readers: Sequence[Reader]
    whole: bool = False
    _told: set[str] = field(default_factory=set)

    def check(self, prompt: Any, *others: Any) -> list[list[str] | None]:
        """A pipeline's prompts as lists of texts, the first and what else it takes (`prompt_2`, ...; None where it is not given).

        Raises:
            ArgumentError: no text, another number of texts than of the first prompt, a text longer than its longest reader can hold.
            UnknownNameError: with `whole`, a word that is no token.
        """
        given = [texts_of(prompt), *(None if other is None else texts_of(other) for other in others)]
        first = given[0]
        assert first is not None
        for slot, texts in enumerate(given[1:], 2):
            if texts is not None and len(texts) not in (1, len(first)):
                raise ArgumentError(
                    f"prompt_{slot} has {len(texts)} texts for {len(first)} prompts; give one, or one a prompt"
                )
        given = [texts if texts is None or len(texts) == len(first) else texts * len(first) for texts in given]
        for slot, texts in enumerate(given):
            read = [r for r in self.readers if (r.slot if self._has(given, r.slot) else 0) == slot]
            for text in texts or ():
                self._fit(text, read)
        return given

    @staticmethod
    def _has(given: Sequence[Any], slot: int) -> bool:
        return slot < len(given) and given[slot] is not None

    def _fit(self, text: str, readers: Sequence[Reader]) -> None:
        over = []
        for reader in readers:
            tokenizer = getattr(self.pipe, reader.name)
            if self.whole:
                check_words(tokenizer, [text])
            said = text
            if hasattr(self.pipe, "maybe_convert_prompt"):  # textual inversion: a word may be several vectors
                said = self.pipe.maybe_convert_prompt(text, tokenizer)
            numbers = tokenizer(said, truncation=False).input_ids
            if len(numbers) > reader.length:
                over.append((reader, tokenizer, numbers))
        if not over:
            return
        longest = max(reader.length for reader in readers)
        for reader, tokenizer, numbers in over:
            if reader.length == longest:
                raise too_long(tokenizer, text, numbers, reader.length)
        new = [entry for entry in over if entry[0].name not in self._told]
        self._told.update(reader.name for reader, _, _ in new)
        for reader, tokenizer, numbers in new:
            warnings.warn(
                f"the prompt {text!r:.200} is longer than the {reader.length} tokens of {reader.name}, which does not read "
                f"{cut(tokenizer, numbers, reader.length)!r}; the longer text encoder reads it whole. Said once.",
                UserWarning,
                stacklevel=2,
            )
