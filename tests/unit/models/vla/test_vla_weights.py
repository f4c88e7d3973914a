"""Weights in and out: every layout round, what does not fit by name, and older names of the same arrays."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from vla_examples import MEAN, PI0_SIZES, SCALE, SIZES, VISION, noise, observation, policy, shaken

from lwd.errors import ConfigError, SnapshotError, WeightsError
from lwd.models.arrays import named_leaves, to_arrays
from lwd.models.mlp import Normalizer
from lwd.models.vla.config import DUMMY, PI05, critic_dummy
from lwd.models.vla.critic import VlaCritic
from lwd.models.weights import torch_layouts
from lwd.models.weights.commands import export_policy_file, import_policy_file, inspect_weights
from lwd.models.weights.inspect import inspect
from lwd.models.weights.openpi_layout import openpi
from lwd.models.weights.rules import Layout, Rule, read_into, unread, write_from
from lwd.models.weights.sources import Arrays, Orbax, Safetensors, open_source
from lwd.models.weights.transfer import (
    EXPORTS,
    blank_policy,
    deaf_to_padding,
    export_lerobot,
    import_critic,
    import_policy,
    load_network,
    parameters,
    save_network,
)
from lwd.snapshot.file import pack

pytestmark = pytest.mark.usefixtures("quick_compilation")
OURS = ("normalizer.mean", "normalizer.scale")


def same(a, b):
    a, b = to_arrays(a), to_arrays(b)
    return list(a) == list(b) and all(
        np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


@pytest.mark.parametrize("layout", [openpi, torch_layouts.lerobot])
@pytest.mark.parametrize("config", [SIZES, PI0_SIZES], ids=lambda c: c.variant)
def test_every_parameter_of_a_policy_has_a_place_in_each_layout(layout, config):
    assert unread(blank_policy(config, Normalizer.identity(3)), layout(config)) == list(OURS)


@pytest.mark.parametrize("layout", ["openpi", "lerobot"])
@pytest.mark.parametrize("config", [SIZES, PI0_SIZES], ids=lambda c: c.variant)
def test_exported_weights_come_back_as_they_were(tmp_path, layout, config):
    config = dataclasses.replace(config, parameters="bfloat16")
    trained = policy(config)
    EXPORTS[layout](trained, tmp_path / "out", None)
    assert same(import_policy(tmp_path / "out", config, trained.normalizer), trained)


def test_where_each_query_head_has_its_own_keys_openpi_keeps_all_three_in_one(tmp_path):
    stack = dataclasses.replace(SIZES.language, kv_heads=4)
    config = dataclasses.replace(SIZES, language=stack, expert=dataclasses.replace(SIZES.expert, kv_heads=4))
    trained = policy(config)
    arrays = write_from(trained, openpi(config))
    assert arrays["PaliGemma/llm/layers/attn/qkv_einsum/w"].shape == (2, 3, 4, 24, 8)
    assert same(read_into(policy(config, seed=9), openpi(config), Arrays("memory", arrays)), trained)


def test_the_names_are_those_of_the_published_checkpoints(tmp_path):
    """Spelt out from the published formats, so that a slip in a rule cannot hide in a round trip."""
    arrays = write_from(policy(), openpi(SIZES))
    assert {
        name: arrays[name].shape for name in sorted(arrays) if name.startswith("PaliGemma/llm/layers/attn")
    } == {
        "PaliGemma/llm/layers/attn/attn_vec_einsum/w": (2, 4, 8, 24),
        "PaliGemma/llm/layers/attn/attn_vec_einsum_1/w": (2, 4, 8, 16),
        "PaliGemma/llm/layers/attn/kv_einsum/w": (2, 2, 1, 24, 8),
        "PaliGemma/llm/layers/attn/kv_einsum_1/w": (2, 2, 1, 16, 8),
        "PaliGemma/llm/layers/attn/q_einsum/w": (2, 4, 24, 8),
        "PaliGemma/llm/layers/attn/q_einsum_1/w": (2, 4, 16, 8),
    }
    assert arrays["PaliGemma/llm/final_norm_1/Dense_0/kernel"].shape == (16, 48)
    assert arrays["time_mlp_in/kernel"].shape == (16, 16)
    (file,) = export_lerobot(policy(), tmp_path)
    arrays = load_file(file)
    vlm = "model.paligemma_with_expert.paligemma."
    for name, shape in {
        f"{vlm}model.vision_tower.vision_model.encoder.layers.1.self_attn.out_proj.weight": (16, 16),
        f"{vlm}model.language_model.layers.0.self_attn.k_proj.weight": (8, 24),
        f"{vlm}model.multi_modal_projector.linear.weight": (24, 16),
        f"{vlm}lm_head.weight": (64, 24),
        "model.paligemma_with_expert.gemma_expert.model.layers.1.input_layernorm.dense.weight": (48, 16),
        "model.paligemma_with_expert.gemma_expert.lm_head.weight": (64, 16),
        "model.action_out_proj.weight": (6, 16),
        "model.time_mlp_in.bias": (16,),
    }.items():
        assert arrays[name].shape == shape, name


def test_a_rule_by_hand():
    """Two layers of [out 3, in 2]; the second of two slots of [2 slots, 3, 2]."""
    layered = Rule(ours="x", theirs="a.{i}.w", shape=(3, 2), axes=(1, 0), layers=2)
    first, second = np.arange(6).reshape(3, 2), np.arange(6, 12).reshape(3, 2)
    ours = layered.to_ours([first, second], (2, 2, 3))
    assert ours.tolist() == [[[0, 2, 4], [1, 3, 5]], [[6, 8, 10], [7, 9, 11]]]
    assert [a.tolist() for a in layered.to_theirs(ours)] == [first.tolist(), second.tolist()]
    slot = Rule(ours="x", theirs="w", shape=(2, 3, 2), axes=(1, 0), slot=(0, 1))
    assert slot.to_ours([np.stack([first, second])], (2, 3)).tolist() == [[6, 8, 10], [7, 9, 11]]


def test_what_does_not_fit_is_listed_by_name_with_both_shapes():
    arrays = write_from(policy(), openpi(SIZES))
    arrays["PaliGemma/img/head/bias"] = arrays["PaliGemma/img/head/bias"][:5]
    del arrays["action_in_proj/kernel"]
    arrays["lora_a/w"] = np.zeros((2, 3))
    with pytest.raises(WeightsError) as caught:
        read_into(blank_policy(SIZES, Normalizer.identity(3)), openpi(SIZES), Arrays("checkpoint", arrays))
    assert caught.value.problems == [
        "does not fit the layout 'pi05 of openpi'",
        "missing action_in_proj/kernel, expected (6, 16)",
        "extra lora_a/w, found (2, 3)",
        "misshapen PaliGemma/img/head/bias, expected (24,), found (5,)",
    ]
    assert str(caught.value).startswith("checkpoint: ")


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("model.paligemma_with_expert.", "paligemma_with_expert."),  # openpi's own PyTorch port
        (
            "paligemma.model.vision_tower.vision_model.",
            "paligemma.model.vision_tower.",
        ),  # transformers from 5.6
        (
            "paligemma.model.language_model.",
            "paligemma.language_model.model.",
        ),  # LeRobot before transformers 4.52
    ],
)
def test_other_releases_of_the_same_weights(tmp_path, pattern, replacement):
    trained = policy()
    (file,) = export_lerobot(trained, tmp_path)
    arrays = {name.replace(pattern, replacement): array for name, array in load_file(file).items()}
    assert any(replacement in name for name in arrays)
    (table,) = (name for name in arrays if "embed_tokens" in name)
    del arrays[table]  # the published file keeps the table as the output head alone
    save_file(arrays, file)
    assert same(import_policy(tmp_path, SIZES, trained.normalizer), trained)


def test_shards_with_an_index(tmp_path):
    trained = policy()
    (file,) = export_lerobot(trained, tmp_path)
    arrays = load_file(file)
    names = sorted(arrays)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: arrays[name] for name in part}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    file.unlink()
    assert same(import_policy(tmp_path, SIZES, trained.normalizer), trained)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"missing shard b\.safetensors"):
        Safetensors(tmp_path)


def test_a_checkpoint_out_of_training_ends_every_name_in_value(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = {"params": {"a": {"b": {"value": np.ones((2, 3), np.float32)}}}}
        checkpointer.save(tmp_path / "params", tree)
    source = open_source(tmp_path)
    assert isinstance(source, Orbax)
    assert source.shapes() == {"a/b": ((2, 3), "float32")}
    assert source.read("a/b").tolist() == [[1.0] * 3] * 2


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path):
    with pytest.raises(WeightsError, match="no weights found"):
        open_source(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    with pytest.raises(WeightsError, match="no readable safetensors file"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "KeyError"),
        ("[]", "TypeError"),
        ('{"weight_map": []}', "AttributeError"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"a": 3}}', "names no file"),
    ],
)
def test_an_index_that_names_no_shards_is_said_to_be_broken(tmp_path, text, cause):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(WeightsError, match=rf"index\.json: no readable index of shards \(.*{cause}"):
        open_source(tmp_path)


def test_exports_never_overwrite(tmp_path):
    export_lerobot(policy(), tmp_path)
    with pytest.raises(WeightsError, match="already exists"):
        export_lerobot(policy(), tmp_path)


def lerobot_folder(folder):
    """A LeRobot policy folder of another robot: configuration, weights, and processors with statistics."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights that must not be copied")
    for name in ("policy_preprocessor_step_2_normalizer", "policy_postprocessor_step_0_unnormalizer"):
        theirs = {"observation.state.q01": -9, "observation.state.q50": 0, "action.max": 7, "reward.mean": 5}
        arrays = {key: np.full(2, value, np.float32) for key, value in theirs.items()}
        save_file(arrays, folder / f"{name}_processor.safetensors")
    return folder


