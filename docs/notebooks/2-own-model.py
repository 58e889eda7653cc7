# %% [markdown]
# # Your own model, your own text
#
# Whatever `transformers` can load, from the hub, from a folder or already in memory. Here a small LLaMA with random
# weights and a tokenizer borrowed from the pocket family stand in for yours.

# %%
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import babelscope as bs

tokenizer = bs.load_model("pocket:pocket-llama").tokenizer
torch.manual_seed(0)
hf = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4
    )
).eval()
model = bs.Model(hf, tokenizer, id="mine")
model

# %% [markdown]
# Can it be measured? Each check is an identity that must hold: neurons × output weights = what the MLP writes, heads and
# MLPs add up to the final residual, an edit by hook equals an edit of the weights, and so on.

# %%
for check in bs.run_checks(model):
    print("ok  " if check.passed else "FAIL", check.name)

# %% [markdown]
# Text as you have it: a dictionary of lists, a DataFrame, a `datasets.Dataset`, or any reader of `babelscope corpus list`.

# %%
import pandas as pd

lists = bs.load_corpus(
    {
        "en": ["The children go to school.", "The water is cold.", "I read a book.", "The bird sings."],
        "fr": ["Les enfants vont à l'école.", "L'eau est froide.", "Je lis un livre.", "L'oiseau chante."],
        "es": ["Los niños van a la escuela.", "El agua está fría.", "Leo un libro.", "El pájaro canta."],
    }
)
frame = pd.DataFrame({code: lists.sentences(code) for code in lists.languages})
bs.load_corpus(frame)

# %% [markdown]
# Is the text in order? The audit looks for wrong languages, lines shifted against each other, repeated and untranslated
# lines, mixed Unicode forms and more.

# %%
bs.audit(lists).tables()["languages"]

# %% [markdown]
# A model with random weights has no language regions worth the name, and the study says so. Four sentences are also too
# few: look at the intervals, and at the sentences that say "cannot be said".

# %%
from babelscope.findings import findings_of

settings = bs.RegionsSettings("memory", samples=4, bootstrap=200)
run = bs.study_regions(model, settings, tempfile.mkdtemp() + "/mine", corpus=lists)
for finding in findings_of(run):
    print("•", finding.text)

# %% [markdown]
# Any edit of your own: the third layer's neurons, halved, in one pass.

# %%
ids = tokenizer("The water is", return_tensors="pt")["input_ids"]
with torch.inference_mode():
    before = model.hf(ids).logits[0, -1]
    with bs.edit(model, {bs.Site("neurons", 2): lambda value: value * 0.5}):
        after = model.hf(ids).logits[0, -1]
print(f"largest change of a logit: {(after - before).abs().max():.3f}")

# %% [markdown]
# Next: [which of a region's neurons are chance](3-calibrated-regions.ipynb).
