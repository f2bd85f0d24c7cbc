"""Which tensor of the tuned belongs to which of the base; what is left over, and why. By name, never by shape."""

from wanalyze.pairing.adapters import pair_adapter
from wanalyze.pairing.checkpoints import pair_checkpoint
from wanalyze.pairing.mapping import NameMap, read_map
from wanalyze.pairing.mixtures import pair_mixture
from wanalyze.pairing.pair import Pair, Pairing, Skipped
from wanalyze.pairing.selection import Selection

__all__ = [
    "NameMap",
    "Pair",
    "Pairing",
    "Selection",
    "Skipped",
    "pair_adapter",
    "pair_checkpoint",
    "pair_mixture",
    "read_map",
]
