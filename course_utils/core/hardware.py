"""What this machine has: GPU, memory, cores, disk and the speed of its matrix products."""

import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from course_utils.core.paths import home

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # what Linux shows inside a container
BF16_CAPABILITY = (8, 0)  # Ampere; older GPUs have no bfloat16 arithmetic


@dataclass(frozen=True)
class Hardware:
    """What this machine has. Sizes in GiB (2**30 bytes)."""

    device: Literal["cpu", "cuda"]
    gpu: str | None  # name of the first NVIDIA GPU
    vram_gib: float  # its memory; 0 without a GPU
    capability: tuple[int, int] | None  # its compute capability, (7, 5) for a T4
    bf16: bool  # bfloat16 arithmetic in hardware, on the GPU or else on the CPU
    ram_gib: float
    cores: int  # CPU cores this process may use
    disk_free_gib: float  # where the clone lies


def detect_hardware() -> Hardware:
    """Look at the first NVIDIA GPU (through torch), the CPU, the memory and the disk of this machine."""
    import torch

    found = hardware_without_torch()
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        capability = (gpu.major, gpu.minor)
        return replace(
            found,
            device="cuda",
            gpu=gpu.name,
            vram_gib=gpu.total_memory / 2**30,
            capability=capability,
            bf16=capability >= BF16_CAPABILITY,  # torch's own answer counts emulation on a T4 too
        )
    # Of the CPU's instructions those that torch's kernels use, on x86 (two) and ARM (one).
    abilities = torch.cpu.get_capabilities()
    return replace(found, bf16=any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")))


def hardware_without_torch() -> Hardware:
    """The machine as it is seen where torch cannot be imported: no GPU and no bfloat16, but memory, cores and disk."""
    import psutil

    return Hardware(
        device="cpu",
        gpu=None,
        vram_gib=0.0,
        capability=None,
        bf16=False,
        ram_gib=min(psutil.virtual_memory().total / 2**30, _container_limit()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        disk_free_gib=shutil.disk_usage(home()).free / 2**30,
    )


def _container_limit() -> float:
    """GiB of memory that a container may use; infinite outside of one."""
    try:
        return int(CONTAINER_LIMIT.read_text()) / 2**30
    except (OSError, ValueError):  # no such file, or "max"
        return float("inf")


def matmul_speed(dtype: str) -> float:
    """Floating point operations per second of this machine's matrix products.

    The fastest of a few products of a size that keeps the machine busy; takes about a second.

    Args:
        dtype: number format of the products, by torch's name.
    """
    import torch

    cuda = torch.cuda.is_available()
    width = 8192 if cuda else 2048
    factors = torch.randn(2, width, width, device="cuda" if cuda else "cpu").to(getattr(torch, dtype))
    times = []
    for _ in range(6):
        started = time.perf_counter()
        _ = factors[0] @ factors[1]
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * width**3 / min(times)
