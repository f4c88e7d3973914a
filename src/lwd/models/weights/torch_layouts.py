"""Layouts of PyTorch checkpoints: Gemma, Gemma 3, SigLIP and PaliGemma of Hugging Face, pi0 and pi0.5 of LeRobot.

PyTorch keeps a linear layer as [out, in] and every layer under its own name. Names are those of LeRobot's released
safetensors without their common beginnings; `renames` brings other versions to them.
"""

from __future__ import annotations

from lwd.models.vla.config import Gemma3Config, GemmaConfig, PiConfig, SiglipConfig, VlaCriticConfig
from lwd.models.weights.rules import Layout, Rule

_LAYER = "layers.{i}."


def lerobot(config: PiConfig) -> Layout:
    """pi0 and pi0.5 of LeRobot (any release), of openpi's PyTorch port, and pi0 of transformers 5."""
    mixed = config.variant == "pi0"
    width, wide = config.expert.width, config.action_dim
    rules = _paligemma_rules(config)
    rules += _gemma_rules("expert.", "expert.", config.expert, None if mixed else width)
    rules += _linear("action_in", "action_in_proj", wide, width)
    rules += _linear("action_out", "action_out_proj", width, wide)
    time = "action_time_mlp" if mixed else "time_mlp"
    rules += _linear("time.first", f"{time}_in", 2 * width if mixed else width, width)
    rules += _linear("time.second", f"{time}_out", width, width)
    if mixed:
        rules += _linear("state", "state_proj", wide, width)
    return Layout(
        name=f"{config.variant} of LeRobot",
        rules=tuple(rules),
        renames=(
            (r"^model\.(?=paligemma_with_expert\.|action_|time_mlp|state_proj)", ""),
            (r"^paligemma_with_expert\.", ""),
            (r"^model\.vlm\.", "paligemma."),
            (r"^model\.dit\.", "expert."),
            (r"^embed_action_time\.", ""),
            (r"^gemma_expert\.model\.", "expert."),
            (r"^paligemma\.model\.", "paligemma."),
            *_PALIGEMMA_RENAMES,
        ),
        tied=(("paligemma.language_model.embed_tokens.weight", "paligemma.lm_head.weight"),),
        # A head for words that the expert never says, and statistics of LeRobot's first releases (now in the processor).
        ignored=(
            r"^gemma_expert\.lm_head\.weight$",
            r"^paligemma\.lm_head\.weight$",
            r"^expert\.embed_tokens\.weight$",
            r"^(un)?normalize_(inputs|targets)\.",
        ),
    )


def paligemma(config: PiConfig) -> Layout:
    """PaliGemma of Hugging Face, into a policy's vision tower, projection, token table and backbone."""
    return Layout(
        name="PaliGemma of Hugging Face",
        rules=tuple(_paligemma_rules(config)),
        renames=(
            (r"^model\.", ""),
            (r"^(?=vision_tower\.|language_model\.|multi_modal_projector\.|lm_head\.)", "paligemma."),
            *_PALIGEMMA_RENAMES,
        ),
        tied=(("paligemma.language_model.embed_tokens.weight", "paligemma.lm_head.weight"),),
        ignored=(r"^paligemma\.lm_head\.weight$",),
    )


def gemma(
    config: GemmaConfig, vocabulary: int, *, tokens: str = "tokens", stack: str = "language."
) -> Layout:
    """Gemma of Hugging Face, into a token table and a stack at these paths."""
    rules = [Rule(ours=tokens, theirs="embed_tokens.weight", shape=(vocabulary, config.width))]
    rules += _gemma_rules(stack, "", config, None)
    return Layout(
        name="Gemma of Hugging Face",
        rules=tuple(rules),
        renames=((r"^model\.", ""),),
        tied=(("embed_tokens.weight", "lm_head.weight"),),
        ignored=(r"^lm_head\.weight$",),
    )


