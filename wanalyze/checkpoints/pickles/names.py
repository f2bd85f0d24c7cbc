"""The names that the pickle of a state dict refers to, and what each stands for here: never what torch means by it."""

from __future__ import annotations

from types import MappingProxyType

from wanalyze.checkpoints.dtypes import DTYPES, DType, Holds
from wanalyze.checkpoints.pickles.opcodes import FORGED, Refused
from wanalyze.checkpoints.pickles.tensors import MAX_DIMENSIONS, Storage, StorageType, Strided
from wanalyze.checkpoints.pickles.unpickler import Arguments, Maker, Other

_UNSUPPORTED = {"complex32": 32, "complex128": 128, "float4_e2m1fn_x2": 8, "bits8": 8, "bits16": 16}
# Every dtype that torch 2.13 saves, by its name there; of none has an element less than a byte.
_TORCH_DTYPES = {
    **{dtype.name: dtype for dtype in DTYPES.values() if dtype.holds is not Holds.unsupported},
    "complex64": DTYPES["C64"],
    "float8_e8m0fnu": DTYPES["F8_E8M0"],
    "float8_e4m3fnuz": DTYPES["F8_E4M3FNUZ"],
    "float8_e5m2fnuz": DTYPES["F8_E5M2FNUZ"],
    **{name: DType(name, bits, Holds.unsupported) for name, bits in _UNSUPPORTED.items()},
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_LONGEST_KEY = 80  # characters of what a storage is called; torch counts them


def storage(reference: object) -> Storage:
    """The storage that a pickle's ("storage", type, key, device, number of elements) refers to."""
    match reference:
        case ("storage", StorageType() as kind, str(key), _, int(count)) if count >= 0 and len(key) <= _LONGEST_KEY:
            return Storage(kind, key, count)
    raise Refused(f"its pickle refers to a storage in a way that torch does not; {FORGED}")


def _tensor(arguments: Arguments) -> Strided:
    """`_rebuild_tensor_v2`: a tensor of its storage's dtype."""
    match arguments:
        case (Storage(kind=StorageType(dtype=DType() as dtype)) as storage, offset, shape, strides, _, _, *extra):
            return _strided(storage, dtype, (offset, shape, strides), extra)
    raise Refused(f"its pickle builds a tensor of something that is no storage; {FORGED}")


def _typed_tensor(arguments: Arguments) -> Strided:
    """`_rebuild_tensor_v3`: the same of dtypes that torch has no storage for."""
    match arguments:
        case (Storage() as storage, offset, shape, strides, _, _, DType() as dtype, *extra):
            return _strided(storage, dtype, (offset, shape, strides), extra)
    raise Refused(f"its pickle builds a tensor of something that is no storage; {FORGED}")


def _strided(storage: Storage, dtype: DType, place: Arguments, extra: list[object]) -> Strided:
    offset, shape, strides = place
    if extra not in ([], [None], [{}]):
        raise Refused("its pickle holds a tensor that is stored conjugated or negated; save `tensor.clone()` instead")
    if type(offset) is not int or not _are_sizes(shape) or not _are_sizes(strides):
        raise Refused(f"its pickle builds a tensor whose shape is not at most {MAX_DIMENSIONS} whole numbers; {FORGED}")
    return Strided(storage, dtype, offset, shape, strides)  # type: ignore[arg-type]


def _are_sizes(value: object) -> bool:
    # How many comes first: one long tuple can be the shape of every tensor.
    return type(value) is tuple and len(value) <= MAX_DIMENSIONS and all(type(n) is int for n in value)


def _parameter(arguments: Arguments) -> Strided:
    match arguments:
        case (Strided() as tensor, *_):
            return tensor
    raise Refused(f"its pickle makes a parameter of something that is no tensor; {FORGED}")


def _size(arguments: Arguments) -> Arguments:
    match arguments:
        case (tuple() as sizes,):
            return sizes
    raise Refused(f"its pickle holds a size that is none; {FORGED}")


def _ordered(arguments: Arguments) -> dict[object, object]:
    if arguments != ():
        raise Refused(f"its pickle makes an OrderedDict in a way that torch does not; {FORGED}")
    return {}


def harmless(name: str) -> Maker:
    """A name that is accepted and comes to nothing."""
    return Maker(name, lambda _: Other(name))


DTYPE_NAMES = MappingProxyType({f"torch.{name}": dtype for name, dtype in _TORCH_DTYPES.items()})
SIZE = MappingProxyType({"torch.Size": Maker("torch.Size", _size)})
# torch.load(weights_only=True) accepts these as well; they occur in what trainers save beside the weights.
_HARMLESS = (
    *("torch.serialization._get_layout", "torch.device", "collections.Counter", "_codecs.encode"),
    *("builtins.set", "__builtin__.set", "builtins.complex", "__builtin__.complex"),
)
STATE_DICT = MappingProxyType(
    {
        **{f"torch.{name}": StorageType(_TORCH_DTYPES[dtype]) for name, dtype in _STORAGES.items()},
        "torch.storage.UntypedStorage": StorageType(None),
        **DTYPE_NAMES,
        **SIZE,
        "torch._utils._rebuild_tensor_v2": Maker("_rebuild_tensor_v2", _tensor),
        "torch._utils._rebuild_tensor_v3": Maker("_rebuild_tensor_v3", _typed_tensor),
        "torch._utils._rebuild_parameter": Maker("_rebuild_parameter", _parameter),
        "torch._utils._rebuild_parameter_with_state": Maker("_rebuild_parameter_with_state", _parameter),
        "collections.OrderedDict": Maker("OrderedDict", _ordered),
        **{name: harmless(name) for name in _HARMLESS},
    }
)
