"""Sizes of the VLA: the published ones, and `DUMMY`, which a laptop trains."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from lwd.errors import ConfigError

FloatType = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """A SigLIP vision tower.

    Attributes:
        image, patch: side of the picture and of a patch, pixels; the patches fill the picture.
        width, depth, mlp, heads: of the transformer.
    """

    image: int
    patch: int
    width: int
    depth: int
    mlp: int
    heads: int

    def __post_init__(self) -> None:
        _positive(self)
        if self.image % self.patch or self.width % self.heads:
            raise ConfigError(
                f"SiglipConfig: patch {self.patch} must divide image {self.image}, "
                f"and heads {self.heads} must divide width {self.width}."
            )

    @property
    def tokens(self) -> int:
        """Tokens per picture."""
        return (self.image // self.patch) ** 2


@dataclass(frozen=True, kw_only=True)
class GemmaConfig:
    """A Gemma (1) decoder stack.

    Attributes:
        width, depth, mlp: of the residual stream, layers, feed-forward.
        heads, kv_heads, head_dim: query heads, key and value heads, size of each.
        rope_base: of the rotary position embedding.
    """

    width: int
    depth: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        _positive(self)
        _check_heads(self)


@dataclass(frozen=True, kw_only=True)
class Gemma3Config:
    """A Gemma 3 text decoder stack.

    Attributes:
        width, depth, mlp: of the residual stream, layers, feed-forward.
        heads, kv_heads, head_dim: query heads, key and value heads, size of each.
        query_scale: attention logits are divided by its square root.
        window: how many tokens back a local layer sees, itself included.
        global_every: every so many layers one sees everything; the others are local.
        rope_base, rope_base_local: of global and of local layers.
    """

    width: int
    depth: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    query_scale: float = 256.0
    window: int = 512
    global_every: int = 6
    rope_base: float = 1_000_000.0
    rope_base_local: float = 10_000.0

    def __post_init__(self) -> None:
        _positive(self)
        _check_heads(self)

    @property
    def global_layers(self) -> tuple[bool, ...]:
        """Which layers see everything, first layer first."""
        return tuple((i + 1) % self.global_every == 0 for i in range(self.depth))


@dataclass(frozen=True, kw_only=True)
class PiConfig:
    """A pi0 or pi0.5 policy.

    Attributes:
        variant: "pi05": the state is in the prompt, the flow time steers adaptive norms. "pi0": the state is a token
            of the suffix, the flow time is mixed into the action tokens.
        vision, language, expert: SigLIP, the backbone and the action expert; the latter two share attention.
        vocabulary: rows of the token table.
        action_dim: width of the published action vector; narrower chunks are padded with zeros and cut back.
        cameras: which pictures, in the order of the prefix. One that an observation lacks is left out of the prefix.
        prompt: the key of `Observation.prompts` that holds this network's tokens.
        prompt_tokens: length of the prompt; the tokenizer pads or cuts to it.
        parameters, compute: type of the parameters, and of the matrix products and activations of the transformers.
            bfloat16 parameters are for what is not trained (robots, servers, the reference): it has 8 bits of precision,
            so a step of AdamW at 2e-5 or of an average at 0.005 is mostly rounded away.
        remat: recompute activations in the backward pass.
    """

    vision: SiglipConfig
    language: GemmaConfig
    expert: GemmaConfig
    variant: Literal["pi0", "pi05"] = "pi05"
    vocabulary: int = 257_152
    action_dim: int = 32
    cameras: tuple[str, ...] = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    prompt: str = "paligemma"
    prompt_tokens: int = 200
    parameters: FloatType = "float32"
    compute: FloatType = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        _positive(self)
        a, b = self.language, self.expert
        for name in ("depth", "heads", "kv_heads", "head_dim", "rope_base"):
            if getattr(a, name) != getattr(b, name):
                raise ConfigError(
                    f"PiConfig: backbone and action expert share attention, so their {name} must be equal, "
                    f"got {getattr(a, name)} and {getattr(b, name)}."
                )
        if self.expert.width % 2:
            raise ConfigError(
                f"PiConfig: the expert's width must be even (sine and cosine), got {self.expert.width}."
            )


@dataclass(frozen=True, kw_only=True)
class VlaCriticConfig:
    """Value and critic on a vision-language backbone (Section 6 of the paper).

    Attributes:
        vision, language: SigLIP and Gemma 3.
        vocabulary: rows of the token table.
        chunk_steps, action_dim: H and A of an action chunk.
        proprio_dim: P.
        cameras, prompt: as in `PiConfig`; the prompt is in Gemma 3's tokens.
        chunk_width, chunk_heads: of the temporal attention pooling.
        head_width, head_depth: hidden layers of value and critic heads.
        heads: critic heads (2 in the paper).
        atoms: K of the value's support (201 in the paper).
        parameters, compute, remat: as in `PiConfig`.
    """

    vision: SiglipConfig
    language: Gemma3Config
    chunk_steps: int
    action_dim: int
    proprio_dim: int
    vocabulary: int = 262_144
    cameras: tuple[str, ...] = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    prompt: str = "gemma3"
    chunk_width: int = 256
    chunk_heads: int = 4
    head_width: int = 512
    head_depth: int = 2
    heads: int = 2
    atoms: int = 201
    parameters: FloatType = "float32"
    compute: FloatType = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        _positive(self)
        if self.chunk_width % self.chunk_heads:
            raise ConfigError(
                f"VlaCriticConfig: chunk_heads {self.chunk_heads} must divide chunk_width {self.chunk_width}."
            )


def _positive(config: Any) -> None:
    """Refuse sizes below 1 and empty camera tuples."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
            raise ConfigError(f"{type(config).__name__}.{field.name} must be positive, got {value}.")


