# %% [markdown]
# # Which language does it think in, and can it be made to write another?
#
# Between French input and Chinese output, do the middle layers favour the English word? The study reads every layer with
# the logit lens and holds the English word against controls: words of other languages, other concepts, permuted concepts.
# The first model is built by hand so that it does pass through English, the second so that it does not.

# %%
import tempfile

import babelscope as bs

for name in ("planted-pivot", "planted-none"):
    model = bs.load_model(f"pocket:{name}")
    settings = bs.LatentSettings(words="planted", from_=("fr",), to=("zh",))
    run = bs.study_latent(model, settings, f"{tempfile.mkdtemp()}/{name}")
    print(name, *run.summary["sentences"], sep="\n  • ")

# %% [markdown]
# Steering. A direction in the residual stream, from the mean of English sentences to the mean of French ones, is added
# while the model writes. `gap` says how far apart the means are in that direction; α = 1 bridges the gap.

# %%
from babelscope.steering import SavedEdit, collect, direction

model = bs.load_model("pocket:pocket-bloom-m")
corpus = bs.load_corpus("pocket:heldout", ["en", "fr", "es", "zh"]).sample(60, seed=0)
moments = collect(model, corpus)
layer = model.layers // 2
towards = direction(moments, "en", "fr", layer)
print(f"layer {layer}: the means are {towards.gap:.2f} apart; the residual's norm there is {towards.norm:.1f}")

# %%
text = model.tokenizer("The children", return_tensors="pt")
for alpha in (0.0, 1.0, 2.0, 4.0):
    with SavedEdit((towards,), alpha=alpha).applied(model):
        ids = model.hf.generate(**text, max_new_tokens=12, do_sample=False)
    print(alpha, "|", model.tokenizer.decode(ids[0]))

# %% [markdown]
# Text in the other language is easily had, also by breaking the model. Whether it is worth something is measured by
# `babelscope steer`: success at equal damage (the loss on text of the target language), fidelity, and the same for random
# directions. See [Steering and language confusion](../steering.md).
#
# Next: [growth over checkpoints](6-checkpoints.ipynb).
