"""The structure: imports go one way, and what must be quick does not load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

import wanalyze
from tests.conftest import FIXTURES, normal

PACKAGE = Path(wanalyze.__file__).parent
# Each room may import those before it; the facade, wanalyze itself, may be used by the command line only.
ROOMS = (
    *(
        "version",
        "errors",
        "printable",
        "numerals",
        "markdown",
        "metrics",
        "operators",
        "spectra",
        "checkpoints",
        "adapters",
    ),
    *("naming", "pairing", "intruders", "measure", "result", "findings", "engine", "inspection", "auditing", "wording"),
    *("report", "figures", "terminal", "cli", "__main__"),
)


def imports(source: str) -> Iterator[str]:
    """The rooms that a file imports, delayed imports and those for types included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("wanalyze."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("wanalyze"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    assert room in ROOMS, "a new room needs its place in the order"
    later = {found for found in imports(path.read_text()) if ROOMS.index(found) > ROOMS.index(room)}
    assert not later


def test_the_check_can_fail() -> None:
    source = "from wanalyze.report import page\nimport wanalyze.cli\nfrom wanalyze import terminal\n"
    assert list(imports(source)) == ["report", "cli", "terminal"]


def test_the_library_never_prints() -> None:
    for path in PACKAGE.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


QUICK = (
    "import wanalyze; wanalyze.Result",
    "from wanalyze.cli import main; main(['--help'])",
    "from wanalyze.cli import main; main(['compare', '--help'])",
    "from wanalyze.cli import main; main(['figures', '--help'])",
    "from wanalyze.cli import main; main(['explain', 'effective_rank'])",
    "from wanalyze.cli import main; main(['explain', 'rank-mismatch'])",
    "from wanalyze.cli import main; main(['audit', '--show-policy'])",
    "from wanalyze.cli import main; main(['show', 'RUN'])",
    "from wanalyze.cli import main; main(['report', 'RUN'])",
    f"from wanalyze.cli import main; main(['inspect', {str(FIXTURES / 'base')!r}])",
)


@pytest.mark.parametrize("code", QUICK)
def test_torch_is_not_loaded_for_what_needs_none(code: str, trained_run: Path) -> None:
    program = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write("LOADED " + " ".join({{"torch", "matplotlib"}} & set(sys.modules))))
{code.replace("'RUN'", repr(str(trained_run)))}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("LOADED ")


def test_figures_need_no_torch(trained_run: Path, tmp_path: Path) -> None:
    program = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write("LOADED " + " ".join({{"torch", "matplotlib.pyplot"}} & set(sys.modules))))
from wanalyze.cli import main
main(["figures", {str(trained_run)!r}, "--only", "depth", "--only", "table", "-o", {str(tmp_path)!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("LOADED ")


def test_peak_memory_follows_the_largest_matrix_not_the_checkpoint(tmp_path: Path) -> None:
    few, many = (peak_kilobytes(write_pair(tmp_path / str(count), count)) for count in (24, 104))
    held = 80 * 2 * 128 * 8192 * 2 / 1024  # what 80 more pairs of stored matrices would add if they were kept
    assert many - few < held / 2


def write_pair(folder: Path, count: int) -> Path:
    folder.mkdir()
    one = normal(128, 8192)  # much to hold and little to compute; the heap alone varies by some 20 MB between runs
    for name, scale in (("base", 0.0), ("tuned", 0.1)):
        matrices = {f"layers.{i}.w.weight": one.roll(i, 0) + scale * one.roll(7 * i + 1, 1) for i in range(count)}
        save_file({key: matrix.half() for key, matrix in matrices.items()}, folder / f"{name}.safetensors")
    return folder


def peak_kilobytes(folder: Path) -> int:
    program = f"""
import sys, torch, wanalyze
from pathlib import Path
torch.set_num_threads(1)
wanalyze.compare({str(folder / "base.safetensors")!r}, "t=" + {str(folder / "tuned.safetensors")!r})
status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's peak as well
sys.stdout.write(status.partition("VmHWM:")[2].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_help_is_quick() -> None:
    """Not a timing: the modules that make it slow are absent; this only catches a hang."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "wanalyze", "--help"], check=True, capture_output=True)
    assert time.monotonic() - start < 10