def gemma3(
    config: Gemma3Config,
    vocabulary: int,
    *,
    tokens: str = "backbone.tokens",
    stack: str = "backbone.language.",
) -> Layout:
    """Gemma 3 text of Hugging Face, into a token table and a stack at these paths."""
    rules = [Rule(ours=tokens, theirs="embed_tokens.weight", shape=(vocabulary, config.width))]
    rules += _gemma3_rules(stack, config)
    return Layout(
        name="Gemma 3 of Hugging Face",
        rules=tuple(rules),
        renames=((r"^(model\.)?language_model\.(model\.)?", ""), (r"^model\.", "")),
        tied=(("embed_tokens.weight", "lm_head.weight"),),
        ignored=(r"^lm_head\.weight$",),
    )


def gemma3_of(config: VlaCriticConfig) -> Layout:
    """Gemma 3 into a critic's backbone."""
    return gemma3(config.language, config.vocabulary)


def siglip(config: SiglipConfig, *, tower: str = "backbone.vision.") -> Layout:
    """SigLIP of Hugging Face (the vision half of a two-tower checkpoint, or alone), into a tower at this path."""
    return Layout(
        name="SigLIP of Hugging Face",
        rules=tuple(_siglip_rules(tower, "", config)),
        renames=((r"^vision_model\.", ""),),
        # The other tower, the pooling head and the contrastive loss's two scalars.
        ignored=(r"^text_model\.", r"^head\.", r"^logit_(scale|bias)$"),
    )


LEROBOT_EXPORT: tuple[tuple[str, str], ...] = (
    (
        r"^paligemma\.vision_tower\.",
        "model.paligemma_with_expert.paligemma.model.vision_tower.vision_model.",
    ),
    (
        r"^paligemma\.(?=language_model\.|multi_modal_projector\.)",
        "model.paligemma_with_expert.paligemma.model.",
    ),
    (r"^paligemma\.lm_head\.", "model.paligemma_with_expert.paligemma.lm_head."),
    (r"^expert\.", "model.paligemma_with_expert.gemma_expert.model."),
    (r"^gemma_expert\.lm_head\.", "model.paligemma_with_expert.gemma_expert.lm_head."),
    (r"^(?=action_|time_mlp|state_proj)", "model."),
)
"""From the rules' names to those that LeRobot writes and reads."""

_PALIGEMMA_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^paligemma\.language_model\.lm_head\.", "paligemma.lm_head."),
    (r"^paligemma\.language_model\.model\.", "paligemma.language_model."),
    (r"^paligemma\.vision_tower\.vision_model\.", "paligemma.vision_tower."),
)


def _paligemma_rules(config: PiConfig) -> list[Rule]:
    rules = [
        Rule(
            ours="tokens",
            theirs="paligemma.language_model.embed_tokens.weight",
            shape=(config.vocabulary, config.language.width),
            padded=True,  # Hugging Face's PaliGemma has 257,216 rows, up to a multiple of 64
        )
    ]
    rules += _siglip_rules("vision.", "paligemma.vision_tower.", config.vision)
    rules += _linear(
        "project",
        "paligemma.multi_modal_projector.linear",
        config.vision.width,
        config.language.width,
    )
    return rules + _gemma_rules("language.", "paligemma.language_model.", config.language, None)


def _gemma_rules(ours: str, theirs: str, config: GemmaConfig, condition: int | None) -> list[Rule]:
    names = (("pre_attention", "input_layernorm"), ("pre_mlp", "post_attention_layernorm"))
    rules = _attention_and_mlp(ours, theirs, config)
    for mine, yours in names:
        rules += _norm(
            f"{ours}layers.{mine}", f"{theirs}{_LAYER}{yours}", config.width, condition, config.depth
        )
    return rules + _norm(f"{ours}final_norm", f"{theirs}norm", config.width, condition, None)


def _gemma3_rules(ours: str, config: Gemma3Config) -> list[Rule]:
    names = {
        "pre_attention": ("input_layernorm", config.width),
        "post_attention": ("post_attention_layernorm", config.width),
        "pre_mlp": ("pre_feedforward_layernorm", config.width),
        "post_mlp": ("post_feedforward_layernorm", config.width),
        "q_norm": ("self_attn.q_norm", config.head_dim),
        "k_norm": ("self_attn.k_norm", config.head_dim),
    }
    rules = _attention_and_mlp(ours, "", config)
    for mine, (yours, width) in names.items():
        rules += _norm(f"{ours}layers.{mine}", f"{_LAYER}{yours}", width, None, config.depth)
    return rules + _norm(f"{ours}final_norm", "norm", config.width, None, None)


