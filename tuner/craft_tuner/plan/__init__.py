"""What a run will cost, decided before its first query.

Owns the arithmetic of phases: how many generations fit what may be spent. A plan counts in the
protocol's counters and keeps to every limit of the key; all but calls are exact, calls are the
fewest (a client slices requests that are too large for the server).
"""

from craft_tuner.plan.cost import (
    COUNTERS,
    LIMITS,
    Phase,
    amounts,
    numbers_told,
    price,
    sum_costs,
    words,
)
from craft_tuner.plan.limits import lacks, largest, left_of, left_words
from craft_tuner.plan.plan import Plan, plan_generations, plan_phases
from craft_tuner.plan.reserve import MakePlan, said_short, with_answers
from craft_tuner.plan.workload import Workload, check_names, of_key

__all__ = [
    "COUNTERS",
    "LIMITS",
    "MakePlan",
    "Phase",
    "Plan",
    "Workload",
    "amounts",
    "check_names",
    "lacks",
    "largest",
    "left_of",
    "left_words",
    "numbers_told",
    "of_key",
    "plan_generations",
    "plan_phases",
    "price",
    "said_short",
    "sum_costs",
    "with_answers",
    "words",
]
