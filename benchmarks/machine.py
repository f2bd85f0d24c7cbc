"""On what a benchmark ran, and how much memory it took."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

_PROC = Path("/proc/self")


@dataclass(frozen=True)
class Machine:
    """What a timing depends on besides the code."""

    cpu: str
    cores: int
    threads: int
    gpu: str | None
    torch: str


def this_machine() -> Machine:
    """The machine as torch sees it: `cores` are those this process may use, `threads` those torch does use."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Machine(_cpu(), _cores(), torch.get_num_threads(), gpu, torch.__version__)


class PeakMemory:
    """The most memory in use since this was made, in bytes; None where it cannot be known."""

    def __init__(self) -> None:
        self._was_reset = _reset_host()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def host(self) -> int | None:
        """Of this process, all of it: the interpreter and its libraries are some hundred MB."""
        return _high_water_mark() if self._was_reset else None

    def cuda(self) -> int | None:
        """Of torch's tensors on the current GPU; the workspaces of cuSOLVER come on top."""
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def _reset_host() -> bool:
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:  # not Linux, or a container that does not allow it
        return False
    return True


def _high_water_mark() -> int | None:
    try:
        status = (_PROC / "status").read_text()
    except OSError:
        return None
    kilobytes = _field(status, "VmHWM")
    return int(kilobytes.split()[0]) * 1024 if kilobytes else None


def _cpu() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        described = ""
    return _field(described, "model name") or platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _field(text: str, name: str) -> str | None:
    """The value of the first line `name: value`."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
