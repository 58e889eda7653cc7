# %% [markdown]
# # Start: where a language lives
#
# Everything here runs offline in a minute on a laptop: the model, `pocket-bloom-m` (1.7 million parameters, nine
# languages), and its held-out text come with the package. In Colab, install first: `!pip install babelscope`.

# %%
import babelscope as bs

model = bs.load_model("pocket:pocket-bloom-m")  # any Hugging Face name or folder stands here
model

# %% [markdown]
# Parallel text: the same sentences in several languages.

# %%
corpus = bs.load_corpus("pocket:heldout", ["en", "zh", "fr", "ar"]).sample(40, seed=0)
corpus

# %% [markdown]
# One pass per sentence records the mean activation of every neuron. Two questions follow from the cosine similarity of
# these vectors. Are sentences of one language more alike than sentences of two (LRDS; lower means more is shared)? Are
# translations more alike than unrelated sentences of the same two languages (SADS; above 0 means yes)?

# %%
from babelscope.regions import whole_means

recording = bs.record(model, corpus)
scores = whole_means(recording)
print(f"LRDS {scores.lrds:.3f}, SADS {scores.sads:.3f}, n = {len(corpus)} sentences in {len(corpus.languages)} languages")

# %% [markdown]
# The whole study does this with intervals, finds each language's region (the neurons that tell it from the others) and
# switches the region off, beside as many random neurons. It leaves a folder with tables, arrays and its settings.

# %%
import tempfile

settings = bs.RegionsSettings(
    "pocket:heldout", languages=("en", "zh", "fr", "ar"), samples=40, texts="pocket:heldout?seed=1", text_tokens=1024, window=128
)
run = bs.study_regions(model, settings, tempfile.mkdtemp() + "/regions")

# %% [markdown]
# What was found, in sentences that carry their interval, control and n:

# %%
from babelscope.findings import findings_of

for finding in findings_of(run):
    print("•", finding.text)

# %%
bs.draw(run, "perplexity_heatmap")

# %% [markdown]
# A region can be switched off by hand. Inside the block the model works without it; after the block it is as before.

# %%
regions = bs.load_regions(run.path / "regions/contrast.safetensors")
text = model.tokenizer("We go to", return_tensors="pt")


def continued() -> str:
    return model.tokenizer.decode(model.hf.generate(**text, max_new_tokens=8, do_sample=False)[0])


print("as it is:            ", continued())
with bs.deactivate(model, regions["en"]):
    print("without English:     ", continued())
with bs.deactivate(model, regions["zh"]):
    print("without Chinese:     ", continued())

# %% [markdown]
# Next: [your own model and text](2-own-model.ipynb).
