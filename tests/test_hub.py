"""The Hub: read as a folder is read, with little transferred, and every fault is one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import wanalyze
from tests.conftest import FIXTURES, Run, lora_factors, normal, save_adapter, save_checkpoint, tiny_base
from tests.hub_server import GOOD_TOKEN, Hub, served
from wanalyze.checkpoints import HubLocation, open_checkpoint, parse_reference
from wanalyze.checkpoints.hub import transport
from wanalyze.checkpoints.hub.remote_file import RemoteFile
from wanalyze.checkpoints.hub.spans import spans
from wanalyze.errors import CheckpointError, UsageError

SECRET = "hf_secretsecretsecret"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A served Hub, and the client in this process pointed at it, with a cache of its own and no pauses."""
    root = tmp_path / "hub"
    save_checkpoint(root / "org/tiny", tiny_base())
    (root / "org/tiny/config.json").write_text('{"model_type": "llama"}')
    save_adapter(root / "org/lora", lora_factors("model.layers.0.mlp.up_proj", 20, 16))
    with served(root) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_TOKEN", SECRET)
        monkeypatch.chdir(tmp_path)
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()


REFERENCES = {
    "hf:org/name": ("name", "org/name", None, ""),
    "hf:org/name/": ("name", "org/name", None, ""),
    "org/name": ("name", "org/name", None, ""),
    "a=org/name": ("a", "org/name", None, ""),
    "a=hf:org/name@v1/unet/fp16": ("a", "org/name", "v1", "unet/fp16"),
    "hf:org/na.me_2@refs/pr/12/r=8": ("r-8", "org/na.me_2", "refs/pr/12", "r=8"),
    "hf:org/name@refs/convert/x": ("name", "org/name", "refs/convert/x", ""),
    "hf:org/name@fix%2Fscale/vae/x.safetensors": ("vae", "org/name", "fix/scale", "vae/x.safetensors"),
    "hf:org/name/x.safetensors": ("name", "org/name", None, "x.safetensors"),
}


@pytest.mark.parametrize(("text", "parts"), REFERENCES.items(), ids=REFERENCES)
def test_a_reference_is_read_and_written_alike(text: str, parts: tuple[str, str, str | None, str]) -> None:
    label, *place = parts
    found = parse_reference(text)
    assert (found.label, found.location) == (label, HubLocation(*place))  # type: ignore[arg-type]
    assert parse_reference(str(found.location)).location == found.location


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/name").mkdir(parents=True)
    assert parse_reference("org/name").location == Path("org/name")
    assert parse_reference("./org/other").location == Path("./org/other")
    assert parse_reference("org/other/deeper").location == Path("org/other/deeper")


BAD_REFERENCES = (
    *("hf:", "hf:name", "hf:/name", "hf:org/", "hf:org/../x", "hf:o--rg/name", "hf:org/name.git", "hf:-org/name"),
    *("hf:org/na me", "hf:org/name@", "hf:org/name@a..b", "hf:org/name@..%2F..%2Fx", "hf:org/name@a b", "hf:org/n\x1b"),
    *("hf:org/name/../x", "hf:org/name//x", "hf:org/name/a\\b", "hf:org/name/C:", "hf:org/name/a\0", "hf:" + "x" * 999),
)


@pytest.mark.parametrize("text", BAD_REFERENCES)
def test_a_bad_reference_is_refused_before_any_request(text: str, hub: Hub) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert len(str(caught.value)) < 400
    assert hub.log == []


def sharded(hub: Hub) -> str:
    shutil.copytree(FIXTURES / "base", hub.root / "org/sharded")
    return "org/sharded"


def listed_in_pages(hub: Hub) -> str:
    hub.faults["org/sharded"] = "elsewhere"  # the next page, so it says, lies at another host
    return sharded(hub)


def in_a_folder(hub: Hub) -> str:
    shutil.copytree(hub.root / "org/tiny", hub.root / "org/parts/some/unet")
    return "org/parts@fix%2Fscale/some/unet"