def openpi_folder(folder):
    """An openpi checkpoint of another robot."""
    stats = folder / "assets" / "lab" / "robot" / "norm_stats.json"
    stats.parent.mkdir(parents=True)
    stats.write_text('{"norm_stats": {"state": {"q01": [-9, -9, -9]}}}')
    return folder


def quantiles_to_one(stats, x):
    """As openpi scales for pi0.5."""
    low, high = np.array(stats["q01"]), np.array(stats["q99"])
    return 2 * (x - low) / (high - low + 1e-6) - 1


def test_settings_of_the_original_go_along_with_the_policys_statistics(tmp_path):
    written = export_lerobot(policy(), tmp_path / "out", lerobot_folder(tmp_path / "like"), action_dim=5)
    assert [file.name for file in written] == [
        "model.safetensors",
        "config.json",
        "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
        "policy_preprocessor_step_2_normalizer_processor.safetensors",
    ]
    for file in written[2:]:
        stats = load_file(file)
        assert {name for name in stats if name.startswith("observation.state.")} == {
            f"observation.state.{name}" for name in ("mean", "std", "q01", "q99")
        }
        np.testing.assert_allclose(stats["observation.state.q01"], MEAN - SCALE)
        np.testing.assert_allclose(stats["observation.state.q99"], MEAN + SCALE, atol=1e-5)
        np.testing.assert_array_equal(stats["action.q01"], [-1] * 5)
        assert "action.max" not in stats
        assert stats["reward.mean"].tolist() == [5, 5]


