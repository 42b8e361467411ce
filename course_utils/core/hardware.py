"""What this machine has: GPU, memory, cores and disk."""

import os
import shutil
from contextlib import suppress
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
    if not torch.cuda.is_available():
        abilities = torch.cpu.get_capabilities()  # those that torch's kernels use on x86 (two) and ARM (one)
        return replace(found, bf16=any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")))
    gpu = torch.cuda.get_device_properties(0)
    vram, capability = gpu.total_memory / 2**30, (gpu.major, gpu.minor)
    bf16 = capability >= BF16_CAPABILITY  # torch's own answer counts emulation on a T4 too
    return replace(found, device="cuda", gpu=gpu.name, vram_gib=vram, capability=capability, bf16=bf16)


def hardware_without_torch() -> Hardware:
    """The machine where torch cannot be imported: no GPU and no bfloat16, but memory, cores and disk."""
    import psutil

    memory = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # no such file, or "max": there is no limit
        memory = min(memory, int(CONTAINER_LIMIT.read_text()))
    return Hardware(
        device="cpu",
        gpu=None,
        vram_gib=0.0,
        capability=None,
        bf16=False,
        ram_gib=memory / 2**30,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        disk_free_gib=shutil.disk_usage(home()).free / 2**30,
    )
