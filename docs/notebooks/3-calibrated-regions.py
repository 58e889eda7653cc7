# %% [markdown]
# # Calibrated regions: what of it is chance?
#
# A threshold on a score always finds neurons, also where no neuron knows any language. The permutation null shuffles
# the languages of each sentence's translations and asks how many neurons pass then.

# %%
import tempfile

import babelscope as bs
from babelscope.findings import findings_of

model = bs.load_model("pocket:pocket-bloom-m")
settings = bs.RegionsSettings(
    "pocket:heldout", languages=("en", "zh", "fr", "es", "ar", "hi"), samples=40, permutations=100, methods=("fdr-effect", "lape")
)
run = bs.study_regions(model, settings, tempfile.mkdtemp() + "/calibrated")
for finding in findings_of(run):
    print("•", finding.text)

# %% [markdown]
# Per language: neurons found, how many the null lets through on average, and p.

# %%
run.table("calibration").round(3)

# %% [markdown]
# Other methods of localisation on the same recording, and how far they agree (Jaccard index, with what two random sets of
# these sizes would share).

# %%
run.table("agreement").round(3) if "agreement" in run.tables else run.table("methods").round(3)

# %% [markdown]
# The neurons of one region as a table; `run.arrays()` holds every score, as xarray.

# %%
bs.load_regions(run.path / "regions/contrast.safetensors").to_frame("zh").head()

# %% [markdown]
# How many neurons pass grows with the number of sentences, whatever the model: the headline is therefore the share of
# variance that language explains, which does not. More: [Statistics](../statistics.md).
#
# Next: [circuits in two languages](4-circuits.ipynb).
