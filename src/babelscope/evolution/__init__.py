"""How regions and alignment grow: sweeps over checkpoints and sizes that resume, on one machine or a Ray cluster."""

from babelscope.evolution.differences import compare_alignment, compare_circuits, compare_regions
from babelscope.evolution.flow import Flow, depth_overlap, depth_profile, flow, scale_overlap
from babelscope.evolution.plan import Plan, PlannedModel, Revision, plan_from, presets, read_plan
from babelscope.evolution.points import Place, Point, plan_points
from babelscope.evolution.published import beside_published
from babelscope.evolution.sweep import Listener, Outcome, RayOptions, SweepOptions, run_sweep, status

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
