"""The cache: what comes out is what went in, to the bit, or nothing."""

from __future__ import annotations

import hashlib
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tests.conftest import normal
from wanalyze.engine.cache import Cache, Shapes, default_folder, default_limit, key_of
from wanalyze.errors import UsageError

KEY, OTHER = "0" * 63 + "a", "0" * 63 + "b"


def spectrum(m: int = 12, n: int = 7, k: int = 3, *, seed: int = 0) -> dict[str, Tensor]:
    shapes = {"values": (min(m, n),), "u": (m, k), "leading": (k,), "v": (n, k), "angles": (k,)}
    return {name: normal(*shape, seed=seed + i, dtype=torch.float64) for i, (name, shape) in enumerate(shapes.items())}


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def entry_of(cache: Cache, key: str = KEY) -> Path:
    return cache.folder / f"{key}.safetensors"


def same(found: dict[str, Tensor] | None, tensors: dict[str, Tensor]) -> bool:
    """Equal to the bit: -0.0 is not 0.0."""
    return (
        found is not None
        and found.keys() == tensors.keys()
        and all(torch.equal(found[key].view(torch.int64), tensors[key].view(torch.int64)) for key in tensors)
    )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "deep" / "cache")


# Keys


def test_a_key_is_the_content_and_nothing_else() -> None:
    stored = normal(6, 8, dtype=torch.bfloat16)
    assert key_of(stored, recipe="1") == key_of(stored.clone(), recipe="1")
    assert key_of(stored.mT, recipe="1") == key_of(stored.mT.contiguous(), recipe="1")


def test_whatever_differs_gives_another_key() -> None:
    stored = torch.arange(24, dtype=torch.int16).view(torch.float16)
    changed = [
        stored.view(4, 6),
        stored.view(6, 4),
        stored.view(24, 1),
        stored.view(torch.bfloat16),
        stored.view(torch.int16),
        stored[:23],
        stored.flip(0),
    ]
    keys = {key_of(tensor, recipe=recipe) for tensor in (stored, *changed) for recipe in ("", "1", "2")}
    assert len(keys) == 3 * 8


def test_shape_dtype_and_recipe_cannot_be_taken_for_one_another() -> None:
    one = torch.tensor([], dtype=torch.uint8)
    assert key_of(one, recipe='x", "torch.uint8"') != key_of(one, recipe="x")
    assert key_of(torch.zeros(0, 3), recipe="") != key_of(torch.zeros(3, 0), recipe="")


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8],
    ids=str,
)
def test_one_bit_gives_another_key(dtype: torch.dtype) -> None:
    stored = normal(5, 3).to(dtype)
    raw = stored.view(-1).view(torch.uint8)
    keys = {key_of(stored, recipe="")}
    for at in range(raw.numel()):
        raw[at] ^= 1 << at % 8
        keys.add(key_of(stored, recipe=""))
        raw[at] ^= 1 << at % 8
    assert len(keys) == raw.numel() + 1


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1,)])
def test_small_shapes_have_keys(shape: tuple[int, ...]) -> None:
    assert len(key_of(torch.zeros(shape, dtype=torch.bfloat16), recipe="")) == 64


@pytest.mark.parametrize("key", ["", "a", "../" + "0" * 61, "0" * 65, "A" * 64, "0" * 63 + "\n"])
def test_only_a_key_becomes_a_file_name(cache: Cache, key: str) -> None:
    with pytest.raises(ValueError, match="a key is 64"):
        cache.get(key, {})
    with pytest.raises(ValueError, match="a key is 64"):
        cache.put(key, {})


# Round trip


def test_a_round_trip_is_exact_to_the_bit(cache: Cache) -> None:
    extremes = torch.tensor([-0.0, 5e-324, -5e-324, 1.7e308, math.pi, 2.0**-1022], dtype=torch.float64)
    tensors = {**spectrum(), "extremes": extremes, "none": torch.empty(0, 3, dtype=torch.float64)}
    tensors["scalar"] = torch.tensor(1 / 3, dtype=torch.float64)
    assert cache.get(KEY, shapes_of(tensors)) is None
    assert cache.put(KEY, tensors)
    assert same(cache.get(KEY, dict(reversed(shapes_of(tensors).items()))), tensors)


def test_what_is_read_has_memory_of_its_own(cache: Cache) -> None:
    tensors = spectrum()
    cache.put(KEY, tensors)
    first = cache.get(KEY, shapes_of(tensors))
    assert first is not None
    for tensor in first.values():
        assert tensor.untyped_storage().nbytes() == 8 * tensor.numel()
        tensor.zero_()
    assert same(cache.get(KEY, shapes_of(tensors)), tensors)


