"""What lies in a checkpoint, and which configuration and layout it fits, without reading its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from lwd.models.vla.config import GEMMA3_270M, PI0, PI05, SO400M_224, PiConfig
from lwd.models.weights import torch_layouts
from lwd.models.weights.openpi_layout import openpi
from lwd.models.weights.rules import Layout, canonical_names, differences
from lwd.models.weights.sources import Shape, Source, open_source


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a checkpoint holds.

    Attributes:
        where: file or folder.
        arrays: name -> shape and type.
        parameters: how many numbers in all.
        fits: layouts (of the published sizes, and of those asked about) that the checkpoint is.
        nearest: the layout with the fewest differences, and these, one line each; empty where one fits.
    """

    where: str
    arrays: dict[str, tuple[Shape, str]]
    parameters: int
    fits: list[str]
    nearest: tuple[str, list[str]]

    def lines(self, names: bool = False) -> list[str]:
        """For people: totals, what it is, what is in the way; with `names` every array too."""
        types = sorted({dtype for _, dtype in self.arrays.values()})
        text = [
            f"{self.where}: {len(self.arrays)} arrays, {self.parameters:,} parameters, {', '.join(types)}"
        ]
        if names:
            text += [f"  {name} {shape} {dtype}" for name, (shape, dtype) in sorted(self.arrays.items())]
        if self.fits:
            return [*text, f"fits: {', '.join(self.fits)}"]
        name, problems = self.nearest
        return [*text, f"fits no known layout; nearest is {name}:", *(f"  {line}" for line in problems)]


def inspect(path: Path, config: PiConfig | None = None) -> Inspection:
    """Read the names and shapes at a path and compare them with every layout; `config` adds sizes of one's own.

    Raises:
        WeightsError: there are no weights, or the file is broken.
    """
    source = open_source(path)
    arrays = source.shapes()
    found = {name: _compare(layout, source) for name, layout in _layouts(config).items()}
    fits = [name for name, problems in found.items() if not problems]
    nearest = min(found, key=lambda name: len(found[name]))
    return Inspection(
        where=source.where,
        arrays=arrays,
        parameters=sum(prod(shape) for shape, _ in arrays.values()),
        fits=fits,
        nearest=("", []) if fits else (nearest, found[nearest]),
    )


def _layouts(config: PiConfig | None) -> dict[str, Layout]:
    published = [
        *(make(sizes) for sizes in (PI05, PI0) for make in (openpi, torch_layouts.lerobot)),
        torch_layouts.paligemma(PI05),
        torch_layouts.gemma3(GEMMA3_270M, 262_144),
        torch_layouts.siglip(SO400M_224),
    ]
    layouts = {layout.name: layout for layout in published}
    if config is not None:
        for make in (openpi, torch_layouts.lerobot, torch_layouts.paligemma):
            layout = make(config)
            layouts[f"{layout.name}, of the given sizes"] = layout
    return layouts


def _compare(layout: Layout, source: Source) -> list[str]:
    shapes = source.shapes()
    names = canonical_names(layout, shapes)
    return differences(layout, {name: shapes[there][0] for name, there in names.items()})
