"""What `lwd plan` says: parameters, division over GPUs, verdict, remedies, the committed page."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwd.errors import ConfigError, UnknownNameError
from lwd.learner.plan.devices import DEVICES
from lwd.learner.plan.memory import trained_by_policy
from lwd.learner.plan.networks import count, parts
from lwd.learner.plan.page import page
from lwd.learner.plan.plan import PlanRequest, networks_of, plan
from lwd.learner.plan.report import as_json, speed, verdict

PAGE = Path(__file__).resolve().parents[4] / "docs/reference/vla_plan.md"


def test_parameters_are_those_of_the_published_networks():
    """By hand from the published sizes: SigLIP So400m at 224, Gemma 2B's 18 layers, Gemma 3 270M."""
    found = parts(networks_of(PlanRequest()))
    assert sum(number for what, number in found.items() if what.startswith("policy")) == pytest.approx(
        3.353e9, rel=1e-3
    )
    # per layer: 2 norms, q and o, k and v, three of the feed-forward; then the final norm and the projection
    layer = 2 * 2048 + 2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 16_384
    assert found["policy: Gemma backbone"] == 18 * layer + 2048 + (1152 + 1) * 2048
    assert found["policy: token table"] == 257_152 * 2048
    assert found["critic: token table"] == 262_144 * 640


def test_online_trains_the_expert_and_lora_less():
    nets = networks_of(PlanRequest())
    everything, expert = (trained_by_policy(nets, stage, 0) for stage in ("offline", "online"))
    assert everything == count(nets.policy) - count(nets.policy.normalizer)
    assert expert == parts(nets)["policy: action expert"]
    assert trained_by_policy(nets, "offline", 16) < 0.05 * everything
    assert trained_by_policy(nets, "online", 16) < 0.05 * expert
    twice, once = (trained_by_policy(nets, "offline", rank) for rank in (32, 16))
    assert twice - once == once - trained_by_policy(nets, "offline", 8) + (
        once - trained_by_policy(nets, "offline", 8)
    )


def test_gpus_divide_the_state_and_the_batch():
    one, eight = (plan(PlanRequest(batch=32, gpus=gpus, remat=True)) for gpus in (1, 8))
    for a, b in zip(one.items, eight.items, strict=True):
        if a.stays:
            assert b.size == pytest.approx(a.size / 8, rel=1e-6)
    assert eight.flops == one.flops
    assert eight.step_s < one.step_s / 6


def test_flops_grow_with_the_batch_and_with_checkpointing():
    small, large = (plan(PlanRequest(batch=batch, remat=True)).flops for batch in (8, 32))
    assert large == pytest.approx(4 * small, rel=0.01)
    assert plan(PlanRequest(batch=8)).flops < small


def test_verdict_says_by_how_much_and_what_to_change():
    tight = plan(PlanRequest(batch=256, remat=True))
    assert not tight.fits
    text = verdict(tight)
    assert text.startswith("does not fit")
    assert f"{(tight.size - tight.device.usable) / 2**30:.2f} too much" in text
    assert "--gpus 4" in text or "--gpus 2" in text
    assert "--batch" in text


@pytest.mark.parametrize("request_", [PlanRequest(batch=8, gpu="h100", remat=True), PlanRequest(batch=32)])
def test_every_remedy_fits(request_):
    """A remedy is a command line that was tried; try it again."""
    from dataclasses import replace

    tight = plan(request_)
    assert not tight.fits
    assert tight.remedies
    for remedy in tight.remedies:
        words = remedy.split(": ")[1].split()
        changes: dict[str, object] = {}
        while words:
            name = words.pop(0).removeprefix("--").replace("-", "_")
            if name == "remat":
                changes[name] = True
            else:
                value = words.pop(0)
                changes[name] = value if name == "gpu" else int(value)
        assert plan(replace(tight.request, **changes)).fits, remedy


def test_gpus_without_an_example_are_named():
    idle = plan(PlanRequest(batch=8, gpus=64, remat=True))
    assert idle.idle_gpus == 56
    assert "56 of 64 GPUs have no example" in speed(idle)


def test_json_adds_up():
    found = as_json(plan(PlanRequest(batch=8, remat=True)))
    assert found["bytes_per_gpu"] == sum(item["size"] for item in found["memory"])
    assert found["flops_per_step"] == pytest.approx(sum(term["flops"] for term in found["flops"]))
    assert found["fits"] is True


def test_wrong_requests_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'h200'"):
        plan(PlanRequest(gpu="h20"))
    with pytest.raises(ConfigError, match="batch"):
        PlanRequest(batch=0)
    with pytest.raises(ConfigError, match="up to 32"):
        plan(PlanRequest(action_dim=40))


def test_devices_grow_in_memory_as_their_names_say():
    assert [device.memory // 2**30 for device in DEVICES.values()] == [24, 40, 80, 80, 141, 180]


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tools.vla_plan"
