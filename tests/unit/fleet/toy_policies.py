"""Policies of the toy's robot by hand, without training: how fast it walks is all that differs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import toy_fleet

from lwd.fleet.policies import content_of, model_config
from lwd.models.mlp import MlpPolicy, Normalizer

Content = tuple[dict[str, np.ndarray], dict[str, Any]]


def walking(speed: float) -> Content:
    """Arrays and metadata of a policy that walks at `speed` (1 reaches every goal, 0 none), whatever it sees.

    Its flow's velocity is the same everywhere, so a chunk is the noise plus the speed, clipped to [-1, 1].
    """
    x = toy_fleet.experiment()
    policy = MlpPolicy.init(jax.random.key(5), model_config(x), Normalizer.identity(2))
    arrays, meta = content_of(x, policy, "online")
    arrays = {name: np.array(array) for name, array in arrays.items()}
    arrays["out.weight"] = np.zeros_like(arrays["out.weight"])
    arrays["out.bias"] = np.tile(np.float32([speed, 0.0]), toy_fleet.SPEC.chunk_steps)
    return arrays, meta


def publish(services: Any, content: Content, step: int = 1) -> int:
    """Its number."""
    arrays, meta = content
    snapshot = services.snapshots.publish(arrays, step, 1, meta)
    services.channel.announce(snapshot)
    return snapshot.number
