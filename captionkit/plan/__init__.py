"""Hours and dollars before they are spent: `captionkit plan`, and a job's `--dry-run`. No Ray.

The names below are imported when they are first used.
"""

from typing import TYPE_CHECKING

from captionkit.lazy import lazy_names

if TYPE_CHECKING:
    from captionkit.plan.estimate import Estimate
    from captionkit.plan.options import BudgetOptions, NodeType, PlanOptions
    from captionkit.plan.plan import Plan, make_plan
    from captionkit.plan.settings import Settings

__all__ = [
    "BudgetOptions",
    "Estimate",
    "NodeType",
    "Plan",
    "PlanOptions",
    "Settings",
    "make_plan",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BudgetOptions": "options",
        "Estimate": "estimate",
        "NodeType": "options",
        "Plan": "plan",
        "PlanOptions": "options",
        "Settings": "settings",
        "make_plan": "plan",
    },
)
