"""The pocket family as a table: what each model is, how it was trained, and where its weights lie.

`pocket:NAME` and `pocket:NAME@REVISION` name them wherever a model is asked for; the prefix `pocket-` of a name may be
left out. Nothing here imports torch.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from babelscope.errors import InputError, ModelError

LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
"""The nine languages of the family, English first."""

PREFIX = "pocket:"
MAIN = "main"
WEIGHTS = Path(__file__).parent / "weights"

Family = Literal["bloom", "llama", "gpt2", "mixtral"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model was trained. Tokens are counted as the model reads them, repetitions included."""

    steps: int
    batch: int
    """sequences in a step"""
    length: int
    """tokens in a sequence"""
    learning_rate: float
    checkpoints: tuple[int, ...] = ()
    """steps after which a copy is kept as the revision `step<N>`"""
    distinct: int = 14_000_000
    """tokens of corpus written; a longer training reads them again in another order"""
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    autocast: bool = True
    """bfloat16 over float32 weights; without it all is float32, which is faster on processors without bfloat16"""
    balance: float = 0.0
    """weight of the loss that spreads tokens over the experts of a mixture, see `mixture.imbalance`"""
    restart: int = 0
    """step at which the learning rate rises once more, to two fifths of its height; the finished model is then the mean
    of the weights before and after. 0: one cosine over all steps"""

    @property
    def tokens(self) -> int:
        """Tokens read in the whole training."""
        return self.steps * self.batch * self.length


@dataclass(frozen=True, slots=True)
class PocketModel:
    """One model of the family."""

    name: str
    family: Family
    layers: int
    heads: int
    width: int
    shares: dict[str, float]
    """share of each language in the training tokens"""
    vocabulary: str
    """models with the same word here share one tokenizer"""
    recipe: Recipe
    description: str
    key_value_heads: int = 0
    """0 where every query head has its own"""
    experts: int = 0
    """experts in every layer; 0 in a dense model"""
    experts_per_token: int = 0
    expert_units: int = 0
    """neurons of one expert"""

    @property
    def revisions(self) -> tuple[str, ...]:
        """`main`, the finished model, and before it the checkpoints in order of training."""
        return (*(f"step{step}" for step in self.recipe.checkpoints), MAIN)


def _balanced() -> dict[str, float]:
    return {language: 1 / len(LANGUAGES) for language in LANGUAGES}


def _mostly_english() -> dict[str, float]:
    return {language: 0.9 if language == "en" else 0.1 / (len(LANGUAGES) - 1) for language in LANGUAGES}


_TABLE = (
    PocketModel(
        "pocket-bloom-s", "bloom", 4, 4, 64, _balanced(), "nine", Recipe(5000, 16, 128, 6e-3),
        "nine languages, half a million parameters",
    ),
    PocketModel(
        "pocket-bloom-m", "bloom", 6, 8, 128, _balanced(), "nine",
        Recipe(8000, 16, 128, 5e-3, checkpoints=(16, 64, 256, 512, 1024, 2048, 4096)),
        "nine languages, 1.7 million parameters, with checkpoints of its training",
    ),
    PocketModel(
        "pocket-bloom-l", "bloom", 7, 8, 192, _balanced(), "nine", Recipe(9500, 16, 128, 3.5e-3, restart=8000),
        "nine languages, 3.9 million parameters",
    ),
    PocketModel(
        "pocket-llama", "llama", 6, 8, 128, _mostly_english(), "nine", Recipe(3500, 8, 256, 4e-3, distinct=9_000_000),
        "nine tenths English, one tenth the eight others; rotary positions, grouped keys and values",
        key_value_heads=2,
    ),
    PocketModel(
        "pocket-moe", "mixtral", 6, 6, 96, _balanced(), "nine",
        Recipe(9000, 8, 128, 4e-3, distinct=12_300_000, warmup=200, autocast=False, balance=0.01),
        "nine languages, a mixture of 8 experts in every layer, 2 of them for each token",
        key_value_heads=2, experts=8, experts_per_token=2, expert_units=128,
    ),
    PocketModel(
        "pocket-gpt2-en", "gpt2", 4, 8, 128, {"en": 1.0}, "en",
        Recipe(4000, 8, 256, 4e-3, distinct=6_000_000), "English alone",
    ),
    PocketModel(
        "pocket-gpt2-zh", "gpt2", 4, 8, 128, {"zh": 1.0}, "zh",
        Recipe(2500, 8, 256, 4e-3, distinct=4_000_000), "Chinese alone",
    ),
)  # fmt: skip

MODELS: dict[str, PocketModel] = {model.name: model for model in _TABLE}
"""Every model of the family by name."""


def get(name: str) -> PocketModel:
    """The table row of a model; the prefix `pocket-` may be left out.

    Raises ModelError that lists the names when there is none.

    >>> get("bloom-m").layers
    6
    """
    model = MODELS.get(name) or MODELS.get(f"pocket-{name}")
    if model is None:
        raise ModelError(f"the pocket family has no model {name!r}; it has {', '.join(MODELS)}")
    return model


def path(name: str, revision: str | None = None) -> Path:
    """Directory of a model inside the package, in the format of Hugging Face; without a revision, the finished model.

    Raises ModelError that lists the names, or the revisions, when there is none.

    >>> path("pocket-bloom-m", "step16").name
    'step16'
    """
    if name.startswith(("planted-", "pocket-planted-")):
        from babelscope.pocket.planted import folder  # imports torch, which nothing else here does

        if revision not in (None, MAIN):
            raise ModelError(f"{name} was set by hand and has no revision {revision!r}")
        return folder(name.removeprefix("pocket-"))
    model = get(name)
    revision = revision or MAIN
    if revision not in model.revisions:
        raise ModelError(f"{model.name} has no revision {revision!r}; it has {', '.join(model.revisions)}")
    directory = WEIGHTS / model.name / revision
    if not (directory / "config.json").is_file():
        raise ModelError(f"the weights of {model.name}@{revision} are not in this installation: {directory} is missing")
    return directory


def is_pocket(reference: str) -> bool:
    """Whether a model is named as `pocket:…`."""
    return reference.startswith(PREFIX)


def resolve(reference: str) -> Path:
    """Directory of `pocket:NAME` or `pocket:NAME@REVISION`.

    Raises ModelError when the reference has another form, or names nothing that exists.

    >>> resolve("pocket:pocket-bloom-m@step16") == path("bloom-m", "step16")
    True
    """
    if not is_pocket(reference):
        raise ModelError(f"{reference!r} does not begin with {PREFIX!r}")
    name, _, revision = reference.removeprefix(PREFIX).partition("@")
    return path(name, revision or None)


def export(name: str, directory: str | Path, revision: str | None = None) -> Path:
    """Copy a model to a directory of its own, for programs that know nothing of this package.

    Raises InputError when the directory exists and is not empty, ModelError when there is no such model.
    """
    source, target = path(name, revision), Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty directory; export to another one")
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, target / file.name)
    return target
