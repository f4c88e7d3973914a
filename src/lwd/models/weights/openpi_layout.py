"""Layout of openpi's orbax checkpoints of pi0 and pi0.5: layers on a leading axis, heads as axes of their own."""

from __future__ import annotations

from lwd.models.vla.config import GemmaConfig, PiConfig, SiglipConfig
from lwd.models.weights.rules import Layout, Rule

_IMG, _LLM = "PaliGemma/img/", "PaliGemma/llm/"


def openpi(config: PiConfig) -> Layout:
    """pi0 and pi0.5 as openpi trains, publishes and serves them. The action expert's names end in "_1"."""
    mixed = config.variant == "pi0"
    width, wide = config.expert.width, config.action_dim
    table = (config.vocabulary, config.language.width)
    rules = [Rule(ours="tokens", theirs=f"{_LLM}embedder/input_embedding", shape=table)]
    rules += _siglip_rules(config.vision)
    rules += _dense("project", f"{_IMG}head", config.vision.width, config.language.width)
    rules += _gemma_rules("language.", "", config.language, None)
    rules += _gemma_rules("expert.", "_1", config.expert, None if mixed else width)
    rules += _dense("action_in", "action_in_proj", wide, width)
    rules += _dense("action_out", "action_out_proj", width, wide)
    time = "action_time_mlp" if mixed else "time_mlp"
    rules += _dense("time.first", f"{time}_in", 2 * width if mixed else width, width)
    rules += _dense("time.second", f"{time}_out", width, width)
    if mixed:
        rules += _dense("state", "state_proj", wide, width)
    return Layout(name=f"{config.variant} of openpi", rules=tuple(rules))


def _gemma_rules(ours: str, end: str, config: GemmaConfig, condition: int | None) -> list[Rule]:
    layers, width, size = config.depth, config.width, config.head_dim
    mine, attn, mlp = f"{ours}layers.", f"{_LLM}layers/attn/", f"{_LLM}layers/mlp{end}/"
    rules = _projections(mine, attn, end, config)
    rules += [
        Rule(
            ours=f"{mine}o.weight",
            theirs=f"{attn}attn_vec_einsum{end}/w",
            shape=(layers, config.heads, size, width),
        ),
        Rule(ours=f"{mine}mlp.down.weight", theirs=f"{mlp}linear", shape=(layers, config.mlp, width)),
    ]
    rules += [
        Rule(
            ours=f"{mine}mlp.{name}.weight",
            theirs=f"{mlp}gating_einsum",
            shape=(layers, 2, width, config.mlp),
            slot=(1, index),
        )
        for index, name in enumerate(("gate", "up"))
    ]
    for name, theirs in (("pre_attention", "pre_attention_norm"), ("pre_mlp", "pre_ffw_norm")):
        rules += _norm(mine + name, f"{_LLM}layers/{theirs}{end}", width, condition, (layers,))
    return rules + _norm(f"{ours}final_norm", f"{_LLM}final_norm{end}", width, condition, ())


def _projections(mine: str, attn: str, end: str, config: GemmaConfig) -> list[Rule]:
    """Queries, keys and values: all three in one array where each query head has its own key head."""
    layers, width, size = config.depth, config.width, config.head_dim

    def heads(name: str, theirs: str, count: int, slot: tuple[int, int] | None, slots: int) -> Rule:
        between = () if slot is None else (slots,)
        return Rule(
            ours=f"{mine}{name}.weight",
            theirs=f"{attn}{theirs}{end}/w",
            shape=(layers, *between, count, width, size),
            axes=(0, 2, 1, 3),
            slot=slot,
        )

    if config.heads == config.kv_heads:
        return [heads(name, "qkv_einsum", config.heads, (1, i), 3) for i, name in enumerate("qkv")]
    queries = heads("q", "q_einsum", config.heads, None, 1)
    return [queries, *(heads(n, "kv_einsum", config.kv_heads, (1, i), 2) for i, n in enumerate("kv"))]


def _siglip_rules(config: SiglipConfig) -> list[Rule]:
    width, layers, patch = config.width, config.depth, config.patch
    block, size = f"{_IMG}Transformer/encoderblock/", config.width // config.heads
    attention = f"{block}MultiHeadDotProductAttention_0/"
    rules = [
        Rule(
            ours="vision.patches.weight",
            theirs=f"{_IMG}embedding/kernel",
            shape=(patch, patch, 3, width),
        ),
        Rule(ours="vision.patches.bias", theirs=f"{_IMG}embedding/bias", shape=(width,)),
        Rule(ours="vision.positions", theirs=f"{_IMG}pos_embedding", shape=(1, config.tokens, width)),
    ]
    for mine, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
        rules += [
            Rule(
                ours=f"vision.layers.{mine}.weight",
                theirs=f"{attention}{theirs}/kernel",
                shape=(layers, width, config.heads, size),
            ),
            Rule(
                ours=f"vision.layers.{mine}.bias",
                theirs=f"{attention}{theirs}/bias",
                shape=(layers, config.heads, size),
            ),
        ]
    rules += [
        Rule(
            ours="vision.layers.o.weight",
            theirs=f"{attention}out/kernel",
            shape=(layers, config.heads, size, width),
        ),
        Rule(ours="vision.layers.o.bias", theirs=f"{attention}out/bias", shape=(layers, width)),
    ]
    rules += _dense("vision.layers.up", f"{block}MlpBlock_0/Dense_0", width, config.mlp, (layers,))
    rules += _dense("vision.layers.down", f"{block}MlpBlock_0/Dense_1", config.mlp, width, (layers,))
    for mine, theirs in (("pre_attention", "LayerNorm_0"), ("pre_mlp", "LayerNorm_1")):
        rules += _layer_norm(f"vision.layers.{mine}", block + theirs, width, (layers,))
    return rules + _layer_norm("vision.final_norm", f"{_IMG}Transformer/encoder_norm", width, ())


def _dense(ours: str, theirs: str, inputs: int, outputs: int, layers: tuple[int, ...] = ()) -> list[Rule]:
    return [
        Rule(ours=f"{ours}.weight", theirs=f"{theirs}/kernel", shape=(*layers, inputs, outputs)),
        Rule(ours=f"{ours}.bias", theirs=f"{theirs}/bias", shape=(*layers, outputs)),
    ]


def _norm(ours: str, theirs: str, width: int, condition: int | None, layers: tuple[int, ...]) -> list[Rule]:
    if condition is None:
        return [Rule(ours=f"{ours}.scale", theirs=f"{theirs}/scale", shape=(*layers, width))]
    return _dense(f"{ours}.modulate", f"{theirs}/Dense_0", condition, 3 * width, layers)


def _layer_norm(ours: str, theirs: str, width: int, layers: tuple[int, ...]) -> list[Rule]:
    return [
        Rule(ours=f"{ours}.{name}", theirs=f"{theirs}/{name}", shape=(*layers, width))
        for name in ("scale", "bias")
    ]
