"""How one array of a published checkpoint becomes a leaf of ours, and back. Views only: reshape, permute, stack, take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lwd.errors import WeightsError
from lwd.models.arrays import named_leaves, with_leaves
from lwd.models.weights.sources import Shape, Source

Module = TypeVar("Module")
AnyArray = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One leaf of ours and where it lies in a layout.

    Attributes:
        ours: path of the leaf, as in `lwd.models.arrays`.
        theirs: name in the layout; "{i}" where the layout has one array per layer.
        shape: of one of their arrays.
        axes: permutation of its axes (slot taken) towards ours; None for none. What remains is a reshape.
        layers: how many arrays "{i}" stands for; ours stacks them on a leading axis.
        slot: (axis, index) of ours within their array, where they keep several of ours in one.
        padded: a file may have more rows than `shape`, behind those that are read.
    """

    ours: str
    theirs: str
    shape: Shape
    axes: tuple[int, ...] | None = None
    layers: int | None = None
    slot: tuple[int, int] | None = None
    padded: bool = False

    @property
    def names(self) -> list[str]:
        """Their arrays, first layer first."""
        return [self.theirs] if self.layers is None else [self.theirs.format(i=i) for i in range(self.layers)]

    def fits(self, found: Shape) -> bool:
        """Whether an array of this shape can be read."""
        if not self.padded:
            return found == self.shape
        return len(found) == len(self.shape) and found[0] >= self.shape[0] and found[1:] == self.shape[1:]

    def to_ours(self, arrays: list[AnyArray], shape: Shape) -> AnyArray:
        """Our leaf of this shape, from their arrays."""
        parts = [self._view(array) for array in arrays]
        return (parts[0] if self.layers is None else np.stack(parts)).reshape(shape)

    def to_theirs(self, leaf: AnyArray) -> list[AnyArray]:
        """Their arrays; where they keep several of ours in one, ours alone, without the slot's axis."""
        taken = self._taken
        axes = self.axes or tuple(range(len(taken)))
        permuted, back = tuple(taken[axis] for axis in axes), np.argsort(axes)
        parts = [leaf] if self.layers is None else list(leaf)
        return [part.reshape(permuted).transpose(back) for part in parts]

    @property
    def _taken(self) -> Shape:
        """The shape of their array without the slot's axis."""
        if self.slot is None:
            return self.shape
        return tuple(n for axis, n in enumerate(self.shape) if axis != self.slot[0])

    def _view(self, array: AnyArray) -> AnyArray:
        array = array[: self.shape[0]] if self.padded else array
        taken = array if self.slot is None else np.take(array, self.slot[1], axis=self.slot[0])
        return taken if self.axes is None else taken.transpose(self.axes)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to write a network down.

    Attributes:
        name: for messages.
        rules: all of them; every array of theirs appears in at least one.
        renames: (pattern, replacement) pairs that bring the names of older and sister versions to those of the rules.
        tied: (name, name it may be missing under): an output head that is the token table.
        ignored: patterns of names (after renaming) that a file may hold and that nobody reads.
    """

    name: str
    rules: tuple[Rule, ...]
    renames: tuple[tuple[str, str], ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def expected(self) -> dict[str, Shape]:
        """Shape of every array of theirs."""
        return {name: rule.shape for rule in self.rules for name in rule.names}

    def canonical(self, name: str) -> str:
        """A name as the rules write it."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


def read_into(module: Module, layout: Layout, source: Source) -> Module:
    """The module with every leaf that the layout speaks of read from the source, in the leaf's own type.

    Args:
        module: arrays, or shapes in their place (`eqx.filter_eval_shape`); leaves without a rule stay as they are.
        layout: how the weights are written down.
        source: where they lie.

    Raises:
        WeightsError: lists every missing, extra and misshapen array by name, with expected and found shape.
    """
    names = _match(layout, source)
    leaves = named_leaves(module)
    new: dict[str, Any] = {}
    for rule in layout.rules:
        leaf = leaves[rule.ours]
        arrays = [source.read(names[name]) for name in rule.names]
        new[rule.ours] = _converted(rule.to_ours(arrays, tuple(leaf.shape)), leaf.dtype)
    return with_leaves(module, new)


def write_from(module: object, layout: Layout) -> dict[str, AnyArray]:
    """Every array of the layout, by the rules' names, in the types of the module's leaves."""
    leaves = named_leaves(module)
    whole: dict[str, AnyArray] = {}
    slots: dict[str, dict[int, AnyArray]] = {}
    axis: dict[str, int] = {}
    for rule in layout.rules:
        for name, array in zip(rule.names, rule.to_theirs(np.asarray(leaves[rule.ours])), strict=True):
            if rule.slot is None:
                whole[name] = np.ascontiguousarray(array)
            else:
                axis[name] = rule.slot[0]
                slots.setdefault(name, {})[rule.slot[1]] = array
    for name, parts in slots.items():
        whole[name] = np.stack([parts[i] for i in sorted(parts)], axis=axis[name])
    return whole


def unread(module: object, layout: Layout) -> list[str]:
    """Leaves of the module that the layout does not speak of."""
    spoken = {rule.ours for rule in layout.rules}
    return [name for name in named_leaves(module) if name not in spoken]


def differences(layout: Layout, shapes: Mapping[str, Shape]) -> list[str]:
    """What a file with these arrays (renamed) lacks, has too much or has in another shape; one line each."""
    expected = layout.expected()
    ignored = re.compile("|".join(layout.ignored) or r"(?!)")
    problems = [f"missing {name}, expected {shape}" for name, shape in expected.items() if name not in shapes]
    problems += [
        f"extra {name}, found {shape}"
        for name, shape in shapes.items()
        if name not in expected and not ignored.search(name)
    ]
    misshapen = {
        name: rule.shape
        for rule in layout.rules
        for name in rule.names
        if name in shapes and not rule.fits(shapes[name])
    }
    problems += [
        f"misshapen {name}, expected {shape}, found {shapes[name]}" for name, shape in misshapen.items()
    ]
    return problems


def canonical_names(layout: Layout, names: Iterable[str]) -> dict[str, str]:
    """Their name as the rules write it -> the name in the file; ties filled in."""
    found: dict[str, str] = {layout.canonical(name): name for name in names}
    for name, stand_in in layout.tied:
        if name not in found and stand_in in found:
            found[name] = found.pop(stand_in)
    return found


def _match(layout: Layout, source: Source) -> dict[str, str]:
    """As `canonical_names`, refusing a source that does not fit."""
    shapes = source.shapes()
    names = canonical_names(layout, shapes)
    problems = differences(layout, {name: shapes[there][0] for name, there in names.items()})
    if problems:
        raise WeightsError(
            source.where,
            [f"does not fit the layout {layout.name!r}", *problems],
            "Check that configuration and layout are those of the checkpoint (`lwd weights inspect`).",
        )
    return names


def _converted(array: AnyArray, dtype: Any) -> Any:
    # Converted by NumPy: JAX would compile a conversion for every shape.
    return jnp.asarray(array.astype(dtype, copy=False))
