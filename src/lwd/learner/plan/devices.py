"""GPUs by their public data sheets: memory, dense bfloat16 peak, memory bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lwd.errors import UnknownNameError

USABLE = 0.92
"""Share of a GPU's memory that a plan may fill: CUDA's context, XLA's workspace and fragmentation take the rest. Assumed."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One GPU.

    Attributes:
        title: its name.
        memory: bytes. Vendors print "80 GB" where the driver reports 80 GiB less a little, so 80 means 80 GiB here.
        flops: dense bfloat16 matrix products with float32 accumulation, per second; half the figure "with sparsity".
        bandwidth: bytes per second between the GPU and its memory.
        source: where the numbers are printed.
    """

    title: str
    memory: int
    flops: float
    bandwidth: float
    source: str

    @property
    def usable(self) -> int:
        """Bytes that a plan may fill."""
        return int(USABLE * self.memory)


def _device(title: str, gib: int, teraflops: float, gigabytes_per_s: float, source: str) -> Device:
    return Device(
        title=title,
        memory=gib * 2**30,
        flops=teraflops * 1e12,
        bandwidth=gigabytes_per_s * 1e9,
        source=source,
    )


_A100 = "NVIDIA A100 Tensor Core GPU data sheet, SXM"
DEVICES: Mapping[str, Device] = {
    "rtx4090": _device(
        "RTX 4090 24 GB", 24, 165.2, 1008.0, "NVIDIA Ada GPU architecture whitepaper, appendix A"
    ),
    "a100-40": _device("A100 40 GB", 40, 312.0, 1555.0, _A100),
    "a100-80": _device("A100 80 GB", 80, 312.0, 2039.0, _A100),
    "h100": _device("H100 80 GB", 80, 989.0, 3350.0, "NVIDIA H100 Tensor Core GPU data sheet, SXM"),
    "h200": _device("H200 141 GB", 141, 989.0, 4800.0, "NVIDIA H200 Tensor Core GPU data sheet, SXM"),
    "b200": _device(
        "B200 180 GB", 180, 2250.0, 8000.0, "NVIDIA DGX B200 data sheet, an eighth of the system"
    ),
}


def device_named(name: str) -> Device:
    """The GPU of this name; UnknownNameError where there is none."""
    if name not in DEVICES:
        raise UnknownNameError("GPU", name, DEVICES)
    return DEVICES[name]
