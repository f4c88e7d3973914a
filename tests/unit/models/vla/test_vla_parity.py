"""Our networks against implementations that we did not write: transformers on CPU, tiny random weights, through our import.

Needs torch and transformers (requirements-parity.txt); without them it is skipped.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from vla_examples import (
    MEAN,
    PI0_SIZES,
    SCALE,
    VISION,
    observation,
    policy,
    relative_error,
    sampled,
    velocity,
)

from lwd.models.vla.config import Gemma3Config, GemmaConfig
from lwd.models.vla.gemma import Gemma, embed
from lwd.models.vla.gemma3 import Gemma3
from lwd.models.vla.prefix import embed_pictures
from lwd.models.vla.siglip import Siglip
from lwd.models.weights import torch_layouts
from lwd.models.weights.rules import read_into
from lwd.models.weights.sources import Safetensors

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore"),  # torch's and transformers' own
]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
PIXELS = np.random.default_rng(0).uniform(-1.0, 1.0, (3, VISION.image, VISION.image, 3)).astype(np.float32)
WORDS = np.random.default_rng(1).integers(1, 60, 12)


def random_model(make, seed=0):
    """Their network with every parameter drawn anew: a norm's gain of exactly 1 would hide an error."""
    model = make().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model


def written(model, folder):
    """Their parameters as a safetensors file, under their names."""
    arrays = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
    save_file(arrays, folder / "model.safetensors")
    return Safetensors(folder)


def vision_config(sizes=VISION):
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "image_size": sizes.image,
        "patch_size": sizes.patch,
        "vision_use_head": False,
    }


def gemma_config(sizes, vocabulary):
    return {
        "model_type": "gemma",
        "vocab_size": vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "attn_implementation": "eager",
    }


class Text(eqx.Module):
    """A token table and a stack: what a language model of Hugging Face holds."""

    tokens: jax.Array
    language: Gemma | Gemma3


def shapes(make, sizes):
    return eqx.filter_eval_shape(make, jax.random.key(0), sizes)


def torch_pixels(pictures):
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_gemma(tmp_path, kv_heads):
    sizes = GemmaConfig(width=24, depth=3, mlp=40, heads=4, kv_heads=kv_heads, head_dim=8)
    theirs = random_model(
        lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**gemma_config(sizes, 64)))
    )
    ours = Text(jnp.zeros((64, sizes.width)), shapes(Gemma.init, sizes))
    ours = read_into(ours, torch_layouts.gemma(sizes, 64), written(theirs, tmp_path))
    mask = jnp.tril(jnp.ones((len(WORDS), len(WORDS)), bool))
    found, _ = ours.language(embed(ours.tokens, jnp.asarray(WORDS), "float32"), jnp.arange(len(WORDS)), mask)
    with torch.no_grad():
        expected = theirs.model(torch.from_numpy(WORDS)[None]).last_hidden_state[0]
    assert relative_error(found, expected) < TOLERANCE


def test_gemma_3_with_local_and_global_layers(tmp_path):
    """A window of 4 in a sequence of 12; the two rotary bases differ by 250, so that a swap shows."""
    sizes = Gemma3Config(
        width=24,
        depth=4,
        mlp=40,
        heads=4,
        kv_heads=2,
        head_dim=8,
        query_scale=20.0,
        window=4,
        global_every=2,
        rope_base=500.0,
        rope_base_local=2.0,
    )
    config = transformers.Gemma3TextConfig(
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=20,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2.0},
        },
        attn_implementation="eager",
    )
    theirs = random_model(lambda: transformers.Gemma3ForCausalLM(config))
    ours = Text(jnp.zeros((64, 24)), shapes(Gemma3.init, sizes))
    layout = torch_layouts.gemma3(sizes, 64, tokens="tokens", stack="language.")
    ours = read_into(ours, layout, written(theirs, tmp_path))
    mask = jnp.tril(jnp.ones((len(WORDS), len(WORDS)), bool))

    @eqx.filter_jit
    def last(model):
        tokens = embed(model.tokens, jnp.asarray(WORDS), "float32")
        return model.language(tokens, jnp.arange(len(WORDS)), mask)

    with torch.no_grad():
        expected = theirs.model(torch.from_numpy(WORDS)[None]).last_hidden_state[0]
    assert relative_error(last(ours), expected) < TOLERANCE
    for change in ({"window": 5}, {"rope_base": 2.0}, {"rope_base_local": 500.0}, {"global_every": 4}):
        other = eqx.tree_at(
            lambda m: m.language,
            ours,
            dataclasses.replace(ours.language, config=dataclasses.replace(sizes, **change)),
        )
        assert relative_error(last(other), expected) > 1e-2, f"the test does not see {change}"


def test_siglip(tmp_path):
    theirs = random_model(
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision_config()))
    )
    ours = shapes(Siglip.init, VISION)
    ours = read_into(ours, torch_layouts.siglip(VISION, tower=""), written(theirs, tmp_path))
    found = eqx.filter_jit(lambda m, x: jax.vmap(lambda p: m(p, "float32", False))(x))(
        ours, jnp.asarray(PIXELS)
    )
    with torch.no_grad():
        expected = theirs(torch_pixels(PIXELS)).last_hidden_state
    assert relative_error(found, expected) < TOLERANCE


