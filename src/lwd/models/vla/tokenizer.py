"""An instruction, and for pi0.5 the discretised state, as token ids. NumPy, and sentencepiece where a model file is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lwd.errors import ConfigError

BYTES = "bytes"
"""The key of prompts that are read without a tokenizer's file."""

_BINS = np.linspace(-1.0, 1.0, 256 + 1)[:-1]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids; 0 is padding and never comes out."""

    @property
    def size(self) -> int:
        """Every id is below it."""
        ...

    def encode(self, text: str, *, begin: bool = False) -> list[int]:
        """Ids of a text, behind the id of a text's begin if `begin`."""
        ...


class Bytes:
    """A tokenizer without a file, for `DUMMY` networks: byte b is id b + 3, the begin is 2 as in Gemma; 259 ids."""

    size = 259

    def encode(self, text: str, *, begin: bool = False) -> list[int]:
        """UTF-8 bytes."""
        return [2] * begin + [byte + 3 for byte in text.encode()]


class SentencePiece:
    """A sentencepiece model file, such as PaliGemma's or Gemma 3's tokenizer.model."""

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises:
            ConfigError: sentencepiece is not installed, or the file is missing or none.
        """
        try:
            import sentencepiece  # pyright: ignore[reportMissingImports] - optional: extra "vla"
        except ImportError as error:
            raise ConfigError(f"The tokenizer {path} needs sentencepiece: pip install 'lwd[vla]'.") from error
        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"{path} is no readable sentencepiece model ({error}). Give the tokenizer.model that belongs to the weights."
            ) from error

    @property
    def size(self) -> int:
        """How many pieces the model has."""
        return int(self._model.get_piece_size())

    def encode(self, text: str, *, begin: bool = False) -> list[int]:
        """Pieces of the model."""
        return [int(i) for i in self._model.encode(text, add_bos=begin)]


@dataclass(frozen=True, kw_only=True)
class Prompter:
    """Makes one entry of `Observation.prompts`.

    Attributes:
        tokenizer: of the network that reads the prompt.
        length: L, ids per prompt; shorter ones are padded with 0.
        variant: "pi05" writes the state into the prompt, "pi0" leaves it out.
    """

    tokenizer: Tokenizer
    length: int
    variant: Literal["pi0", "pi05"] = "pi05"

    def __call__(self, instruction: str, state: NDArray[Any]) -> NDArray[np.int32]:
        """The prompt's ids, int32 [L].

        Args:
            instruction: the task in words.
            state: [P], standardised with the policy's statistics; [-1, 1] holds nearly all of it.

        Raises:
            ConfigError: the prompt is longer than L. Cutting it would cut the state off.
        """
        text = clean(instruction)
        if self.variant == "pi05":
            ids = self.tokenizer.encode(with_state(text, state), begin=True)
        else:
            ids = [*self.tokenizer.encode(text, begin=True), *self.tokenizer.encode("\n")]
        if len(ids) > self.length:
            raise ConfigError(
                f"The prompt of {instruction!r} has {len(ids)} tokens, the network reads {self.length}: "
                "raise prompt_tokens in the network's configuration or shorten the instruction."
            )
        return np.pad(np.array(ids, np.int32), (0, self.length - len(ids)))


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Makes `Observation.prompts` of a batch, on the host: what replay and robots call.

    Attributes:
        prompters: by the key that networks look their tokens up under.
        mean, scale: [P], the statistics of the policy that reads the prompts; its state is part of them.
    """

    prompters: Mapping[str, Prompter]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    def __call__(
        self, instructions: Sequence[str], proprio: NDArray[np.float32]
    ) -> dict[str, NDArray[np.int32]]:
        """Token ids int32 [B, L] per key, from B instructions and proprio [B, P].

        Raises:
            ConfigError: a prompt is longer than its network reads.
        """
        states = np.clip((proprio - self.mean) / self.scale, -10.0, 10.0)  # as `Normalizer` does
        return {
            key: np.stack([prompter(*pair) for pair in zip(instructions, states, strict=True)])
            for key, prompter in self.prompters.items()
        }


def make_tokenizer(path: Path | None) -> Tokenizer:
    """The model file's, or bytes without one."""
    return Bytes() if path is None else SentencePiece(path)


def clean(instruction: str) -> str:
    """As published: outer spaces off, underscores and line ends to spaces."""
    return instruction.strip().replace("_", " ").replace("\n", " ")


def with_state(text: str, state: NDArray[Any]) -> str:
    """pi0.5's prompt: the task, then the state as bin numbers."""
    return f"Task: {text}, State: {' '.join(str(b) for b in discretise(state).tolist())};\nAction: "


def discretise(state: NDArray[Any]) -> NDArray[np.int64]:
    """Bin of every coordinate among 256 on [-1, 1], as published: -1 below the range, 255 above it."""
    return np.digitize(state, _BINS) - 1
