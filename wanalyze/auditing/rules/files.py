"""What lies in the folder of an adapter: by name and size, nothing of it opened."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePosixPath

from wanalyze.auditing.records import Severity
from wanalyze.auditing.rule import Hit, Rule
from wanalyze.auditing.subject import Subject
from wanalyze.checkpoints.sources import ADAPTER_CONFIG

_CODE = (
    *(".py", ".pyw", ".pyc", ".pyo", ".pyd", ".pyz", ".pyx", ".whl", ".egg", ".ipynb", ".so", ".dll", ".dylib", ".exe"),
    *(".sh", ".bash", ".zsh", ".bat", ".cmd", ".ps1", ".vbs", ".js", ".mjs", ".cjs", ".wasm", ".jar", ".class", ".msi"),
)
_PICKLES = (
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".distcp"),
    *(".npy", ".npz", ".h5", ".keras", ".msgpack"),
)
_TOKENIZER = {
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "added_tokens.json", "special_tokens_map.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
}
_WITH_TEMPLATE = "tokenizer_config.json"
_TEMPLATES = {"chat_template.json", "chat_template"}
_MARKUP = re.compile(r"[<>&\"`]")
_ODD = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format (bidi), surrogates, line separators
_HUB = "loaders of transformers and peft, which take files by their names; HF Hub pickle scanning"


def _by_name(subject: Subject, is_meant: Callable[[PurePosixPath], bool], message: str, fix: str) -> Iterator[Hit]:
    for listed in subject.listing:
        plain = listed.name.rstrip(". ").lower()  # as Windows and macOS take it
        if listed.problem is None and is_meant(PurePosixPath(plain)) and listed.name != subject.weights_file:
            yield Hit(f"{listed.name} {message}", fix, file=listed.name)


def _is_code(path: PurePosixPath) -> bool:
    return path.suffix in _CODE or ".so." in path.name  # libx.so.1


def _is_pickle(path: PurePosixPath) -> bool:
    return path.suffix in _PICKLES


def _is_tokenizer(path: PurePosixPath) -> bool:
    return path.name in _TOKENIZER and path.name != _WITH_TEMPLATE


def _tokenizers(subject: Subject) -> Iterator[Hit]:
    replaces, fix = "would replace the base's tokenizer in some servers", "compare it with the base's"
    message, without = f"{replaces}; it was not opened", f"{fix}, or remove it if the adapter adds no token"
    yield from _by_name(subject, _is_tokenizer, message, without)
    message = f"{replaces}, and can hold a chat template, which can rewrite every prompt; it was not opened"
    yield from _by_name(subject, lambda path: path.name == _WITH_TEMPLATE, message, f"{fix}, chat_template in it too")


def _is_template(path: PurePosixPath) -> bool:
    return path.name in _TEMPLATES or path.suffix in (".jinja", ".jinja2", ".j2")


def _unopenable(subject: Subject) -> Iterator[Hit]:
    for listed in subject.listing:
        if listed.problem is not None:
            yield Hit(
                f"{listed.name} is no file inside the adapter: {_tail(listed.problem)}",
                "remove it, or put the file itself in its place",
                file=listed.name,
            )


def _tail(problem: str) -> str:
    """What is wrong, without the place on this machine that comes first."""
    return problem.partition(": ")[2] or problem


def _odd_names(subject: Subject) -> Iterator[Hit]:
    names = [("file", listed.name) for listed in subject.listing]
    for what, name in [*names, *(("tensor", name) for name in subject.tensors)]:
        if _is_odd(name):
            yield Hit(
                f"{what} {name[:120]!r} has characters in its name that no tool writes and some obey",
                "ask its author to save it again with plain names",
                module=name if what == "tensor" else None,
                file=name if what == "file" and name else None,
            )


def _is_odd(name: str) -> bool:
    """Whether a name is empty, or holds markup, or characters that are not seen."""
    plain = name.isascii() and name.isprintable()
    hidden = not plain and any(unicodedata.category(char) in _ODD for char in name)
    return not name or hidden or _MARKUP.search(name) is not None


def _twins(subject: Subject) -> Iterator[Hit]:
    for what, names in (("files", [listed.name for listed in subject.listing]), ("tensors", [*subject.tensors])):
        for one, other in _alike(names):
            yield Hit(
                f"{what} {one[:120]!r} and {other[:120]!r} differ in case or in Unicode form only; systems disagree on "
                "which is which",
                "remove one of them",
                module=other if what == "tensors" else None,
                file=other if what == "files" else None,
            )


def _alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFKC", name).casefold()
        if seen.setdefault(key, name) != name:
            yield seen[key], name


def _two_weights(subject: Subject) -> Iterator[Hit]:
    stems = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt", "adapters.safetensors")
    names = [listed.name for listed in subject.listing]
    there = [
        name
        for name in names
        if name in stems or (ADAPTER_CONFIG in names and "/" not in name and name.endswith(".safetensors"))
    ]
    if len(there) > 1:
        yield Hit(
            f"{', '.join(there)} lie side by side and need not hold the same; which one counts depends on the loader",
            "keep the safetensors file alone",
            file=next(name for name in there if name != subject.weights_file),
        )


def _pickled_weights(subject: Subject) -> Iterator[Hit]:
    name = subject.weights_file
    if name is not None and PurePosixPath(name).suffix.lower() in _PICKLES:
        yield Hit(
            f"{name} is a pickle: it was read here without running it, other loaders may run what is in it",
            "save it as safetensors",
            file=name,
        )


FILES = (
    Rule(
        "code-file",
        Severity.error,
        "code lies beside the weights",
        "A file in the folder is a program or a library by its name.",
        _HUB,
        partial(
            _by_name,
            is_meant=_is_code,
            message="is code; an adapter needs none",
            fix="remove it, and load the adapter without trust_remote_code",
        ),
        needs=(),
        caveat="By name alone: a program under another name is not noticed, and no file is opened.",
    ),
    Rule(
        "pickled-weights",
        Severity.error,
        "the weights are a pickle",
        "The weights that are loaded are in a format that can hold instructions.",
        "CVE-2025-32434, CVE-2026-24747 of torch.load; LoRAX converts .bin files without weights_only",
        _pickled_weights,
        caveat="wanalyze reads such files with a reader that can run nothing; a server may not.",
    ),
    Rule(
        "pickle-file",
        Severity.warning,
        "pickles lie beside the weights",
        "A file beside the weights is of a format that can hold instructions, such as training_args.bin.",
        _HUB,
        partial(
            _by_name,
            is_meant=_is_pickle,
            message="may hold instructions that run when it is loaded; an adapter needs no such file",
            fix="remove it; trainers leave it behind",
        ),
        needs=(),
        caveat="By name alone; it is not opened.",
    ),
    Rule(
        "unopenable-file",
        Severity.error,
        "an entry is no file inside the folder",
        "An entry of the folder is a link that leads out of it or nowhere, a pipe, a device, or lies too deep.",
        "CVE class of path traversal; transformers 5.23 follows such links",
        _unopenable,
        needs=(),
        caveat="Links into the blob store of a Hub cache are taken for files.",
    ),
    Rule(
        "odd-name",
        Severity.warning,
        "a name holds characters that tools may obey",
        "The name of a file or tensor is empty or holds control, direction or markup characters.",
        "terminal escapes, GitHub commands and markup can be put into names",
        _odd_names,
        needs=(),
    ),
    Rule(
        "name-twins",
        Severity.warning,
        "two names differ in case or Unicode form only",
        "Two files or two tensors have names that are equal under NFKC and case folding.",
        "file systems of macOS and Windows fold case; readers disagree",
        _twins,
        needs=(),
    ),
    Rule(
        "two-weights",
        Severity.warning,
        "two files of weights",
        "More than one file bears a name that loaders take for the adapter's weights, or is safetensors beside them.",
        "vLLM 0.33.0 and peft 0.21 prefer safetensors, older tools .bin",
        _two_weights,
        needs=(),
        caveat="The contents are not compared.",
    ),
    Rule(
        "tokenizer-shipped",
        Severity.info,
        "a tokenizer is shipped along",
        "Files of a tokenizer lie in the folder.",
        "TGI and LoRAX load the tokenizer of an adapter; vLLM 0.33.0 does not",
        _tokenizers,
        needs=(),
        caveat="Reported as a file; its content is not read, nor a chat template that tokenizer_config.json may hold.",
    ),
    Rule(
        "chat-template-shipped",
        Severity.info,
        "a chat template is shipped along",
        "A chat template lies in the folder.",
        "CVE-2024-34359, CVE-2026-5760: templates are programs, and can rewrite prompts silently",
        partial(
            _by_name,
            is_meant=_is_template,
            message="is a template that can rewrite every prompt; it was neither rendered nor opened",
            fix="compare it with the base's, or remove it",
        ),
        needs=(),
        caveat="One inside tokenizer_config.json is not seen, as that file is not opened: see tokenizer-shipped.",
    ),
)
