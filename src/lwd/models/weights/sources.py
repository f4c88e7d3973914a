"""Where weights lie: safetensors files (one, or shards with an index) and orbax checkpoints. Arrays by name, when asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ml_dtypes  # noqa: F401  # pyright: ignore[reportUnusedImport] - teaches NumPy the name bfloat16
import numpy as np
from numpy.typing import NDArray

from lwd.errors import WeightsError

Shape = tuple[int, ...]
_INDEX = "model.safetensors.index.json"


@runtime_checkable
class Source(Protocol):
    """Named arrays."""

    @property
    def where(self) -> str:
        """What is read, for messages."""
        ...

    def shapes(self) -> dict[str, tuple[Shape, str]]:
        """Shape and type of every array, without reading any."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """One array."""
        ...


class Arrays:
    """A source in memory."""

    def __init__(self, where: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.where, self._arrays = where, arrays

    def shapes(self) -> dict[str, tuple[Shape, str]]:
        """Shape and type of every array."""
        return {name: (array.shape, str(array.dtype)) for name, array in self._arrays.items()}

    def read(self, name: str) -> NDArray[Any]:
        """One array."""
        return self._arrays[name]


class Safetensors:
    """A .safetensors file, or a folder with model.safetensors or with shards and their index."""

    def __init__(self, path: Path) -> None:
        self.where, self._files = str(path), _safetensors_files(path)
        self._home: dict[str, Path] = {}
        self._shapes: dict[str, tuple[Shape, str]] = {}
        for file in self._files:
            for name, (shape, dtype) in _header(file).items():
                self._home[name], self._shapes[name] = file, (shape, dtype)

    def shapes(self) -> dict[str, tuple[Shape, str]]:
        """Shape and type of every array, from the files' headers."""
        return self._shapes

    def metadata(self) -> dict[str, str]:
        """The first file's metadata, empty where it has none."""
        from safetensors import safe_open

        with safe_open(self._files[0], framework="np") as file:
            return file.metadata() or {}

    def read(self, name: str) -> NDArray[Any]:
        """One array."""
        from safetensors import safe_open

        with safe_open(self._home[name], framework="np") as file:
            return np.asarray(file.get_tensor(name))


class Orbax:
    """An orbax checkpoint of openpi: `path` or `path`/params; names joined with "/", without the "value" of training states."""

    def __init__(self, path: Path) -> None:
        folder = path / "params" if (path / "params").is_dir() else path
        self.where = str(folder)
        if not (folder / "_METADATA").is_file():
            raise WeightsError(
                self.where,
                ["no orbax checkpoint here (no _METADATA)"],
                "Give the folder that holds `params`, or `params` itself.",
            )
        self._folder = folder.resolve()
        self._tree = self._metadata()
        self._arrays: dict[str, NDArray[Any]] | None = None

    def shapes(self) -> dict[str, tuple[Shape, str]]:
        """Shape and type of every array, from the checkpoint's metadata."""
        flat = _pure(_flatten(self._tree))
        return {name: (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in flat.items()}

    def read(self, name: str) -> NDArray[Any]:
        """One array; the first call restores the whole checkpoint into memory."""
        if self._arrays is None:
            self._arrays = _pure(_flatten(self._restore()))
        return self._arrays[name]

    def _metadata(self) -> Any:
        import orbax.checkpoint as ocp

        with ocp.PyTreeCheckpointer() as checkpointer:
            tree: Any = checkpointer.metadata(self._folder).item_metadata.tree
        if "params" not in tree:
            raise WeightsError(
                self.where,
                [f"no `params` at the checkpoint's top, found {', '.join(sorted(tree))}"],
                "Expected a checkpoint of openpi.",
            )
        return tree["params"]

    def _restore(self) -> Any:
        import jax
        import orbax.checkpoint as ocp

        item = {"params": self._tree}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        with ocp.PyTreeCheckpointer() as checkpointer:
            restored: Any = checkpointer.restore(
                self._folder, ocp.args.PyTreeRestore(item=item, restore_args=arguments)
            )
        return restored["params"]


def open_source(path: Path) -> Source:
    """Safetensors or orbax, whichever lies there.

    Raises:
        WeightsError: neither, or a file that is none.
    """
    if (path / "_METADATA").is_file() or (path / "params").is_dir():
        return Orbax(path)
    return Safetensors(path)


def _safetensors_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / _INDEX).is_file():
        files = sorted({path / name for name in _shards(path / _INDEX)})
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise WeightsError(
                str(path), [f"missing shard {name}" for name in missing], "Fetch the checkpoint again."
            )
        return files
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    raise WeightsError(
        str(path),
        ["no weights found"],
        f"Expected a .safetensors file, or a folder with model.safetensors, {_INDEX} or an orbax `params`.",
    )


def _shards(index: Path) -> list[str]:
    """The files that an index names, one per array."""
    try:
        names = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        names, cause = [], f"{type(error).__name__}: {error}"
    else:
        cause = "weight_map names no file"
    if not names or not all(isinstance(name, str) for name in names):
        raise WeightsError(
            str(index),
            [f"no readable index of shards ({cause})"],
            'Expected {"weight_map": {array: file}}. Fetch it again.',
        )
    return names


def _header(path: Path) -> dict[str, tuple[Shape, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return {name: (tuple(s.get_shape()), str(s.get_dtype())) for name, s in slices.items()}
    except SafetensorError as error:
        raise WeightsError(
            str(path), [f"no readable safetensors file ({error})"], "Fetch it again."
        ) from error


def _flatten(tree: Any, before: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {before: tree}
    flat: dict[str, Any] = {}
    for name, branch in tree.items():
        flat |= _flatten(branch, f"{before}/{name}" if before else str(name))
    return flat


def _pure(flat: dict[str, Any]) -> dict[str, Any]:
    """Without the "value" that openpi's training state puts at every end."""
    if flat and all(name.endswith("/value") for name in flat):
        return {name.removesuffix("/value"): leaf for name, leaf in flat.items()}
    return flat