def _attention_and_mlp(ours: str, theirs: str, config: GemmaConfig | Gemma3Config) -> list[Rule]:
    width, queries, keys = (
        config.width,
        config.heads * config.head_dim,
        config.kv_heads * config.head_dim,
    )
    sizes = {
        "q": ("self_attn.q_proj", width, queries),
        "k": ("self_attn.k_proj", width, keys),
        "v": ("self_attn.v_proj", width, keys),
        "o": ("self_attn.o_proj", queries, width),
        "mlp.gate": ("mlp.gate_proj", width, config.mlp),
        "mlp.up": ("mlp.up_proj", width, config.mlp),
        "mlp.down": ("mlp.down_proj", config.mlp, width),
    }
    rules: list[Rule] = []
    for mine, (yours, inputs, outputs) in sizes.items():
        rules += _linear(
            f"{ours}layers.{mine}", f"{theirs}{_LAYER}{yours}", inputs, outputs, config.depth, bias=False
        )
    return rules


def _siglip_rules(ours: str, theirs: str, config: SiglipConfig) -> list[Rule]:
    width, patch = config.width, config.patch
    rules = [
        Rule(
            ours=f"{ours}patches.weight",
            theirs=f"{theirs}embeddings.patch_embedding.weight",
            shape=(width, 3, patch, patch),
            axes=(2, 3, 1, 0),
        ),
        Rule(ours=f"{ours}patches.bias", theirs=f"{theirs}embeddings.patch_embedding.bias", shape=(width,)),
        Rule(
            ours=f"{ours}positions",
            theirs=f"{theirs}embeddings.position_embedding.weight",
            shape=(config.tokens, width),
        ),
    ]
    sizes = {
        "q": ("self_attn.q_proj", width, width),
        "k": ("self_attn.k_proj", width, width),
        "v": ("self_attn.v_proj", width, width),
        "o": ("self_attn.out_proj", width, width),
        "up": ("mlp.fc1", width, config.mlp),
        "down": ("mlp.fc2", config.mlp, width),
    }
    layer = f"{theirs}encoder.{_LAYER}"
    for mine, (yours, inputs, outputs) in sizes.items():
        rules += _linear(f"{ours}layers.{mine}", layer + yours, inputs, outputs, config.depth)
    for mine, yours in (("pre_attention", "layer_norm1"), ("pre_mlp", "layer_norm2")):
        rules += _layer_norm(f"{ours}layers.{mine}", layer + yours, width, config.depth)
    return rules + _layer_norm(f"{ours}final_norm", f"{theirs}post_layernorm", width, None)


def _linear(
    ours: str, theirs: str, inputs: int, outputs: int, layers: int | None = None, *, bias: bool = True
) -> list[Rule]:
    rules = [
        Rule(
            ours=f"{ours}.weight",
            theirs=f"{theirs}.weight",
            shape=(outputs, inputs),
            axes=(1, 0),
            layers=layers,
        )
    ]
    if bias:
        rules.append(Rule(ours=f"{ours}.bias", theirs=f"{theirs}.bias", shape=(outputs,), layers=layers))
    return rules


def _norm(ours: str, theirs: str, width: int, condition: int | None, layers: int | None) -> list[Rule]:
    if condition is None:
        return [Rule(ours=f"{ours}.scale", theirs=f"{theirs}.weight", shape=(width,), layers=layers)]
    return _linear(f"{ours}.modulate", f"{theirs}.dense", condition, 3 * width, layers)


def _layer_norm(ours: str, theirs: str, width: int, layers: int | None) -> list[Rule]:
    return [
        Rule(ours=f"{ours}.{mine}", theirs=f"{theirs}.{yours}", shape=(width,), layers=layers)
        for mine, yours in (("scale", "weight"), ("bias", "bias"))
    ]
