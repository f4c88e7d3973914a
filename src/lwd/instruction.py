"""A sentence as a vector, without weights and without a download. NumPy only."""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError

_WORD = re.compile(r"\w+")
_BUCKETS_PER_FEATURE = 4


@dataclass(frozen=True, kw_only=True)
class InstructionEncoder:
    """Embeds an instruction by signed feature hashing (Weinberger et al. 2009).

    Features are the lower-cased words and the pairs of neighbouring words, with the sentence's two ends as
    words of their own. Each feature adds +1 or -1 to four places of the vector, picked by blake2b, so the
    vector is the same in every process, on every machine and for ever; case, punctuation and spacing do not
    count, word order does (except in sentences that repeat a word and keep the same pairs of neighbours). The
    result is scaled to the Euclidean norm sqrt(dim), so that a typical entry is of size 1, like a normalised
    network input.

    Instructions that share words have similar vectors; it tells the tasks of a fleet apart and knows nothing
    of meaning.

    Attributes:
        dim: E, length of the vector.
    """

    dim: int = 32

    def __post_init__(self) -> None:
        if self.dim < 8:
            raise ConfigError(
                f"InstructionEncoder: dim must be at least 8 to tell tasks apart, got {self.dim}."
            )

    @property
    def version(self) -> str:
        """Name and version of this embedding; a snapshot carries it, and only fits an encoder of the same
        name.
        """
        return f"hashed-bigrams-v1-{self.dim}"

    def __call__(self, instruction: str) -> NDArray[np.float32]:
        """The vector of a sentence: float32 [E], norm sqrt(E)."""
        words = ["<", *_WORD.findall(instruction.lower()), ">"]
        features = words[1:-1] + [f"{first} {second}" for first, second in itertools.pairwise(words)]
        total = np.zeros(self.dim, np.float64)
        for feature in features:
            digest = hashlib.blake2b(feature.encode(), digest_size=8 * _BUCKETS_PER_FEATURE).digest()
            for value in np.frombuffer(digest, "<u8").tolist():
                # The lowest bit is the sign, the rest picks the place: independent, so colliding features
                # cancel on average.
                total[(value >> 1) % self.dim] += 1.0 if value & 1 else -1.0
        norm = float(np.linalg.norm(total))
        return (total * (np.sqrt(self.dim) / norm if norm else 0.0)).astype(np.float32)