PLACES: dict[str, Callable[[Hub], str]] = {
    "a file": lambda hub: "org/tiny",
    "shards": listed_in_pages,
    "a folder": in_a_folder,
    "a file by name": lambda hub: "org/tiny@refs/pr/1/model.safetensors",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_repository_is_read_as_its_folder(hub: Hub, place: Callable[[Hub], str]) -> None:
    reference = place(hub)
    found = wanalyze.open_checkpoint(f"hf:{reference}")
    local = open_checkpoint(hub.root / re.sub("@(refs/pr/1|[^/]*)", "", reference))
    assert found.name == f"hf:{reference}"
    assert found.revision == hub.commit("/".join(re.split("[/@]", reference)[:2]))
    assert found.config == local.config
    assert {file.name: file.size for file in found.files} == {file.name: file.size for file in local.files}
    assert list(found.entries) == list(local.entries)
    for name in local.entries:
        assert torch.equal(found.read(name), local.read(name))


def test_an_adapter_is_read_as_its_folder(hub: Hub) -> None:
    found, local = wanalyze.open_adapter("hf:org/lora"), wanalyze.open_adapter(hub.root / "org/lora")
    assert [update.module for update in found.updates] == [update.module for update in local.updates]
    assert torch.equal(found.updates[0].read().dense(), local.updates[0].read().dense())


def test_an_audit_transfers_what_it_reads_and_lists_the_rest(hub: Hub) -> None:
    for name in ("training_args.bin", "modeling_evil.py", "tokenizer.json"):
        (hub.root / "org/lora" / name).write_text("evil")
    [found] = wanalyze.audit("hf:org/lora", base="hf:org/tiny").adapters
    told = {finding.code: finding.file for finding in found.findings}
    assert told["code-file"] == "modeling_evil.py"
    assert told["pickle-file"] == "training_args.bin"
    assert (found.ref, found.revision) == ("hf:org/lora", hub.commit("org/lora"))
    assert "module-not-in-base" not in {code for each in found.unchecked for code in each.rules}
    assert {name.rpartition("/")[2] for name in hub.sent if name.startswith("org/lora")} <= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("differs", [False, True])
def test_an_audit_compares_the_commit_of_the_base(hub: Hub, differs: bool) -> None:
    commit = "0" * 40 if differs else hub.commit("org/tiny")
    path = hub.root / "org/lora/adapter_config.json"
    config = {**json.loads(path.read_text()), "base_model_name_or_path": "org/tiny", "revision": commit}
    path.write_text(json.dumps(config))
    [found] = wanalyze.audit("hf:org/lora", base="hf:org/tiny").adapters
    assert ("base-differs" in {finding.code for finding in found.findings}) is differs


def test_a_result_names_the_commits(hub: Hub) -> None:
    found = json.loads(wanalyze.compare("org/tiny", "mine=hf:org/lora@main").to_json())
    assert (found["base"]["ref"], found["base"]["revision"]) == ("hf:org/tiny", hub.commit("org/tiny"))
    model = found["models"][0]
    assert (model["ref"], model["revision"]) == ("hf:org/lora@main", hub.commit("org/lora"))
    hashes = {file["name"]: file["sha256"] for file in (*found["base"]["files"], *model["files"])}
    unread = [name for name, found in hashes.items() if found is None]
    assert sorted(hashes) == ["adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"]
    assert unread == ["model.safetensors"]
    assert found["base"]["tensors"]  # of what is read in part, each tensor has its hash


def test_of_a_base_only_what_an_adapter_touches_is_transferred(hub: Hub) -> None:
    base = {f"model.layers.{i}.mlp.up_proj.weight": normal(768, 640, seed=i) for i in range(8)}
    save_checkpoint(hub.root / "org/wide", base)
    factors = [lora_factors(f"model.layers.{i}.mlp.up_proj", 768, 640, seed=i) for i in (1, 5)]
    save_adapter(hub.root / "org/two", factors[0] | factors[1])
    found = wanalyze.compare("hf:org/wide", "hf:org/two", cache=False)
    local = wanalyze.compare(hub.root / "org/wide", hub.root / "org/two", cache=False)
    assert found.modules == local.modules
    size = (hub.root / "org/wide/model.safetensors").stat().st_size
    assert hub.sent["org/wide/model.safetensors"] < 0.4 * size
    assert len(hub.asked("/org/wide/resolve/")) == 1 + 2  # the header, and the two matrices


def test_a_small_model_takes_a_request_for_its_header_and_one_for_its_tensors(hub: Hub) -> None:
    save_checkpoint(hub.root / "org/small", {f"layers.{i}.w.weight": normal(64, 96, seed=i) for i in range(20)})
    save_checkpoint(hub.root / "org/other", {f"layers.{i}.w.weight": normal(64, 96, seed=i + 9) for i in range(20)})
    wanalyze.compare("hf:org/small", "hf:org/other", cache=False)
    for name in ("org/small", "org/other"):
        assert len(hub.asked(f"/{name}/resolve/")) == 2
        assert hub.sent[f"{name}/model.safetensors"] < 120_000 + (hub.root / name / "model.safetensors").stat().st_size


def remote(hub: Hub, content: bytes) -> RemoteFile:
    path = hub.root / "org/raw/x.bin"
    path.parent.mkdir()
    path.write_bytes(content)
    url = f"{hub.address}/org/raw/resolve/{hub.commit('org/raw')}/x.bin"
    return RemoteFile(url, "x.bin", "x.bin", len(content), HubLocation("org/raw"))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_was_expected_the_bytes_are_right(hub: Hub, seed: int) -> None:
    draw = random.Random(seed)
    content = draw.randbytes(3_000_000)
    file = remote(hub, content)
    ranges = [(draw.randrange(2_900_000), draw.choice([0, 1, 700, 90_000])) for _ in range(30)]
    file.expect(draw.sample(ranges, 20))
    for start, size in ranges:
        found = file.read(start, size)
        assert found == content[start : start + size]
        found[:] = bytes(size)  # it is the caller's own


def test_threads_share_a_file(hub: Hub) -> None:
    content = random.Random(0).randbytes(1_000_000)
    file = remote(hub, content)
    ranges = [(start, 9_999) for start in range(0, 990_000, 9_999)]
    file.expect(ranges)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda piece: file.read(*piece), ranges))
    assert found == [content[start : start + size] for start, size in ranges]


