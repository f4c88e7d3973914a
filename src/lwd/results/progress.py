"""What one `lwd results run` has done so far."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """Ids of cells."""

    waiting: list[str] = field(default_factory=list[str])
    running: list[str] = field(default_factory=list[str])
    done: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
