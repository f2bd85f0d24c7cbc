"""What an adapter must hold to: presets, a file of the user's, and what both come to for every rule."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wanalyze.auditing.records import Effective, Ruling, Severity
from wanalyze.auditing.rule import Rule
from wanalyze.auditing.rules import RULES, SERVERS
from wanalyze.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value = TypeVar("Value")
Hash = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_NONE: list[str] = []

_MOST = 2**20  # bytes of a policy
_OFF = "off"


class Layer(BaseModel):
    """What a preset or a file says; what it leaves out is decided below it. The keys are those of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = "default"
    fail_on: Severity | None = None
    servers: list[str] | None = None
    licenses: list[str] | None = None
    base_sha256: list[Hash] | None = None
    severity: dict[str, Severity | Literal["off"]] = {}
    limits: dict[str, Finite] = {}


_FILES = ("pickle-file", "tokenizer-shipped", "chat-template-shipped")
_DOUBTS = ("base-unnamed", "base-local", "license-missing", "unknown-field")

PRESETS: MappingProxyType[str, Layer] = MappingProxyType(
    {
        "default": Layer(fail_on=Severity.error, servers=[], licenses=[], base_sha256=[]),
        "strict": Layer(
            fail_on=Severity.warning,
            severity=dict.fromkeys((*_FILES, *_DOUBTS), Severity.error),
        ),
        "serving-vllm": Layer(servers=["vllm"]),
    }
)


@dataclass(frozen=True)
class _Said:
    """A layer and where it comes from."""

    origin: str
    layer: Layer


def effective_policy(name: str | None) -> Effective:
    """The policy of a preset or a file, with what it leaves open filled in; UsageError for one that is not right."""
    layers = _layers(name or "default")
    servers = _last(layers, lambda layer: layer.servers, _NONE)
    return Effective(
        name=layers[-1].origin,
        fail_on=_last(layers, lambda layer: layer.fail_on, Severity.error),
        servers=servers,
        licenses=_last(layers, lambda layer: layer.licenses, _NONE),
        base_sha256=[text.lower() for text in _last(layers, lambda layer: layer.base_sha256, _NONE)],
        rules=[_ruling(rule, layers, servers) for rule in RULES.values()],
    )


def _layers(name: str) -> list[_Said]:
    """Those that count, the strongest last: the default preset, another one, the file."""
    default = _Said("default", PRESETS["default"])
    if not Path(name).exists() and name in PRESETS:
        return [default] if name == "default" else [default, _Said(name, PRESETS[name])]
    layer = read_layer(Path(name))
    below = [] if layer.preset == "default" else [_Said(layer.preset, PRESETS[layer.preset])]
    return [default, *below, _Said(Path(name).name, layer)]


def _ruling(rule: Rule, layers: list[_Said], servers: list[str]) -> Ruling:
    severity: Severity | None = rule.severity
    origins = ["rule"]
    if rule.server in servers:
        severity, origins = Severity.error, [next(said.origin for said in reversed(layers) if said.layer.servers)]
    limit = rule.limit
    for said in layers:
        if rule.code in said.layer.severity:
            asked = said.layer.severity[rule.code]
            severity = asked if isinstance(asked, Severity) else None
            origins.append(said.origin)
        if rule.code in said.layer.limits:
            limit = said.layer.limits[rule.code]
            origins.append(said.origin)
    return Ruling(code=rule.code, severity=severity, limit=limit, origin=origins[-1])


def _last(layers: Iterable[_Said], of: Callable[[Layer], Value | None], default: Value) -> Value:
    """What the strongest layer says that says anything."""
    return next((found for said in reversed([*layers]) if (found := of(said.layer)) is not None), default)


def read_layer(path: Path) -> Layer:
    """A policy file; UsageError with the key, and what it may have been meant to be."""
    try:
        if path.stat().st_size > _MOST:
            raise UsageError(f"{path}: {path.stat().st_size} bytes, more than the {_MOST} a policy may have")
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such policy; {_hint(str(path), PRESETS, 'presets')}, or name a file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from None
    _check_keys(path, given)
    try:
        return Layer.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:2])
        raise UsageError(f"{path}: {key} is {str(first['input'])[:60]!r}: {first['msg']}") from None


def _check_keys(path: Path, given: Mapping[str, object]) -> None:
    _check_known(path, given, Layer.model_fields, "key")
    limited = [code for code, rule in RULES.items() if rule.limit is not None]
    for table, known, what in (("severity", RULES, "rule"), ("limits", limited, "rule with a limit")):
        if isinstance(found := given.get(table), Mapping):
            _check_known(path, found, known, what)
    if isinstance(servers := given.get("servers"), list):
        _check_known(path, map(str, servers), SERVERS, "server")
    if isinstance(preset := given.get("preset"), str):
        _check_known(path, [preset], PRESETS, "preset")


def _check_known(path: Path, given: Iterable[str], known: Iterable[str], what: str) -> None:
    for name in given:
        if name not in (choices := [*known]):
            raise UsageError(f"{path}: {name[:80]!r} is no {what}; {_hint(name, choices, f'{what}s')}")


def _hint(name: str, known: Iterable[str], plural: str) -> str:
    choices = [*known]
    near = get_close_matches(name, choices, 1)
    return f"did you mean {near[0]!r}?" if near else f"{plural} are {', '.join(choices)}"


def policy_text(policy: Effective) -> str:
    """The policy as a file that says the same, with the origin of every rule."""
    lines = [
        f"# the effective policy of {policy.name}",
        f'fail_on = "{policy.fail_on.value}"',
        f"servers = {_list(policy.servers)}",
        f"licenses = {_list(policy.licenses)}  # empty: any",
        f"base_sha256 = {_list(policy.base_sha256)}  # empty: any",
        "",
        "[severity]",
        *(
            f'{ruling.code} = "{ruling.severity.value if ruling.severity else _OFF}"  # {ruling.origin}'
            for ruling in policy.rules
        ),
        "",
        "[limits]",
        *(
            f"{ruling.code} = {ruling.limit:g}  # {ruling.origin}"
            for ruling in policy.rules
            if ruling.limit is not None
        ),
    ]
    return "\n".join(lines) + "\n"


def _list(items: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"
