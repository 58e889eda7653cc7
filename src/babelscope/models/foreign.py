"""What somebody else put into a model: forward hooks, and forwards in the place of a module's own.

Neither is an error: they are part of what is measured. They are recorded, the gate asks anew where they change, and
nothing that was kept without them is taken for a result under them.
"""

from __future__ import annotations

import inspect

from torch import nn
from torch.nn.modules import module as torch_modules

_KNOWN = ("babelscope.", "transformers.", "accelerate.", "torch.")
EVERYWHERE = "(every module)"


def foreign_hooks(root: nn.Module) -> list[str]:
    """Names of the parts of a model in which somebody else reads or changes what we measure."""
    return list(dict.fromkeys(name or "(the model)" for name, _ in foreign_registrations(root)))


def foreign_registrations(root: nn.Module) -> list[tuple[str, int]]:
    """Somebody else's hooks and forwards: the name of the part that carries each, and a number that tells it apart."""
    found = [(EVERYWHERE, key) for key in _strange(_hooks_of_all())]
    classes: dict[type[nn.Module], object] = {}  # a model has many parts of few classes
    for name, part in root.named_modules():
        found += [(name, key) for key in _strange({**part._forward_hooks, **part._forward_pre_hooks})]  # pyright: ignore[reportPrivateUsage]
        own = part.__dict__.get("forward")
        if own is not None and not _known(own):
            found.append((f"{name}.forward".lstrip("."), id(own)))
        elif own is None:
            kind = type(part)
            if kind not in classes:
                classes[kind] = _put_in_class(kind)
            if classes[kind] is not None:
                found.append((f"{name}.forward".lstrip("."), id(classes[kind])))
    return found


def _hooks_of_all() -> dict[int, object]:
    """Hooks that torch calls for each module of every model."""
    return {
        **getattr(torch_modules, "_global_forward_hooks", {}),
        **getattr(torch_modules, "_global_forward_pre_hooks", {}),
    }


def _strange(hooks: dict[int, object]) -> list[int]:
    # torch's numbers are never used twice
    return [key for key, one in hooks.items() if not _known(one)]


def _known(one: object) -> bool:
    return str(getattr(one, "__module__", "")).startswith(_KNOWN)


def _put_in_class(kind: type[nn.Module]) -> object:
    """The forward of a class, where it comes out of another file than the class that holds it."""
    holder = next((base for base in kind.__mro__ if "forward" in vars(base)), None)
    put = None if holder is None else inspect.unwrap(vars(holder)["forward"])
    module = getattr(put, "__module__", None)
    if holder is None or module is None or module == holder.__module__ or _known(put):
        return None
    return put
