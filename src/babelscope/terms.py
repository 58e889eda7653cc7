"""Words that options are chosen from, in a module that costs nothing to import: the command line prints them."""

from __future__ import annotations

from typing import Literal

SpecialTokens = Literal["none", "bos", "bos-excluded"]
"""no special token; a beginning-of-sequence token; one that is left out of the mean"""
Joint = Literal["blank-line", "eos"]
"""between documents of a text: a blank line (the paper), or the end-of-text token"""
Way = Literal["mean", "scale"]
"""steering: a region's neurons at their means in the target language, or scaled"""
Kind = Literal["zero", "mean", "mean-others", "scale"]
"""what treated neurons become"""
Rule = Literal["deviation", "significance"]
"""how heads are selected"""
Between = Literal["recomputed", "frozen"]
"""MLPs between a sender and its receivers"""
Ablation = Literal["zero", "mean", "resample"]
"""what stands for the output of an ablated node"""
Split = Literal["strict", "relaxed", "auto"]
"""one-token names and targets; more than that; strict where that is enough"""
Matching = Literal["shuffle", "twins"]
"""null of a matching of heads: scores shuffled over the heads, or models with random weights"""
