"""Every error that babelscope raises on purpose, one class per cause.

BabelscopeError                     anything below; the command line prints its message on one line
├── InputError                      what the user gave cannot be used (exit code 2)
│   ├── CorpusError                 a text source is missing, empty, broken or misaligned
│   ├── ModelError                  a model cannot be loaded
│   │   └── UnsupportedModel        it loads, but its structure is not one we can measure (exit code 1 in `check`)
│   ├── TaskError                   a prompt task cannot be built
│   │   └── NoPromptSurvives        the tokenisation census is empty
│   ├── UnattainableThreshold       no neuron could pass
│   ├── RunError                    a run directory is absent, unfinished, damaged, or in the way
│   │   └── Unwritable              a place where nothing can be written: full, over quota, closed, or gone
│   └── PlanError                   a sweep plan does not say what to do
├── EditError                       an edit of a forward pass went wrong
│   ├── EditNeverFired              the edited module was never called
│   └── AlreadyEdited               a second edit of a kind that excludes others
├── NonFinite                       NaN or infinity where a number must be
├── MissingExtra                    an optional dependency is not installed
└── Interrupted                     the work was stopped by the user
"""

from __future__ import annotations


class BabelscopeError(Exception):
    """Base of all errors raised on purpose."""


class InputError(BabelscopeError):
    """What the user gave cannot be used; the message says what, where, and what to do."""


class CorpusError(InputError):
    """A text source is missing, empty, broken or misaligned."""


class ModelError(InputError):
    """A model cannot be loaded."""


class UnsupportedModel(ModelError):
    """A model loads, but its structure is not one that can be measured."""


class TaskError(InputError):
    """A prompt task cannot be built."""


class NoPromptSurvives(TaskError):
    """No prompt of a task passes the tokenisation census of a language; `census` holds the counts."""

    def __init__(self, message: str, census: object = None) -> None:
        super().__init__(message)
        self.census = census


class UnattainableThreshold(InputError):
    """A threshold on z that no neuron can exceed: among L languages z ≤ √(L − 1)."""

    def __init__(self, threshold: float, attainable: float, languages: int) -> None:
        super().__init__(
            f"z > {threshold:g} cannot be reached with {languages} languages: z stays at or below {attainable:.3f}; "
            f"choose a threshold below {attainable:.3f} or use more languages"
        )
        self.threshold, self.attainable, self.languages = threshold, attainable, languages


class RunError(InputError):
    """A run directory is absent, unfinished, damaged, or in the way."""


class Unwritable(RunError):
    """Nothing can be written at a place: it is full, over quota, closed, or gone; further work there is in vain."""


class PlanError(InputError):
    """A sweep plan does not say what to do."""


class EditError(BabelscopeError):
    """An edit of a forward pass went wrong."""


class EditNeverFired(EditError):
    """The module that was to be edited was never called inside the context."""


class AlreadyEdited(EditError):
    """The model is already inside an edit that excludes others."""


class NonFinite(BabelscopeError):
    """NaN or infinity where a number must be; the message names the place."""


class MissingExtra(BabelscopeError):
    """An optional dependency is not installed; the message gives the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'babelscope[{extra}]'")


class Interrupted(BabelscopeError):
    """The work was stopped by the user."""
