"""From references to a result: many pairs, one matrix of the base at a time."""

from wanalyze.engine.plan import Options, Plan, Tuned, plan
from wanalyze.engine.run import Progress, Step, run

__all__ = ["Options", "Plan", "Progress", "Step", "Tuned", "plan", "run"]
