"""How regions and alignment grow: sweeps over checkpoints and sizes that resume, on one machine or a Ray cluster."""

from babelscope.evolution.attempt import Listener, Outcome, RayOptions, SweepOptions
from babelscope.evolution.differences import compare_alignment, compare_circuits, compare_regions
from babelscope.evolution.flow import Flow, depth_overlap, depth_profile, flow, scale_overlap
from babelscope.evolution.plan import Plan, plan_from, presets, read_plan
from babelscope.evolution.points import plan_points
from babelscope.evolution.published import beside_published
from babelscope.evolution.sweep import run_sweep, status
from babelscope.evolution.types import Place, PlannedModel, Point, Revision

__all__ = [
    "Flow",
    "Listener",
    "Outcome",
    "Place",
    "Plan",
    "PlannedModel",
    "Point",
    "RayOptions",
    "Revision",
    "SweepOptions",
    "beside_published",
    "compare_alignment",
    "compare_circuits",
    "compare_regions",
    "depth_overlap",
    "depth_profile",
    "flow",
    "plan_from",
    "plan_points",
    "presets",
    "read_plan",
    "run_sweep",
    "scale_overlap",
    "status",
]