def test_a_view_that_is_not_contiguous_is_kept_as_it_reads(cache: Cache) -> None:
    matrix = normal(4, 6, dtype=torch.float64).mT
    assert cache.put(KEY, {"u": matrix})
    found = cache.get(KEY, {"u": (6, 4)})
    assert found is not None
    assert torch.equal(found["u"], matrix)


def test_an_entry_is_a_safetensors_file(cache: Cache) -> None:
    tensors = spectrum()
    cache.put(KEY, tensors)
    content = entry_of(cache).read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    with safe_open(entry_of(cache), "pt") as file:
        assert file.metadata() == {"key": KEY}
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert bytes(read.pop("sha256").tolist()) == hashlib.sha256(content[:-32]).digest()
    assert same(read, tensors)


def test_a_second_put_replaces_the_first(cache: Cache) -> None:
    cache.put(KEY, spectrum(seed=1))
    cache.put(KEY, spectrum(seed=2))
    assert same(cache.get(KEY, shapes_of(spectrum())), spectrum(seed=2))
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_nobody_else_can_read_it(cache: Cache) -> None:
    cache.put(KEY, spectrum())
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert entry_of(cache).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_kept(cache: Cache, bad: float) -> None:
    tensors = spectrum()
    tensors["v"][2, 1] = bad
    assert not cache.put(KEY, tensors)
    assert not cache.folder.exists()


def test_another_dtype_is_a_mistake_of_the_caller(cache: Cache) -> None:
    with pytest.raises(ValueError, match="float64"):
        cache.put(KEY, {"values": torch.ones(3)})


# Damage


def refused_then_healed(cache: Cache, *, gone: bool = True) -> None:
    tensors = spectrum()
    assert cache.get(KEY, shapes_of(tensors)) is None
    assert os.path.lexists(entry_of(cache)) is not gone
    assert cache.put(KEY, tensors)
    assert same(cache.get(KEY, shapes_of(tensors)), tensors)


