"""What a model can do, whole or with a region switched off: story cloze across languages, and any harness task."""

from babelscope.evaluation.answers import evaluate_questions
from babelscope.evaluation.cloze import evaluate_cloze
from babelscope.evaluation.harness import harness_available, run_harness
from babelscope.evaluation.items import ClozeItem, ClozeStory, cloze_items, load_stories, stories_hash
from babelscope.evaluation.questions import Question, load_questions
from babelscope.evaluation.scoring import Accuracy, choice_scores, wilson

__all__ = [
    "Accuracy",
    "ClozeItem",
    "ClozeStory",
    "Question",
    "choice_scores",
    "cloze_items",
    "evaluate_cloze",
    "evaluate_questions",
    "harness_available",
    "load_questions",
    "load_stories",
    "run_harness",
    "stories_hash",
    "wilson",
]