@pytest.mark.parametrize("name", ["lab/robot", "lwd"])
def test_openpis_server_scales_the_state_as_training_did(tmp_path, name):
    trained = policy()
    like = None if name == "lwd" else openpi_folder(tmp_path / "like")
    EXPORTS["openpi"](trained, tmp_path / "out", like, 5)
    stats = json.loads((tmp_path / "out" / "assets" / name / "norm_stats.json").read_text())["norm_stats"]
    state = np.array([1.3, -0.2, 9.0])
    ours = np.asarray(trained.normalizer(jnp.asarray(state)))
    np.testing.assert_allclose(quantiles_to_one(stats["state"], state), ours, rtol=1e-5)
    mean_std = (state - stats["state"]["mean"]) / stats["state"]["std"]
    np.testing.assert_allclose(mean_std, ours, rtol=1e-5)
    action = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(quantiles_to_one(stats["actions"], action), action, atol=1e-9)


def test_a_policy_without_statistics_keeps_those_of_the_original(tmp_path):
    imported = eqx.tree_at(lambda p: p.normalizer, policy(), Normalizer.identity(3))
    like = openpi_folder(tmp_path / "like")
    EXPORTS["openpi"](imported, tmp_path / "openpi", like, None)
    kept = "assets/lab/robot/norm_stats.json"
    assert (tmp_path / "openpi" / kept).read_text() == (like / kept).read_text()
    like = lerobot_folder(tmp_path / "lerobot_like")
    for file in export_lerobot(imported, tmp_path / "lerobot", like)[1:]:
        assert file.read_bytes() == (like / file.name).read_bytes()