def test_a_flipped_bit_anywhere_is_noticed(cache: Cache) -> None:
    cache.put(KEY, spectrum())
    content = entry_of(cache).read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    borders = [0, 7, 8, length - 1, length, len(content) - 33, len(content) - 32, len(content) - 1]
    for at in sorted({*borders, *range(3, len(content), len(content) // 60)}):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        entry_of(cache).write_bytes(damaged)
        refused_then_healed(cache)


def test_a_file_cut_short_or_grown_is_noticed(cache: Cache) -> None:
    cache.put(KEY, spectrum())
    content = entry_of(cache).read_bytes()
    whole = len(content)
    for length in (0, 1, 7, 8, 9, 100, whole // 2, whole - 33, whole - 32, whole - 1, whole + 1, whole + 32):
        entry_of(cache).write_bytes((content + bytes(64))[:length])
        refused_then_healed(cache)


def test_a_file_cut_short_while_it_is_read_is_noticed(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(KEY, spectrum())
    real = Path.lstat

    def cut_after(self: Path) -> os.stat_result:
        state = real(self)
        if self == entry_of(cache):
            os.truncate(self, state.st_size - 100)
        return state

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", cut_after)
        assert cache.get(KEY, shapes_of(spectrum())) is None
    assert not entry_of(cache).exists()


def sealed(body: bytes) -> bytes:
    """As a forger would: whatever it is, the hash fits."""
    return body + hashlib.sha256(body).digest()


def forgeries() -> dict[str, Callable[[bytes], bytes]]:
    nan, inf = (torch.tensor(value, dtype=torch.float64).numpy().tobytes() for value in (math.nan, math.inf))
    return {
        "nan": lambda content: sealed(content[:-40] + nan),
        "infinity": lambda content: sealed(content[:-40] + inf),
        "shape": lambda content: sealed(content[:-32].replace(b"[12,3]", b"[3,12]")),
        "dtype": lambda content: sealed(content[:-32].replace(b'"F64"', b'"I64"')),
        "name": lambda content: sealed(content[:-32].replace(b'"values"', b'"valuez"')),
        "key": lambda content: sealed(content[:-32].replace(KEY.encode(), OTHER.encode())),
        "no JSON": lambda content: sealed(content[:8] + b"}" * 8 + content[16:-32]),
        "ten gigabytes": lambda content: sealed((10 * 2**30).to_bytes(8, "little") + content[8:-32]),
        "zeros": lambda content: bytes(len(content)),
    }


@pytest.mark.parametrize("forge", forgeries().values(), ids=forgeries())
def test_a_right_hash_does_not_make_it_right(cache: Cache, forge: Callable[[bytes], bytes]) -> None:
    cache.put(KEY, spectrum())
    content = entry_of(cache).read_bytes()
    forged = forge(content)
    assert forged != content
    assert len(forged) == len(content)
    entry_of(cache).write_bytes(forged)
    refused_then_healed(cache)


def test_the_entry_of_another_key_is_refused(cache: Cache) -> None:
    cache.put(OTHER, spectrum())
    entry_of(cache, OTHER).replace(entry_of(cache))
    refused_then_healed(cache)


OTHER_SHAPES: dict[str, Shapes] = {
    "transposed": {**shapes_of(spectrum()), "u": (3, 12)},
    "longer": {**shapes_of(spectrum()), "values": (8,)},
    "one missing": {name: shape for name, shape in shapes_of(spectrum()).items() if name != "angles"},
    "one more": {**shapes_of(spectrum()), "more": (1,)},
    "another dimension": {**shapes_of(spectrum()), "leading": (3, 1)},
}


@pytest.mark.parametrize("expected", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_an_entry_of_other_shapes_is_refused(cache: Cache, expected: Shapes) -> None:
    cache.put(KEY, spectrum())
    assert cache.get(KEY, expected) is None
    assert not entry_of(cache).exists()


def test_a_file_of_the_wrong_size_is_not_even_opened(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(self: Path, *arguments: object) -> None:
        raise AssertionError("opened")

    cache.put(KEY, spectrum())
    os.truncate(entry_of(cache), 10 * 2**30)  # sparse
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        assert cache.get(KEY, shapes_of(spectrum())) is None
    assert not entry_of(cache).exists()


def test_a_folder_in_its_place(cache: Cache) -> None:
    entry_of(cache).mkdir(parents=True)
    refused_then_healed(cache)


def test_a_folder_that_holds_something_stays(cache: Cache) -> None:
    (entry_of(cache) / "mine").mkdir(parents=True)
    assert cache.get(KEY, shapes_of(spectrum())) is None
    assert not cache.put(KEY, spectrum())
    assert [path.name for path in cache.folder.rglob("*")] == [entry_of(cache).name, "mine"]


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_a_link_is_not_followed(cache: Cache, tmp_path: Path) -> None:
    cache.put(KEY, spectrum())
    elsewhere = entry_of(cache).rename(tmp_path / "elsewhere")
    before = elsewhere.read_bytes(), elsewhere.stat().st_mtime_ns
    as_long = str(elsewhere).rjust(len(before[0]), "/")  # a link's size is the length of its target
    for target in (elsewhere, as_long, tmp_path / "nowhere", entry_of(cache), tmp_path):
        entry_of(cache).unlink(missing_ok=True)
        entry_of(cache).symlink_to(target)
        refused_then_healed(cache)
    assert (elsewhere.read_bytes(), elsewhere.stat().st_mtime_ns) == before


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_a_pipe_does_not_block(cache: Cache) -> None:
    cache.folder.mkdir(parents=True)
    os.mkfifo(entry_of(cache))
    refused_then_healed(cache)


def test_an_unreadable_file_is_no_error(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Path, *arguments: object) -> None:
        raise OSError(5, "Input/output error")

    cache.put(KEY, spectrum())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        assert cache.get(KEY, shapes_of(spectrum())) is None
    assert not entry_of(cache).exists()


# Size limit


def keys(count: int) -> list[str]:
    return [f"{i:064x}" for i in range(count)]


def aged(cache: Cache, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(entry_of(cache, key), (then, then))


def entry_size(tmp_path: Path) -> int:
    probe = Cache(tmp_path / "probe")
    probe.put(KEY, spectrum())
    return entry_of(probe).stat().st_size


def test_the_oldest_go_and_the_used_stay(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=3 * entry_size(tmp_path))
    a, b, c, d, e = keys(5)
    for i, key in enumerate((a, b, c)):
        assert cache.put(key, spectrum())
        aged(cache, key, 100 - i)
    assert cache.get(a, shapes_of(spectrum())) is not None
    held = []
    for key in (d, e):
        cache.put(key, spectrum())
        held.append({k for k in (a, b, c, d, e) if entry_of(cache, k).exists()})
    assert held == [{a, c, d}, {a, d, e}]


def test_the_newest_stays_whatever_the_clocks_say(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=2 * entry_size(tmp_path) - 1)
    a, b = keys(2)
    cache.put(a, spectrum())
    aged(cache, a, -3600)
    assert cache.put(b, spectrum())
    assert [path.name for path in cache.folder.iterdir()] == [entry_of(cache, b).name]


def test_a_smaller_limit_holds_from_the_next_put(tmp_path: Path) -> None:
    size = entry_size(tmp_path)
    wide = Cache(tmp_path / "cache")
    for i, key in enumerate(keys(10)):
        wide.put(key, spectrum())
        aged(wide, key, 100 - i)
    Cache(wide.folder, limit=4 * size + 1).put(KEY, spectrum())
    assert {path.stem for path in wide.folder.iterdir()} == {*keys(10)[-3:], KEY}


def test_an_entry_beyond_the_limit_is_not_written(tmp_path: Path) -> None:
    size = entry_size(tmp_path)
    assert Cache(tmp_path / "fits", limit=size).put(KEY, spectrum())
    assert not Cache(tmp_path / "cache", limit=size - 1).put(KEY, spectrum())
    assert not (tmp_path / "cache").exists()


def test_a_limit_of_zero_turns_it_off(cache: Cache) -> None:
    cache.put(KEY, spectrum())
    off = Cache(cache.folder, limit=0)
    assert off.get(KEY, shapes_of(spectrum())) is None
    assert not off.put(OTHER, spectrum())
    assert [path.name for path in cache.folder.iterdir()] == [entry_of(cache).name]


def test_what_writers_left_behind_is_swept_after_a_day(cache: Cache) -> None:
    cache.folder.mkdir(parents=True)
    stale, fresh = (cache.folder / f".{KEY}.{name}.partial" for name in ("abcd_123", "efgh4567"))
    for path, age in ((stale, 25 * 3600), (fresh, 23 * 3600)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    cache.put(OTHER, spectrum())
    assert not stale.exists()
    assert fresh.exists()


def test_files_of_others_are_never_removed(tmp_path: Path) -> None:
    """Someone sets WANALYZE_CACHE to the folder of a model."""
    cache = Cache(tmp_path, limit=entry_size(tmp_path))
    names = ["model.safetensors", ".hidden.partial", f"{KEY}.bin", f"x{KEY}.safetensors", f"{KEY[1:]}.safetensors"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(5000))
        os.utime(tmp_path / name, (0, 0))
    assert cache.put(KEY, spectrum())
    assert cache.put(OTHER, spectrum())
    assert {path.name for path in tmp_path.iterdir()} == {*names, "probe", entry_of(cache, OTHER).name}


def test_a_file_that_vanishes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache", limit=2 * entry_size(tmp_path))
    a, b, c = keys(3)
    for key, age in ((a, 100), (b, 50)):
        cache.put(key, spectrum())
        aged(cache, key, age)
    real = Path.lstat

    def vanishing(self: Path) -> os.stat_result:
        if self == entry_of(cache, a):
            self.unlink(missing_ok=True)
        return real(self)

    monkeypatch.setattr(Path, "lstat", vanishing)
    assert cache.put(c, spectrum())
    assert {path.stem for path in cache.folder.iterdir()} == {b, c}
    assert cache.get(a, shapes_of(spectrum())) is None


# Where nothing can be written


def test_a_folder_that_cannot_be_made_is_told_quietly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        cache = Cache(folder)
        assert not cache.put(KEY, spectrum())
        assert cache.get(KEY, shapes_of(spectrum())) is None
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_folder_is_still_read(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: root, as in many containers, may write anywhere."""

    def read_only(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    cache.put(KEY, spectrum())
    for name in ("os.utime", "tempfile.mkstemp", "pathlib.Path.unlink"):
        monkeypatch.setattr(name, read_only)
    assert same(cache.get(KEY, shapes_of(spectrum())), spectrum())
    assert not cache.put(KEY, spectrum(seed=1))
    assert cache.get(KEY, {"values": (3,)}) is None
    assert same(cache.get(KEY, shapes_of(spectrum())), spectrum())


def test_a_full_disk_leaves_no_trace(cache: Cache) -> None:
    resource = pytest.importorskip("resource")
    cache.put(OTHER, spectrum())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        kept = cache.put(KEY, spectrum(m=4000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not kept
    assert [path.name for path in cache.folder.iterdir()] == [entry_of(cache, OTHER).name]


def test_an_interrupted_write_leaves_what_was_there(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    cache.put(KEY, spectrum())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.put(KEY, spectrum(seed=1))
    assert same(cache.get(KEY, shapes_of(spectrum())), spectrum())
    assert len(list(cache.folder.iterdir())) == 1


# Two at once

LIMITS = {"roomy": 10**9, "tight": 60_000}  # tight: two of the four entries fit


def hammer(folder: Path, seed: int) -> None:
    """Put and get at random, together with another process that does the same."""
    dice = random.Random(seed)
    whole = {"u": torch.arange(3000, dtype=torch.float64), "values": torch.arange(50, dtype=torch.float64)}
    (folder / f"ready{seed}").touch()
    patience = time.monotonic() + 60
    while len(list(folder.glob("ready*"))) < 2:
        assert time.monotonic() < patience, "the other process did not start"
        time.sleep(0.01)
    for name, limit in LIMITS.items():
        cache, hits, written, end = Cache(folder / name, limit), 0, set(), time.monotonic() + 1
        while time.monotonic() < end:
            number = dice.randrange(4)
            key, tensors = f"{number:064x}", {name: tensor + number for name, tensor in whole.items()}
            if dice.random() < 0.5:
                assert cache.put(key, tensors)
                written.add(key)
                continue
            found = cache.get(key, shapes_of(tensors))
            assert found is not None or name == "tight" or key not in written, "an entry was lost"
            assert found is None or same(found, tensors), "damage"
            hits += found is not None
        assert hits > 20


def test_two_processes_never_see_damage(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.test_cache import hammer; hammer(Path(sys.argv[1]), 1)"
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as other:
        try:
            hammer(tmp_path, 2)
            _, errors = other.communicate(timeout=60)
        finally:
            other.kill()
    assert (errors, other.returncode) == ("", 0)
    for name, limit in LIMITS.items():
        files = list((tmp_path / name).iterdir())
        assert not [path for path in files if path.name.startswith(".")]
        assert sum(path.stat().st_size for path in files) <= limit


# Where and how much


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("WANALYZE_CACHE", "WANALYZE_CACHE_LIMIT", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return monkeypatch


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, ".cache/wanalyze"),
        ("linux", {"XDG_CACHE_HOME": "/big/disk"}, "/big/disk/wanalyze"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, ".cache/wanalyze"),
        ("linux", {"WANALYZE_CACHE": "/mine", "XDG_CACHE_HOME": "/big"}, "/mine"),
        ("linux", {"WANALYZE_CACHE": ""}, ".cache/wanalyze"),
        ("darwin", {}, "Library/Caches/wanalyze"),
        ("darwin", {"WANALYZE_CACHE": "/mine"}, "/mine"),
        ("win32", {}, "AppData/Local/wanalyze/cache"),
        ("win32", {"LOCALAPPDATA": "/users/me/local"}, "/users/me/local/wanalyze/cache"),
    ],
)
def test_the_folder_follows_the_platform(
    bare: pytest.MonkeyPatch, tmp_path: Path, platform: str, variables: dict[str, str], folder: str
) -> None:
    bare.setattr(sys, "platform", platform)
    for name, value in variables.items():
        bare.setenv(name, value)
    assert default_folder() == tmp_path / folder


def test_without_a_home_the_way_out_is_named(bare: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    bare.setattr(Path, "home", homeless)
    with pytest.raises(UsageError, match="WANALYZE_CACHE"):
        default_folder()
    bare.setenv("WANALYZE_CACHE", "/mine")
    assert default_folder() == Path("/mine")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", 2 * 2**30),
        ("0", 0),
        ("1", 1),
        ("700", 700),
        ("12B", 12),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("2GiB", 2 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("1kB", 1000),
        ("1KiB", 1024),
        (" 3TB ", 3 * 10**12),
    ],
)
def test_an_amount_is_read_as_people_write_it(bare: pytest.MonkeyPatch, text: str, limit: int) -> None:
    assert default_limit() == 2 * 2**30
    bare.setenv("WANALYZE_CACHE_LIMIT", text)
    assert default_limit() == limit


@pytest.mark.parametrize(
    "text", ["much", "-1", "1e9", "5 iB", "2 GX", "GB", "1.", "nan", "inf", "٣GB", "1 000", "9" * 5000, "0x10"]
)
def test_another_limit_is_refused_with_the_way_out(bare: pytest.MonkeyPatch, text: str) -> None:
    bare.setenv("WANALYZE_CACHE_LIMIT", text)
    with pytest.raises(UsageError, match="no amount of bytes") as refused:
        default_limit()
    message = str(refused.value)
    assert all(word in message for word in ("WANALYZE_CACHE_LIMIT", text[:40], "2GiB", "0 for no cache"))
    assert len(message) < 300