def _check_heads(config: GemmaConfig | Gemma3Config) -> None:
    """Query heads share key heads evenly; rotary embeddings need pairs."""
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise ConfigError(
            f"{type(config).__name__}: kv_heads {config.kv_heads} must divide heads {config.heads}, "
            f"and head_dim {config.head_dim} must be even."
        )


SO400M_224 = SiglipConfig(image=224, patch=14, width=1152, depth=27, mlp=4304, heads=16)
GEMMA_2B = GemmaConfig(width=2048, depth=18, mlp=16_384, heads=8, kv_heads=1, head_dim=256)
GEMMA_300M = GemmaConfig(width=1024, depth=18, mlp=4096, heads=8, kv_heads=1, head_dim=256)
GEMMA3_270M = Gemma3Config(width=640, depth=18, mlp=2048, heads=4, kv_heads=1, head_dim=256)

PI05 = PiConfig(
    vision=SO400M_224,
    language=GEMMA_2B,
    expert=GEMMA_300M,
    compute="bfloat16",
    remat=True,
)
PI0 = PiConfig(
    vision=SO400M_224,
    language=GEMMA_2B,
    expert=GEMMA_300M,
    variant="pi0",
    prompt_tokens=48,
    compute="bfloat16",
    remat=True,
)

_SIGLIP_DUMMY = SiglipConfig(image=56, patch=14, width=32, depth=2, mlp=64, heads=4)
DUMMY = PiConfig(
    vision=_SIGLIP_DUMMY,
    language=GemmaConfig(width=64, depth=2, mlp=128, heads=4, kv_heads=1, head_dim=16),
    expert=GemmaConfig(width=32, depth=2, mlp=64, heads=4, kv_heads=1, head_dim=16),
    vocabulary=512,
    prompt="bytes",
    prompt_tokens=96,
)


def critic_270m(chunk_steps: int, action_dim: int, proprio_dim: int) -> VlaCriticConfig:
    """The paper's value and critic: Gemma 3 270M with SigLIP So400m."""
    return VlaCriticConfig(
        vision=SO400M_224,
        language=GEMMA3_270M,
        chunk_steps=chunk_steps,
        action_dim=action_dim,
        proprio_dim=proprio_dim,
        compute="bfloat16",
        remat=True,
    )


def critic_dummy(chunk_steps: int, action_dim: int, proprio_dim: int) -> VlaCriticConfig:
    """The same shape at a size for tests: two layers of each kind of attention."""
    return VlaCriticConfig(
        vision=_SIGLIP_DUMMY,
        language=Gemma3Config(
            width=32,
            depth=4,
            mlp=64,
            heads=2,
            kv_heads=1,
            head_dim=16,
            query_scale=16.0,
            window=32,
            global_every=2,
        ),
        chunk_steps=chunk_steps,
        action_dim=action_dim,
        proprio_dim=proprio_dim,
        vocabulary=512,
        prompt="bytes",
        chunk_width=32,
        head_width=64,
    )
