"""What a model can be used for, asked before it is used: `regions` at loading, `circuits` before any circuit.

Every model is asked, known rows too: an adapter, an offloaded layer or a new version of a library can break what a row
says. The answer is kept for as long as weights, row and structure stay what they were; a check costs a few passes over
nine tokens, less than hashing the weights, so nothing is kept between programs, where libraries may differ.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch import nn

from babelscope.errors import AlreadyEdited, UnsupportedModel
from babelscope.models.adapters import adapter_parts
from babelscope.models.conformance import Check, run_checks
from babelscope.models.experts import rerouted
from babelscope.models.families import Level
from babelscope.models.hooks import foreign_registrations, standing_edits
from babelscope.models.registry import digest

if TYPE_CHECKING:
    from babelscope.models.model import Model

_Fingerprint = tuple[Any, ...]
_known: weakref.WeakKeyDictionary[nn.Module, tuple[_Fingerprint, dict[Level, list[Check]]]] = (
    weakref.WeakKeyDictionary()
)


def require(model: Model, level: Level) -> None:
    """Raises UnsupportedModel, in one line with the reason, when a model does not pass what a level needs.

    >>> from babelscope import load_model
    >>> require(load_model("pocket:pocket-bloom-s"), "circuits")
    """
    failed = failures(model, level)
    if not failed:
        return
    reasons = "; ".join(check.problem for check in failed)
    if level == "circuits" and all(check.level == "circuits" for check in failed):
        raise UnsupportedModel(f"{model.id} cannot be used for circuits: {reasons}; regions work")
    raise UnsupportedModel(f"{model.id} ({model.config.model_type}) cannot be used: {reasons}")


def failures(model: Model, level: Level) -> list[Check]:
    """The checks of a level that a model does not pass, asked anew when its weights or its structure changed."""
    return [check for check in outcomes(model, level) if not check.passed]


def outcomes(model: Model, level: Level) -> list[Check]:
    """Every check of a level with its outcome."""
    now = _fingerprint(model)
    before, answers = _known.get(model.hf, (None, {}))
    if before != now:
        answers = {}
        _known[model.hf] = (now, answers)
    if level not in answers:
        if standing_edits(model.hf) or rerouted(model.hf):
            raise AlreadyEdited(
                f"{model.id} was not checked for {level} before it was edited: call "
                f'babelscope.models.gate.require(model, "{level}") first'
            )
        answers[level] = _asked(model, level)
        # checks change weights and put them back, which counts as a change
        _known[model.hf] = (_fingerprint(model), answers)
    return answers[level]


def _asked(model: Model, level: Level) -> list[Check]:
    adapters = adapter_parts(model.hf)
    if adapters:
        problem = f"an adapter is not merged ({adapters[0]}): call merge_and_unload() and load the result"
        return [Check("no adapter", False, adapters[0], "regions", problem)]
    if level not in model.family.levels:
        problem = "its row says nothing of attention" if not model.family.mixed else "its layers are of several kinds"
        problem = "it is an encoder, and circuits are of causal models" if model.encoder else problem
        row = Check("a row for circuits", False, model.family.name, "circuits", problem)
        return [*outcomes(model, "regions"), row]
    return run_checks(model, level=level)


def _fingerprint(model: Model) -> _Fingerprint:
    """What the answers depend on: row, kernel, foreign hooks, and every parameter's place and count of changes."""
    parts = tuple(
        (name, parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version, parameter.dtype)
        for name, parameter in model.hf.named_parameters()
    )
    hooks = tuple(foreign_registrations(model.hf))
    return (digest(model.family), getattr(model.config, "_attn_implementation", None), hooks, parts)