def test_statistics_that_have_no_place_stop_the_export(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"no processor file here has statistics.*LeRobot 0\.4"):
        export_lerobot(policy(), tmp_path / "out", tmp_path)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_noise_in_coordinates_that_the_robot_lacks_does_not_reach_an_exported_policy(tmp_path):
    """Stock servers draw noise in all of the published vector, here the padded ones were always 0."""
    trained, drawn = policy(), noise()
    padded = drawn.at[:, 4:].set(0)
    exported = deaf_to_padding(trained, 4)

    @eqx.filter_jit
    def stock(flow, noisy):
        return flow.published_velocity(flow.encode(observation()), noisy, jnp.float32(0.4))[:, :4]

    expected = stock(trained, padded)
    assert np.abs(stock(trained, drawn) - expected).max() > 0.05
    np.testing.assert_array_equal(stock(exported, drawn), expected)
    for layout in ("openpi", "lerobot"):
        EXPORTS[layout](trained, tmp_path / layout, None, 4)
        assert same(import_policy(tmp_path / layout, SIZES, trained.normalizer), exported)
    with pytest.raises(ConfigError, match="action_dim is 7, the policy's vector has 6"):
        deaf_to_padding(trained, 7)


def test_a_snapshot_says_itself_which_coordinates_its_robot_has(tmp_path):
    trained = policy(DUMMY)
    snapshot = tmp_path / "snapshot.safetensors"
    snapshot.write_bytes(pack(to_arrays(trained), {"robot_spec": "old"}))
    with pytest.raises(ConfigError, match="--action-dim"):
        export_policy_file(snapshot, tmp_path / "out", layout="openpi", sizes="dummy")
    snapshot.write_bytes(pack(to_arrays(trained), {"robot_spec": "new", "action_dim": 5}))
    lines = export_policy_file(snapshot, tmp_path / "out", layout="openpi", sizes="dummy")
    assert lines[-1] == "statistics: those of the policy"
    back = import_policy(tmp_path / "out", DUMMY, trained.normalizer)
    assert same(back, deaf_to_padding(trained, 5))


def hugging_face(module, layout, folder, before):
    folder.mkdir()
    arrays = {before + name: array for name, array in write_from(module, layout).items()}
    save_file(arrays, folder / "model.safetensors")
    return folder


def test_a_critic_takes_its_backbone_and_starts_the_rest_from_scratch(tmp_path):
    config = critic_dummy(chunk_steps=2, action_dim=3, proprio_dim=4)
    shapes = eqx.filter_eval_shape(VlaCritic.init, jax.random.key(0), config, Normalizer.identity(4))
    giver, taker = shaken(shapes, 0), shaken(shapes, 1)
    gemma3, siglip = torch_layouts.gemma3_of(config), torch_layouts.siglip(config.vision)
    critic = import_critic(
        hugging_face(giver, gemma3, tmp_path / "gemma3", "model."),
        hugging_face(giver, siglip, tmp_path / "siglip", "vision_model."),
        taker,
    )
    given, taken = named_leaves(giver), named_leaves(critic)
    equal = {name for name in given if np.array_equal(given[name], taken[name])}
    pretrained = {rule.ours for rule in (*gemma3.rules, *siglip.rules)}
    assert pretrained <= equal
    fresh = {name for name in given if name not in pretrained and name.endswith(".weight")}
    assert fresh
    assert not fresh & equal
    assert {"backbone.project.weight", "backbone.proprio.weight"} <= fresh


