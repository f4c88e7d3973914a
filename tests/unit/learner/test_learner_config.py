"""What the learner's settings refuse, and the sentence they refuse it with."""

import pytest

from lwd.errors import ConfigError
from lwd.learner.clone import CloneConfig
from lwd.learner.divl import DivlConfig
from lwd.learner.optimizers import OptimizerConfig
from lwd.learner.qam import QamConfig
from lwd.learner.state import LearnerConfig

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, decay_steps=1000)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"value_low": 1.0, "value_high": 1.0}, "DivlConfig: value_low 1.0 must be below value_high 1.0."),
        ({"tau_min": 0.0}, "DivlConfig: need 0 < tau_min <= tau_max < 1, got 0.0 and 0.99."),
        ({"tau_min": 0.6, "tau_max": 0.5}, "DivlConfig: need 0 < tau_min <= tau_max < 1, got 0.6 and 0.5."),
        ({"tau_max": 1.0}, "DivlConfig: need 0 < tau_min <= tau_max < 1, got 0.05 and 1.0."),
        ({"tau_base": 0.0}, "DivlConfig: tau_base must be in (0, 1], got 0.0."),
        ({"tau_base": 1.1}, "DivlConfig: tau_base must be in (0, 1], got 1.1."),
        ({"atoms": 1}, "DivlConfig: atoms must be at least 2, got 1."),
    ],
)
def test_divl(settings, sentence):
    with pytest.raises(ConfigError) as refused:
        DivlConfig(**settings)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": 0.0}, "QamConfig.temperature must be positive, got 0.0."),
        ({"temperature": -2.0}, "QamConfig.temperature must be positive, got -2.0."),
        ({"flow_steps": 1}, "QamConfig.flow_steps must be at least 2, got 1."),
        (
            {"target_kl": 0.0},
            "QamConfig.target_kl must be positive and finite, or None for a fixed temperature, got 0.0.",
        ),
        (
            {"target_kl": float("inf")},
            "QamConfig.target_kl must be positive and finite, or None for a fixed temperature, got inf.",
        ),
    ],
)
def test_qam(settings, sentence):
    with pytest.raises(ConfigError) as refused:
        QamConfig(**settings)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"batch": 64, "policy_batch": 65},
            "LearnerConfig: need 1 <= policy_batch <= batch, got 65 and 64.",
        ),
        ({"policy_batch": 0}, "LearnerConfig: need 1 <= policy_batch <= batch, got 0 and 256."),
        ({"ema_rate": 0.0}, "LearnerConfig.ema_rate must be in (0, 1], got 0.0."),
        ({"policy_ema_rate": 1.5}, "LearnerConfig.policy_ema_rate must be in (0, 1], got 1.5."),
    ],
)
def test_learner(settings, sentence):
    with pytest.raises(ConfigError) as refused:
        LearnerConfig(policy=OPTIMIZER, critic=OPTIMIZER, **settings)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch": 0}, "CloneConfig.batch must be at least 1, got 0."),
        ({"policy_ema_rate": 0.0}, "CloneConfig.policy_ema_rate must be in (0, 1], got 0.0."),
    ],
)
def test_clone(settings, sentence):
    with pytest.raises(ConfigError) as refused:
        CloneConfig(policy=OPTIMIZER, **settings)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learning_rate": 0.0}, "OptimizerConfig: learning_rate and clip_norm must be positive."),
        ({"clip_norm": -1.0}, "OptimizerConfig: learning_rate and clip_norm must be positive."),
        (
            {"warmup_steps": 1000},
            "OptimizerConfig: need 0 <= warmup_steps < decay_steps, got 1000 and 1000.",
        ),
        ({"warmup_steps": -1}, "OptimizerConfig: need 0 <= warmup_steps < decay_steps, got -1 and 1000."),
        ({"final_share": 1.5}, "OptimizerConfig.final_share must be in [0, 1], got 1.5."),
    ],
)
def test_optimizer(settings, sentence):
    with pytest.raises(ConfigError) as refused:
        OptimizerConfig(**{"learning_rate": 1e-3, "decay_steps": 1000, **settings})
    assert str(refused.value) == sentence


def test_defaults_are_the_papers():
    config = LearnerConfig(policy=OPTIMIZER, critic=OPTIMIZER)
    divl, qam = config.divl, config.qam
    assert (divl.atoms, divl.value_low, divl.value_high) == (201, -0.1, 1.1)
    assert (divl.tau_base, divl.alpha) == (0.6, 0.3)
    assert (qam.temperature, qam.paths_from, config.ema_rate) == (2.0, "policy", 0.005)
