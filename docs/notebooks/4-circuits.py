# %% [markdown]
# # Circuits in two languages
#
# The task is indirect object identification: "When Mary and John went to the shop, John gave a drink to" — Mary. Which
# heads find her, and are they the same in Chinese?

# %%
import tempfile

import babelscope as bs
from babelscope.findings import findings_of

model = bs.load_model("pocket:pocket-bloom-m")
prompts = {code: bs.build_task("ioi", model.tokenizer, code, n=16) for code in ("en", "zh")}
for code, found in prompts.items():
    pair = found.pairs[0]
    print(code, pair.clean_text, "→", model.tokenizer.decode(pair.target), "and not", model.tokenizer.decode(pair.foil))

# %% [markdown]
# One head at a time, each direct path to the logits is patched with what the head writes on a prompt with other names.
# Negative: the head serves the answer. Rows are layers, columns heads.

# %%
import pandas as pd

for code, found in prompts.items():
    print(code)
    print(pd.DataFrame(bs.path_patching(model, found.pairs).heads()).round(2).to_string(), "\n")

# %% [markdown]
# The whole study: behaviour, patching with intervals, head roles with chance, ablation beside random heads, and each
# language's circuit tried on the other language.

# %%
settings = bs.CircuitsSettings(languages=("en", "zh"), n=16, edges=False)
run = bs.study_circuits(model, settings, tempfile.mkdtemp() + "/ioi")
for finding in findings_of(run):
    print("•", finding.text)

# %%
run.table("cross_faithfulness").round(2)

# %%
bs.draw(run, "head_scatter")

# %% [markdown]
# n = 16 keeps this notebook short; intervals are as wide as that deserves. Next:
# [which language does it think in, and can it be steered](5-latent-and-steering.ipynb).
