"""Which axis of a leaf is split over the fsdp axis of the mesh, and a list of it: shapes only, no devices needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lwd.models.arrays import named_leaves


class Rule(NamedTuple):
    """The largest axis that `fsdp` divides is split; among equals the last; leaves below `smallest` elements are copied.

    It sees shapes only, so an average or an optimiser's moment is split like the parameter that it belongs to.
    """

    fsdp: int
    smallest: int

    def axis(self, shape: tuple[int, ...]) -> int | None:
        """The axis that is split, None where every device holds the whole leaf."""
        if self.fsdp == 1 or math.prod(shape) < self.smallest:
            return None
        fitting = [(size, i) for i, size in enumerate(shape) if size % self.fsdp == 0 and size > 0]
        return max(fitting)[1] if fitting else None


class Placement(NamedTuple):
    """Where one leaf is.

    Attributes:
        name: its path.
        shape, dtype: of the whole leaf.
        axis: the split one, None where it is copied to every device.
        total, per_device: bytes of the whole leaf, and of what one device holds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axis: int | None
    total: int
    per_device: int


def placements(tree: object, rule: Rule) -> list[Placement]:
    """Of every leaf, in the order of the tree. Shapes (`eqx.filter_eval_shape`) may stand in place of arrays."""
    found: list[Placement] = []
    for name, leaf in named_leaves(tree).items():
        shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
        total, axis = math.prod(shape) * dtype.itemsize, rule.axis(shape)
        per_device = total if axis is None else total // rule.fsdp
        found.append(Placement(name, shape, dtype.name, axis, total, per_device))
    return found


def listed(found: Sequence[Placement], rule: Rule) -> list[str]:
    """One line per leaf, and their sum."""
    lines = [
        f"{p.name}  {p.dtype} {list(p.shape)}  "
        + ("copied" if p.axis is None else f"axis {p.axis} over {rule.fsdp}")
        + f"  {p.per_device} B"
        for p in found
    ]
    total, per_device = sum(p.total for p in found), sum(p.per_device for p in found)
    copied = sum(p.total for p in found if p.axis is None)
    return [*lines, f"total {total} B, per device {per_device} B, of which {copied} B are copied"]
