"""Reading a sharded checkpoint against reading its bytes plainly, and what `inspect` of it takes.

python -m benchmarks.reading [GIGABYTES]
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine import this_machine

_SHARDS = 4
_SIDE = 4096  # bf16 matrices of 4096 x 4096: 32 MiB each
_REPEAT = 3


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("gigabytes", nargs="?", type=float, default=2.0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_checkpoint(folder, round(options.gigabytes * 1e9))
        plain, ours = in_turn(lambda: read_plainly(folder), lambda: read_tensors(folder))
        seconds, kilobytes = inspected(folder)
        machine = this_machine()
        say(f"{machine.cpu}, torch {machine.torch}, {size / 1e9:.2f} GB in {_SHARDS} shards, in the system's cache")
        say(f"bytes of the files, one buffer a matrix   {plain:6.2f} s")
        say(f"all tensors through open_checkpoint       {ours:6.2f} s   {ours / plain:.2f} x")
        say(f"wanalyze inspect                          {seconds:6.2f} s   {kilobytes / 1000:.0f} MB at most")


def write_checkpoint(folder: Path, size: int) -> int:
    """Random matrices in shards with an index; the size in bytes."""
    matrix = bytes(range(256)) * (2 * _SIDE * _SIDE // 256)
    each = max(1, size // (_SHARDS * len(matrix)))
    weight_map: dict[str, str] = {}
    for shard in range(_SHARDS):
        names = [f"model.layers.{shard * each + i}.mlp.up_proj.weight" for i in range(each)]
        file = f"model-{shard + 1:05}-of-{_SHARDS:05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        with (folder / file).open("wb") as stream:
            stream.write(_header(names, len(matrix)))
            for _ in names:
                stream.write(matrix)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.iterdir())


def _header(names: Sequence[str], size: int) -> bytes:
    entries = {
        name: {"dtype": "BF16", "shape": [_SIDE, _SIDE], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def in_turn(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the quickest of some runs of each, in turn: a shared machine slows both alike."""
    runs = [(_seconds(first), _seconds(second)) for _ in range(_REPEAT + 1)][1:]
    return min(one for one, _ in runs), min(other for _, other in runs)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_plainly(folder: Path) -> None:
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(bytearray(2 * _SIDE * _SIDE)):
                pass


def read_tensors(folder: Path) -> None:
    import wanalyze

    for entry in wanalyze.open_checkpoint(folder).entries.values():
        entry.read()


def inspected(folder: Path) -> tuple[float, int]:
    """Seconds and peak kilobytes of the command."""
    program = (
        "import sys; from pathlib import Path; from wanalyze.cli import main\n"
        "try: main(['inspect', sys.argv[1]])\n"
        # getrusage would count the peak of the process that started this one as well
        "finally: sys.stderr.write(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, int(done.stderr)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
