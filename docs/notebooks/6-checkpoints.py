# %% [markdown]
# # Growth over checkpoints
#
# The same measure at several checkpoints of one training run. On the hub these are revisions; the pocket family carries
# its own. A sweep resumes where it was interrupted, and a point that fails does not stop the others.

# %%
import tempfile

import babelscope as bs
from babelscope.evolution.plan import plan_from

plan = plan_from(
    {
        "name": "growth",
        "models": [{"id": "pocket:pocket-bloom-m", "revisions": ["step16", "step256", "main"]}],
        "corpora": ["pocket:heldout"],
        "languages": ["en", "zh", "fr", "ar"],
        "measures": {"regions": {"samples": 30, "bootstrap": 200}},
    }
)
run = bs.run_sweep(plan, tempfile.mkdtemp() + "/growth")

# %%
from babelscope.findings import findings_of

for finding in findings_of(run):
    print("•", finding.text)

# %% [markdown]
# At step 16 all sentences look alike, whatever their language or meaning (LRDS and SADS near 0). Do they grow together?

# %%
points = run.table("points")
points[["revision", "step", "lrds", "sads"]].round(3)

# %%
bs.draw(run, "training_curves")
