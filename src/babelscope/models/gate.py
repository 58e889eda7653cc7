"""What a model can be used for, asked before it is used: `regions` at loading, `circuits` before any circuit.

Every model is asked, known rows too: an adapter, an offloaded layer or a new version of a library can break what a row
says. The answer is kept for as long as weights, row and structure stay what they were; a check costs a few passes over
nine tokens, less than hashing the weights, so nothing is kept between programs, where libraries may differ.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from torch import nn

from babelscope.errors import UnsupportedModel
from babelscope.models.adapters import adapter_parts
from babelscope.models.aside import set_aside
from babelscope.models.conformance import Check, run_checks, why_no_text
from babelscope.models.families import Level
from babelscope.models.foreign import foreign_registrations
from babelscope.models.hashing import config_hash, content_sign
from babelscope.models.mode import compiled_parts
from babelscope.models.registry import digest

if TYPE_CHECKING:
    from babelscope.models.model import Model

_Fingerprint = tuple[object, ...]
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
    reasons = "; ".join(dict.fromkeys(check.problem for check in failed))
    if level == "circuits" and all(check.level == "circuits" for check in failed):
        raise UnsupportedModel(f"{model.id} cannot be used for circuits: {reasons}; regions work")
    raise UnsupportedModel(f"{model.id} ({model.config.model_type}) cannot be used: {reasons}")


def failures(model: Model, level: Level) -> list[Check]:
    """The checks of a level that a model does not pass, asked anew when its weights or its structure changed."""
    return [check for check in outcomes(model, level) if not check.passed]


def outcomes(model: Model, level: Level) -> list[Check]:
    """Every check of a level with its outcome."""
    model.refuse_mode()
    now = _fingerprint(model)
    if model.seen != now:  # also where it was changed between its making and the first question
        model.renew()
    model.seen = now
    before, answers = _known.get(model.hf, (None, {}))
    if before != now:
        answers = {}
        _known[model.hf] = (now, answers)
    if level not in answers:
        with set_aside():  # what is asked about is the model, whatever it is being edited to
            answers[level] = _asked(model, level)
        # checks change weights and put them back, which counts as a change
        model.seen = _fingerprint(model)
        _known[model.hf] = (model.seen, answers)
    return answers[level]


def _asked(model: Model, level: Level) -> list[Check]:
    adapters = adapter_parts(model.hf)
    if adapters:
        problem = f"an adapter is not merged ({adapters[0]}): call merge_and_unload() and load the result"
        return [Check("no adapter", False, adapters[0], "regions", problem)]
    compiled = compiled_parts(model.hf)
    if compiled:
        problem = f"{compiled[0]} runs as compiled code, in which our hooks are not seen: load it anew, uncompiled"
        return [Check("no compiled code", False, compiled[0], "regions", problem)]
    if level not in model.family.levels:
        problem = "its row says nothing of attention" if not model.family.mixed else "its layers are of several kinds"
        problem = "it is an encoder, and circuits are of causal models" if model.encoder else problem
        row = Check("a row for circuits", False, model.family.name, "circuits", problem)
        return [*outcomes(model, "regions"), row]
    checks = run_checks(model, level=level)
    why = why_no_text(model) if any(not check.passed and check.level == "regions" for check in checks) else ""
    if why:
        return [Check("runs on text alone", False, why, "regions", f"its own code does not run on text alone ({why})")]
    return checks


def _fingerprint(model: Model) -> _Fingerprint:
    """What the answers depend on: row, settings, foreign hooks, code, and each tensor's place and count of changes."""
    modules = list(model.hf.named_modules())  # walked once: this is asked hundreds of times in a study
    parts = tuple(
        (name, key, tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, tensor.dtype)
        for name, part in modules
        for key, tensor in vars(part)["_parameters"].items()
        if tensor is not None
    )
    # buffers are small, and some are made anew in each pass
    buffers = content_sign(
        tensor
        for _, part in modules
        for tensor in vars(part)["_buffers"].values()
        if tensor is not None and tensor.numel() <= 1 << 16
    )
    code = tuple((type(part), id(vars(part).get("_compiled_call_impl"))) for _, part in modules)
    foreign = tuple(foreign_registrations(model.hf))
    kernel = getattr(model.config, "_attn_implementation", None)
    return (digest(model.family), kernel, config_hash(model.config), foreign, code, parts, buffers)
