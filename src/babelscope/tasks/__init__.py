"""Prompt pairs by language: IOI, past tense, agreement, controls; they need a tokenizer, never a model."""

from babelscope.tasks.census import REASONS, Census
from babelscope.tasks.collect import Options
from babelscope.tasks.encoding import Encoder
from babelscope.tasks.loading import load_tokenizer
from babelscope.tasks.minimal_pairs import MinimalPair, read_minimal_pairs
from babelscope.tasks.prompts import PromptPair, PromptSet
from babelscope.tasks.random_text import language_tokens, repeated_tokens
from babelscope.tasks.registry import TASKS, Task, build, build_paired, census, corruptions, fill_foils, task_named
from babelscope.tasks.sources import mib_lexicon, unimorph_verbs
from babelscope.tasks.steps import Label, Need, Step
from babelscope.tasks.stories import Story, read_stories

__all__ = [
    "REASONS",
    "TASKS",
    "Census",
    "Encoder",
    "Label",
    "MinimalPair",
    "Need",
    "Options",
    "PromptPair",
    "PromptSet",
    "Step",
    "Story",
    "Task",
    "build",
    "build_paired",
    "census",
    "corruptions",
    "fill_foils",
    "language_tokens",
    "load_tokenizer",
    "mib_lexicon",
    "read_minimal_pairs",
    "read_stories",
    "repeated_tokens",
    "task_named",
    "unimorph_verbs",
]
