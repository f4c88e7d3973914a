"""The frames of one episode of a LeRobot data set: its vectors, and its pictures as JPEG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lwd import image
from lwd.errors import ConfigError, EpisodeError
from lwd.log.lerobot.layout import Dataset, Entry, Video, table
from lwd.spec import CameraSpec

_ASPECT = 0.02
"""By how much height / width of a picture may differ from its camera's; more would put bars into it that a robot never sees."""


class Reader:
    """Reads episodes in the order of the data set; keeps the last file, since many episodes share one."""

    def __init__(self, dataset: Dataset, features: Sequence[str]) -> None:
        stored = [name for name in features if dataset.features[name].get("dtype") != "video"]
        self._dataset = dataset
        self._columns = list(dict.fromkeys(["episode_index", "frame_index", *stored]))
        self._path, self._table = None, None

    def frames(self, entry: Entry) -> EpisodeFrames:
        """The rows of an episode.

        Raises:
            ConfigError: their file cannot be read.
            EpisodeError: they are not the ones that the data set promises.
        """
        if entry.data != self._path:
            self._table = table(entry.data, self._columns)
            self._path = entry.data
        found = cast(Any, self._table)
        mine = np.flatnonzero(found.column("episode_index").to_numpy() == entry.index)
        order = found.column("frame_index").to_numpy()[mine]
        if not np.array_equal(order, np.arange(entry.length)):
            detail = f"{entry.data} has {len(mine)} frames of it, expected the frames 0 to {entry.length - 1} in order."
            raise EpisodeError(str(entry.index), "truncated", detail)
        return EpisodeFrames(self._dataset, entry, found.take(mine))


class EpisodeFrames:
    """The rows of one episode, n of them: a slice of a table, and videos."""

    def __init__(self, dataset: Dataset, entry: Entry, rows: Any) -> None:
        self._dataset, self._entry, self._rows = dataset, entry, rows

    def numbers(self, feature: str) -> NDArray[np.float32]:
        """A feature as float32 [n, width], flags as 0 and 1; EpisodeError if it holds no numbers, or several lengths."""
        column = self._rows.column(feature).combine_chunks()
        try:
            if hasattr(column, "flatten") and hasattr(column.type, "value_type"):
                flat = column.flatten()
                if flat.null_count or column.null_count or len(flat) % max(len(column), 1):
                    raise ValueError("vectors of several lengths, or gaps")
                values = flat.to_numpy(zero_copy_only=False)
            else:
                values = column.to_numpy(zero_copy_only=False)
            return np.asarray(values, np.float32).reshape(self._entry.length, -1)
        except (TypeError, ValueError) as error:
            raise self._refuse("shape", f"{feature} is no vector of numbers per frame: {error}") from error

    def pictures(self, feature: str, camera: CameraSpec) -> list[bytes]:
        """N JPEGs of the camera's size; EpisodeError if one is missing, cannot be decoded or has other proportions."""
        if self._dataset.features[feature].get("dtype") == "video":
            return [self._encoded(pixels, feature, camera) for pixels in self._decoded(feature)]
        return [self._stored(value, feature, camera) for value in self._rows.column(feature).to_pylist()]

    def _stored(self, value: object, feature: str, camera: CameraSpec) -> bytes:
        """A picture of the table. A JPEG that a robot could have sent is kept byte for byte."""
        found = cast(dict[str, object], value).get("bytes") if isinstance(value, dict) else None
        if not isinstance(found, bytes):
            raise self._refuse("missing", f"{feature} holds no picture's bytes in the table.")
        if image.jpeg_size(found) == (camera.height, camera.width):
            try:
                image.check(found, camera.height, camera.width)
                return found
            except image.PictureError:
                pass  # progressive, or too large for its pixels: decoded and written anew
        return self._encoded(self._pixels(found, feature), feature, camera)

    def _pixels(self, data: bytes, feature: str) -> image.Pixels:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise self._refuse("corrupt", f"a picture of {feature} cannot be decoded: {error}") from error

    def _decoded(self, feature: str) -> Iterator[image.Pixels]:
        video, fps = self._entry.videos[feature], self._dataset.fps
        wanted = 0
        for picture in _video(video):
            number = round((picture.time - video.from_s) * fps)
            if number > wanted:
                break
            if number == wanted:
                yield picture.to_ndarray(format="rgb24")
                wanted += 1
            if wanted == self._entry.length:
                return
        detail = f"{video.path} has no picture of {feature} for frame {wanted} at {video.from_s + wanted / fps:.3f} s."
        raise self._refuse("missing", detail)

    def _encoded(self, pixels: image.Pixels, feature: str, camera: CameraSpec) -> bytes:
        height, width = pixels.shape[:2]
        if abs(height / width - camera.height / camera.width) > _ASPECT * camera.height / camera.width:
            detail = (
                f"pictures of {feature} are {height} x {width}, camera {camera.name} is {camera.height} x {camera.width}, "
                "which has other proportions."
            )
            raise self._refuse("shape", detail)
        return image.encode(image.resize_with_pad(pixels, camera.height, camera.width))

    def _refuse(self, reason: str, detail: str) -> EpisodeError:
        return EpisodeError(str(self._entry.index), reason, detail)


def _video(video: Video) -> Iterator[Any]:
    """PyAV's frames with their seconds in the file, from shortly before the episode's beginning on."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise ConfigError('Videos of LeRobot data sets need PyAV: pip install "lwd[lerobot]".') from error
    try:
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None  # of every stream that a file describes
            container.seek(int(video.from_s / stream.time_base), stream=stream)
            yield from container.decode(stream)
    except (OSError, IndexError, FFmpegError) as error:
        raise ConfigError(f"{video.path} cannot be read as a video: {error}") from error
