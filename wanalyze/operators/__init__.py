"""Small value types for a matrix that need not be written out: shape, `@`, `.T`, `columns`, `dense()`, `map`."""

from wanalyze.operators.dense import Dense
from wanalyze.operators.kronecker import Kronecker
from wanalyze.operators.low_rank import LowRank
from wanalyze.operators.operator import Operator, column_blocks, widened
from wanalyze.operators.scaled import Scaled
from wanalyze.operators.stack import Stack
from wanalyze.operators.sum import Sum

__all__ = ["Dense", "Kronecker", "LowRank", "Operator", "Scaled", "Stack", "Sum", "column_blocks", "widened"]
