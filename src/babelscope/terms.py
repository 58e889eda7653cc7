"""Words that options are chosen from, in a module that costs nothing to import: the command line prints them."""

from __future__ import annotations

from typing import Literal

SpecialTokens = Literal["auto", "none", "bos", "bos-excluded", "own"]
"""`own` of an encoder, else `none`; no special token; a beginning-of-sequence token; one that is left out of the mean;
what the tokenizer puts around a text by itself, left out of the mean"""
RecordedSite = Literal["neurons", "residual"]
"""neurons of MLPs, or the residual stream before each block and behind the last"""
Norm = Literal["robust", "paper", "none"]
"""what a vector is divided by: its length without neurons that fire at one position, its length (eq. 6), nothing"""
First = Literal["keep", "drop"]
"""whether the first pooled token is part of a sentence's mean"""
Pooled = Literal["all", "shortest"]
"""tokens in the mean: all; as many as the sentence has in the language with the fewest"""
Documents = Literal["auto", "none"]
"""sentences of one document are not independent; they are"""
RegionMethod = Literal["contrast", "z-score"]
"""regions that are switched off and drawn"""
Sign = Literal["raised", "lowered", "both"]
"""neurons that a language holds high, low, or both"""
Form = Literal["nfc", "nfd", "nfkc", "nfkd"]
"""Unicode normal forms"""
Joint = Literal["blank-line", "eos"]
"""between documents of a text: a blank line (the paper), or the end-of-text token"""
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
Counted = Literal["native", "query-heads"]
"""edges into keys and values: of the model's own key/value heads, or of every query head (as the MIB benchmark does)"""
Construction = Literal["greedy", "top"]
"""circuits of edges: grown from the logits upwards, or the strongest edges anywhere (as in MIB); both are pruned"""
Slope = Literal["ld", "loss", "kl"]
SLOPES: tuple[Slope, ...] = ("ld", "loss", "kl")
"""what attribution follows: the logit difference; the answer's log-probability (minus its loss); minus the next word's
divergence from the clean run"""
Half = Literal["test", "ranking"]
"""prompts that faithfulness over budgets is taken on: those not used for ranking, or the very same (in-sample)"""
Matching = Literal["shuffle", "twins"]
"""null of a matching of heads: scores shuffled over the heads, or models with random weights"""
Where = Literal["all", "generated", "prompt"]
"""tokens that an edit changes: all; the prompt's last and all after it; the prompt"""
Chat = Literal["auto", "on", "off"]
"""a model's chat template: where it has one; always; never"""
Edit = Literal["add", "move"]
"""steering: a vector is added to every state; or every state is moved to one place along it"""
Unit = Literal["gap", "absolute", "norm"]
"""of strengths: the distance of two languages' means; the model's own; the mean length of a token's state"""
Arithmetic = Literal["additive", "replacement", "diffmean"]
"""how language arithmetic raises the target's neurons"""
Weighting = Literal["sentences", "tokens"]
"""what weighs the same in a mean"""
Direction = Literal["diffmean", "centred", "rest", "lda", "pca"]
DIRECTIONS: tuple[Direction, ...] = ("diffmean", "centred", "rest", "lda", "pca")
"""ways to a direction from one language to another"""
ByNeurons = Literal["neurons", "scaled", "arithmetic"]
BY_NEURONS: tuple[ByNeurons, ...] = ("neurons", "scaled", "arithmetic")
"""ways of steering by neurons"""
ConfusionRule = Literal["offline", "lcb"]
"""how answers are judged: by what the package carries; as published"""
