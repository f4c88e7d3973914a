"""The replay: episodes of the log as arrays, frozen at a manifest, drawn as chunk-level transitions."""

from lwd.replay.mixture import Mixture, Pool, demonstrations, offline_rl, online_rl
from lwd.replay.replay import Replay, ReplayConfig
from lwd.replay.sampler import Sampler
from lwd.replay.view import SummaryRow, View, summary

__all__ = [
    "Mixture",
    "Pool",
    "Replay",
    "ReplayConfig",
    "Sampler",
    "SummaryRow",
    "View",
    "demonstrations",
    "offline_rl",
    "online_rl",
    "summary",
]