def paligemma_config(sizes):
    return {
        "vision_config": vision_config(sizes.vision),
        "text_config": gemma_config(sizes.language, sizes.vocabulary),
        "projection_dim": sizes.language.width,
        "image_token_id": sizes.vocabulary - 1,
        "image_token_index": sizes.vocabulary - 1,
    }


def test_paligemma(tmp_path):
    """Pictures and words as a prefix: everything sees everything."""
    sizes = PI0_SIZES
    theirs = random_model(
        lambda: transformers.PaliGemmaForConditionalGeneration(
            transformers.PaliGemmaConfig(**paligemma_config(sizes), attn_implementation="eager")
        )
    )
    ours = read_into(policy(sizes), torch_layouts.paligemma(sizes), written(theirs, tmp_path))
    seen = observation(sizes, written=7)
    seen = seen._replace(images={"left": jnp.asarray(PIXELS[0])})
    words = seen.prompts["words"]

    @eqx.filter_jit
    def last(model):
        pictures = embed_pictures(model.vision, model.project, seen, sizes.cameras, "float32", False)
        x = jnp.concatenate([pictures, embed(model.tokens, words, "float32")])
        return model.language(x, jnp.arange(len(x)), jnp.ones((len(x), len(x)), bool))[0]

    found = last(ours)
    tokens = np.concatenate([np.full(sizes.vision.tokens, sizes.vocabulary - 1), np.asarray(words)])[None]
    with torch.no_grad():
        expected = theirs.model(
            input_ids=torch.from_numpy(tokens),
            pixel_values=torch_pixels(PIXELS[:1]),
            token_type_ids=torch.zeros(tokens.shape, dtype=torch.long),
            attention_mask=torch.ones(tokens.shape, dtype=torch.long),
            position_ids=torch.arange(tokens.shape[1])[None],
        ).last_hidden_state[0]
    assert relative_error(found, expected) < TOLERANCE


@pytest.fixture(scope="module")
def pi0(tmp_path_factory):
    """Their pi0 and ours with the same weights, and an observation with two of three cameras and a padded prompt."""
    sizes = PI0_SIZES
    expert = {**gemma_config(sizes.expert, sizes.vocabulary)}
    config = transformers.PI0Config(
        vlm_config={"model_type": "paligemma", **paligemma_config(sizes)},
        dit_config=expert,
        chunk_size=4,
        max_state_dim=sizes.action_dim,
        max_action_dim=sizes.action_dim,
        attn_implementation="eager",
    )
    theirs = random_model(lambda: transformers.PI0ForConditionalGeneration(config))
    source = written(theirs, tmp_path_factory.mktemp("pi0"))
    ours = read_into(policy(sizes), torch_layouts.lerobot(sizes), source)
    return ours, theirs, observation(sizes)


def their_inputs(ours, seen):
    """What transformers' processor would hand over: picture tokens for the two cameras, words, padding."""
    sizes = ours.config
    pictures = np.stack(
        [np.asarray(seen.images[c], np.float32) / 255.0 * 2.0 - 1.0 for c in ("left", "right")]
    )
    pixels = torch.zeros(1, 3, 3, sizes.vision.image, sizes.vision.image)
    pixels[0, [0, 2]] = torch_pixels(pictures)
    words = np.asarray(seen.prompts["words"])
    tokens = np.concatenate([np.full(2 * sizes.vision.tokens, sizes.vocabulary - 1), words])
    state = np.zeros((1, sizes.action_dim), np.float32)
    state[0, :3] = (np.asarray(seen.proprio) - MEAN) / SCALE
    return {
        "input_ids": torch.from_numpy(tokens)[None].long(),
        "attention_mask": torch.from_numpy((tokens != 0).astype(np.int64))[None],
        "pixel_values": pixels,
        "pixel_attention_mask": torch.tensor([[True, False, True]]),
        "state": torch.from_numpy(state),
    }


@pytest.mark.parametrize("w", [0.0, 0.3, 0.9])
def test_pi0_velocity(pi0, w):
    """Theirs is noise - action at time 1 - w; ours is action - noise at time w."""
    ours, theirs, seen = pi0
    a_w = np.random.default_rng(3).standard_normal((4, ours.config.action_dim)).astype(np.float32)
    found = velocity(ours, seen, jnp.asarray(a_w), jnp.float32(w))
    with torch.no_grad():
        expected = theirs(
            **their_inputs(ours, seen), noise=torch.from_numpy(a_w)[None], timestep=torch.tensor([1.0 - w])
        ).logits[0]
    assert relative_error(found, -expected.numpy()) < TOLERANCE


def test_pi0_sampled_chunk(pi0):
    ours, theirs, seen = pi0
    start = np.random.default_rng(4).standard_normal((4, ours.config.action_dim)).astype(np.float32)
    found = sampled(ours, seen, jnp.asarray(start), 5)
    expected = theirs.sample_actions(
        **their_inputs(ours, seen), noise=torch.from_numpy(start)[None], num_steps=5
    )[0]
    assert relative_error(found, expected) < TOLERANCE