@pytest.mark.parametrize("more_rows", [0, 64])
def test_a_policy_takes_paligemma_and_keeps_its_expert(tmp_path, more_rows):
    """Hugging Face pads the token table to a multiple of 64 rows; the first ones are the tokens."""
    giver, taker = policy(seed=1), policy(seed=2)
    arrays = write_from(giver, torch_layouts.paligemma(SIZES))
    arrays = {name.removeprefix("paligemma."): array for name, array in arrays.items()}
    table = "language_model.embed_tokens.weight"
    arrays[table] = np.pad(arrays[table], ((0, more_rows), (0, 0)))
    save_file(arrays, tmp_path / "model.safetensors")
    assert inspect(tmp_path, SIZES).fits == ["PaliGemma of Hugging Face, of the given sizes"]
    mixed = read_into(taker, torch_layouts.paligemma(SIZES), Safetensors(tmp_path))
    assert same(mixed.tokens, giver.tokens)
    assert same(mixed.language, giver.language)
    assert same(mixed.vision, giver.vision)
    assert same(mixed.expert, taker.expert)


def test_our_own_file(tmp_path):
    trained = policy(dataclasses.replace(SIZES, parameters="bfloat16"))
    save_network(trained, tmp_path / "start.safetensors")
    blank = blank_policy(trained.config, Normalizer.identity(3))
    assert same(load_network(blank, tmp_path / "start.safetensors"), trained)
    with pytest.raises(SnapshotError, match=r"missing state\.weight"):
        load_network(blank_policy(PI0_SIZES, Normalizer.identity(3)), tmp_path / "start.safetensors")


def test_inspection_says_what_a_checkpoint_is(tmp_path):
    trained = policy()
    export_lerobot(trained, tmp_path / "mine")
    seen = inspect(tmp_path / "mine", SIZES)
    assert seen.fits == ["pi05 of LeRobot, of the given sizes"]
    unused_head, head = 64 * 16, 64 * 24
    assert seen.parameters == parameters(trained) - 6 + unused_head + head
    assert not inspect(tmp_path / "mine").fits
    assert "fits no known layout" in "\n".join(inspect(tmp_path / "mine").lines(names=True))


def test_the_commands_go_round(tmp_path):
    """Export the dummy size to both layouts, import it again, and read what the commands say."""
    trained = policy(DUMMY)
    save_network(trained, tmp_path / "trained.safetensors")
    for layout in ("openpi", "lerobot"):
        lines = export_policy_file(
            tmp_path / "trained.safetensors", tmp_path / layout, layout=layout, sizes="dummy"
        )
        assert lines[0].startswith(str(tmp_path / layout))
        back = tmp_path / f"{layout}.safetensors"
        (line,) = import_policy_file(tmp_path / layout, back, proprio_dim=3, sizes="dummy")
        assert f"{parameters(trained):,} parameters" in line
        again = load_network(blank_policy(DUMMY, Normalizer.identity(3)), back)
        assert same(again.expert, trained.expert)
        assert inspect_weights(tmp_path / layout, sizes="dummy")[-1].startswith("fits: pi05 of ")


def test_published_shapes_are_recognised():
    """pi0.5 at its full size, names and shapes alone: 3.35 billion numbers are never made."""
    shapes = blank_policy(PI05, Normalizer.identity(1))
    assert parameters(shapes) - 2 == 3_353_433_872
    expected = openpi(PI05).expected()
    assert expected["PaliGemma/llm/embedder/input_embedding"] == (257_152, 2048)
    assert expected["PaliGemma/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"] == (27, 1152, 4304)
    assert expected["PaliGemma/llm/layers/pre_ffw_norm_1/Dense_0/kernel"] == (18, 1024, 3072)
    assert sum(int(np.prod(shape)) for shape in expected.values()) == parameters(shapes) - 2


def test_a_table_with_too_few_rows_or_another_width_does_not_fit():
    layout = Layout(name="one", rules=(Rule(ours="x", theirs="x", shape=(4, 2), padded=True),))
    for shape in ((3, 2), (5, 3), (4,)):
        with pytest.raises(WeightsError, match="misshapen x"):
            read_into({"x": jnp.zeros((4, 2))}, layout, Arrays("m", {"x": np.ones(shape)}))


def test_layout_without_ignored_names_ignores_none():
    layout = Layout(name="one", rules=(Rule(ours="x", theirs="x", shape=(1,)),))
    module = {"x": jnp.zeros(1)}
    with pytest.raises(WeightsError, match="extra y, found"):
        read_into(module, layout, Arrays("m", {"x": np.ones(1), "y": np.ones(1)}))
    assert float(read_into(module, layout, Arrays("m", {"x": np.ones(1)}))["x"][0]) == 1.0
    assert VISION.tokens == 4