def test_ranges_in_a_row_that_lie_together_are_one_request(hub: Hub) -> None:
    file = remote(hub, bytes(6_000_000))
    ranges = [(0, 500_000), (600_000, 500_000), (3_000_000, 9), (3_000_009, 9), (5_999_999, 1)]
    file.expect(ranges)
    for piece in ranges:
        file.read(*piece)
    asked = [request.range for request in hub.asked("/cdn/")]
    assert asked == ["bytes=0-1099999", "bytes=3000000-3000017", "bytes=5999999-5999999"]


def test_no_request_is_for_more_than_64_mebibytes_of_small_ranges() -> None:
    row = [(i * 3_000_000, 3_000_000) for i in range(100)]
    found = spans(row)
    assert [piece for span in found for piece in span.waiting] == row
    assert max(span.hull[1] for span in found) <= 64 * 2**20
    assert len(found) == -(-100 // 22)


def cached(hub: Hub, *names: str) -> None:
    for name in names:
        huggingface_hub.snapshot_download(name)
    hub.log.clear()


def test_a_commit_in_the_cache_needs_no_request(hub: Hub) -> None:
    cached(hub, "org/tiny", "org/lora")
    result = wanalyze.compare(*(f"hf:{name}@{hub.commit(name)}" for name in ("org/tiny", "org/lora")))
    assert hub.log == []
    assert result.base.files[0].sha256 is not None


def test_offline_reads_the_cache_and_asks_nobody(hub: Hub, cli: Run) -> None:
    cached(hub, "org/tiny", "org/lora")
    commit = hub.commit("org/tiny")
    assert cli("compare", "org/tiny", "hf:org/lora", "--offline", "-q").code == 0
    shutil.rmtree(next(Path("cache").rglob("trees")))  # as an older client leaves it
    assert json.loads(cli("inspect", "--offline", "org/tiny", "--format", "json").out)["revision"] == commit
    assert hub.log == []


def test_offline_without_a_cache_says_how_to_fill_it(hub: Hub, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cli("inspect", "--offline", "hf:org/tiny")
    assert (asked.code, hub.log) == (2, [])
    assert "hf:org/tiny: is not in the cache; fetch it with `hf download org/tiny`" in asked.err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cli("inspect", "hf:org/tiny").err == asked.err


def test_an_adapter_read_once_is_there_offline(hub: Hub) -> None:
    wanalyze.open_adapter("hf:org/lora")
    hub.log.clear()
    assert wanalyze.open_adapter("hf:org/lora", offline=True).updates
    assert hub.log == []


def test_offline_a_file_that_was_not_downloaded_is_named(hub: Hub, cli: Run) -> None:
    sharded(hub)
    cached(hub, "org/sharded")
    next(Path("cache").rglob("model-00002-of-00002.safetensors")).unlink()
    assert "hf:org/sharded/model-00002-of-00002.safetensors: is not" in cli("inspect", "--offline", "org/sharded").err


def test_a_damaged_cache_is_noticed(hub: Hub, cli: Run) -> None:
    cached(hub, "org/tiny", "org/lora")
    blob = next(Path("cache").rglob("adapter_model.safetensors")).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    assert "sha256 is" in cli("compare", "org/tiny", "org/lora", "--offline").err


def test_a_large_file_of_the_cache_is_held_against_its_hash_when_all_of_it_was_read(
    hub: Hub, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wanalyze.engine.provenance._SMALL", 500)
    save_checkpoint(hub.root / "org/tuned", tiny_base(seed=1))
    cached(hub, "org/tiny", "org/tuned", "org/lora")
    result = wanalyze.compare("hf:org/tiny", "hf:org/tuned", cache=False)
    blob = next(Path("cache").glob("models--org--tiny/snapshots/*/model.safetensors")).resolve()
    assert result.base.files[0].sha256 == blob.name == hashlib.sha256(blob.read_bytes()).hexdigest()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    assert "sha256 is" in cli("compare", "org/tiny", "org/tuned", "--offline", "--no-cache").err
    partly = wanalyze.compare("hf:org/tiny", "hf:org/lora", offline=True, cache=False)
    assert partly.base.files[0].sha256 is None  # to hash all of it would read what nobody asked for


# What a repository does, what is asked for, and what is said.
FAULTS: dict[str, tuple[str, str, str]] = {
    "gone": ("gone", "org/tiny", "no such file or folder in the repository"),
    "gated": ("gated", "org/tiny", "accept its licence at https://huggingface.co/org/tiny and log in: hf auth login"),
    "disabled": ("disabled", "org/tiny", "the Hub has disabled this repository"),
    "a wrong token": ("bad token", "org/tiny", "does not know the token"),
    "forbidden": ("forbidden", "org/tiny", "use a token that may read this repository"),
    "too many requests": ("too many", "org/tiny", "asks for a pause (429"),
    "a long pause": ("much too many", "org/tiny", "asks for a pause (429"),
    "a failing server": ("down", "org/tiny", "the Hub itself fails (503)"),
    "a bug of the server": ("broken", "org/tiny", "the Hub itself fails (500)"),
    "another status": ("teapot", "org/tiny", "the Hub answers 418"),
    "an answer that is none": ("strange", "org/tiny", "names no commit"),
    "a listing that leads out": ("escaping", "org/tiny", "would lie outside the folder"),
    "no repository": ("", "org/none", "no such repository on the Hub, or a private one"),
    "no revision": ("", "org/tiny@v9", "no such revision"),
    "no commit": ("", f"org/tiny@{'0' * 40}", "no such revision"),
    "no folder": ("", "org/tiny/unet", "no such file or folder"),
    "no file": ("", "org/tiny/other.safetensors", "no such file in the repository"),
    "a server without ranges": ("no range", "org/tiny", "run `hf download org/tiny` and pass the folder"),
    "another range": ("wrong range", "org/tiny", "bytes 0 to"),
    "another file under way": ("changing", "org/tiny", "changed while it was being read"),
    "no ETag": ("no etag", "org/tiny", "sends no ETag"),
    "packed": ("gzip", "org/tiny", "packs what was asked for unpacked"),
    "a lie about the size": ("lying size", "org/tiny", "the Hub lists"),
    "a redirect in a circle": ("circle", "org/tiny", "redirects in a circle"),
    "a lie about an adapter's size": ("lying size", "org/lora", "did not arrive as the Hub announced it"),
    "a bit of an adapter": ("flip", "org/lora", "sha256 is"),
    "a download of no commit": ("no commit", "org/lora", "names no commit or no ETag"),
}


@pytest.mark.parametrize(("fault", "place", "says"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_sentence(hub: Hub, cli: Run, fault: str, place: str, says: str) -> None:
    save_checkpoint(hub.root / "org/tiny", {f"{i}.weight": normal(200, 300, seed=i) for i in range(3)})
    repository = "/".join(re.split("[/@]", place)[:2])
    hub.faults[repository] = fault
    pair = ("org/tiny", "org/lora") if repository == "org/lora" else (f"hf:{place}", f"x={hub.root / 'org/tiny'}")
    done = cli("compare", *pair, "--no-cache")
    assert done.code == 2
    assert says in done.err
    assert place in done.err or "cache" in done.err
    assert len(done.err.splitlines()) == 1
    assert SECRET not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", ["org/tiny", "org/lora"])
@pytest.mark.parametrize("fault", ["shaky", "cut"])
def test_what_fails_twice_is_tried_again(hub: Hub, fault: str, name: str) -> None:
    hub.faults[name], hub.failures[name] = fault, 2
    assert wanalyze.compare("hf:org/tiny", "hf:org/lora").modules
    assert hub.failures[name] == 0


def test_a_large_tensor_comes_in_parts_and_only_a_part_is_asked_for_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wanalyze.checkpoints.hub.remote_file.MOST", 400_000)
    content = random.Random(0).randbytes(1_000_000)
    file = remote(hub, content)
    hub.faults["org/raw"], hub.failures["org/raw"] = "cut", len(transport.PAUSES)
    assert file.read(1, 999_999) == content[1:]
    asked = [request.range for request in hub.asked("/cdn/")]
    assert asked == ["bytes=1-400000"] * 5 + ["bytes=400001-800000", "bytes=800001-999999"]


def test_patience_begins_with_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None))
    answers = iter([transport.Trouble(CheckpointError("broke off")), "all of it"])

    def slow() -> object:
        now[0] += 100  # a large answer over a slow line
        return next(answers)

    assert transport.patiently(slow) == "all of it"


@pytest.mark.parametrize(("fault", "waited"), [("too many", [3.0] * 3 + [4.0]), ("much too many", []), ("down", None)])
def test_waiting_has_an_end(hub: Hub, monkeypatch: pytest.MonkeyPatch, fault: str, waited: list[float] | None) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    hub.faults["org/tiny"] = fault
    with pytest.raises(CheckpointError):
        wanalyze.open_checkpoint("hf:org/tiny")
    assert pauses == (list(transport.PAUSES) if waited is None else waited)
    assert sum(pauses) < transport.PATIENCE


def test_a_redirect_to_an_address_without_encryption_is_refused() -> None:
    plain, safe = (SimpleNamespace(url=SimpleNamespace(scheme=scheme)) for scheme in ("http", "https"))
    answer = SimpleNamespace(status_code=200, headers={}, history=[plain], url=safe.url)
    with pytest.raises(CheckpointError, match="without encryption"):
        transport._check(answer, "https://h/x", HubLocation("org/name"), "hf:org/name", None)


def test_a_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults["org/tiny"] = hub.faults["org/lora"] = "gated"
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    wanalyze.compare("hf:org/tiny", "hf:org/lora")
    sent = {request.host.partition(":")[0]: set[str]() for request in hub.log}
    for request in hub.log:
        sent[request.host.partition(":")[0]].add(request.authorization)
    assert sent == {"127.0.0.1": {f"Bearer {GOOD_TOKEN}"}, "localhost": {""}}


@pytest.mark.parametrize("token", ["hf_\u00e4", "hf_a b", "hf_a\x01"])
def test_a_token_that_is_none_is_not_sent(hub: Hub, cli: Run, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    done = cli("inspect", "hf:org/tiny")
    assert "holds characters that no token has" in done.err
    assert token not in done.err
    assert hub.log == []


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("http://127.0.0.1:1", "cannot be reached; check the network, or pass --offline"),
        ("http://127.0.0.1:99999999", "HF_ENDPOINT"),
        ("ftp://127.0.0.1", "HF_ENDPOINT"),
        ("http://[::1", "HF_ENDPOINT"),
    ],
)
def test_an_endpoint_that_is_none(
    hub: Hub, cli: Run, monkeypatch: pytest.MonkeyPatch, endpoint: str, says: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    done = cli("inspect", "hf:org/tiny")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert says in done.err


def test_a_cache_that_cannot_be_written(hub: Hub, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a-file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("a-file/cache").absolute()))
    assert "set HF_HOME" in cli("inspect", "hf:org/lora").err


def test_a_body_that_drips_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with pytest.raises(CheckpointError, match="less than 20 kB/s"):
        transport.get(f"{hub.address}/api/models/org/tiny", HubLocation("org/tiny"))


PROGRAMS = {
    "local": f"wanalyze.compare({str(FIXTURES / 'base')!r}, {str(FIXTURES / 'lora-r8')!r}, only=['*.0.*q_proj'])",
    "import": "pass",
    "help": "from wanalyze.cli import wanalyze as c; c.main(['compare', '--help'], standalone_mode=False)",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_client_is_not_loaded_for_what_is_local(program: str) -> None:
    code = f"import sys, wanalyze; {program}; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_environment_is_heard(hub: Hub, tmp_path: Path) -> None:
    hub.faults["org/lora"] = "gated"
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": GOOD_TOKEN}
    command = [sys.executable, "-m", "wanalyze", "inspect", "hf:org/lora"]
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    first, then, without = (
        subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        for env in (environment, offline, {**offline, "HF_HOME": str(tmp_path / "none")})
    )
    assert (first.returncode, first.stderr) == (0, "")
    assert (then.returncode, then.stdout) == (0, first.stdout)
    assert (without.returncode, len(without.stderr.splitlines())) == (2, 1)
