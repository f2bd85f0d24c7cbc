"""Where weights come from: the only room that touches untrusted bytes of weights.

Headers are parsed without torch; a tensor's bytes are read when it is asked for, one at a time.
"""

from wanalyze.checkpoints.checkpoint import Checkpoint, TensorEntry
from wanalyze.checkpoints.dtypes import DType
from wanalyze.checkpoints.files import WeightFile
from wanalyze.checkpoints.location import HubLocation
from wanalyze.checkpoints.mix import Mix, decimal
from wanalyze.checkpoints.reference import Location, Reference, parse_reference, public
from wanalyze.checkpoints.sources import AdapterFiles, Found, find, open_checkpoint, open_found, open_source

__all__ = [
    "AdapterFiles",
    "Checkpoint",
    "DType",
    "Found",
    "HubLocation",
    "Location",
    "Mix",
    "Reference",
    "TensorEntry",
    "WeightFile",
    "decimal",
    "find",
    "open_checkpoint",
    "open_found",
    "open_source",
    "parse_reference",
    "public",
]
