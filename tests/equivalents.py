"""Mutants that change nothing that can be seen, each with the reason: they count neither as killed nor as alive."""

from __future__ import annotations

import re

KINDS: tuple[tuple[str, str, str], ...] = (
    (r"\((\w+) & (\w+)\)", r"(\1 * \2)", "of masks both say where both are true"),
    (r"^if TYPE_CHECKING:$", "if not TYPE_CHECKING:", "names of types alone: annotations are not evaluated"),
)
"""what stands in a line (a regular expression), what a mutant makes of it, and why; the rest of the line is the same"""

ONES: tuple[tuple[str, str, str, str], ...] = (
    ("circuits/core/skew.py", "skewness = (deviation**3).mean(-1) / np.square(deviation).mean(-1) ** 1.5",
     "skewness = (deviation**3).mean(-1) / np.square(deviation).mean(1) ** 1.5", "samples by values: two axes"),
    ("circuits/core/logit_diff.py", "step = max(1, LOGIT_ELEMENTS // model.vocabulary)",
     "step = max( 2, LOGIT_ELEMENTS // model.vocabulary)", "rows at once: memory alone"),
    ("circuits/edges/eap.py", "most = len(wiring.writers) + 8 * (wiring.heads + 2 * wiring.kv_heads)",
     "most = len(wiring.writers) + 8 * (wiring.heads + 2 >> wiring.kv_heads)", "tokens at once: memory alone"),
    ("circuits/core/residual.py", "return project(model, kind, layer, value)[..., 0, :]",
     "return project(model, kind, layer, value)[..., -1, :]", "a layer has one shared key"),
    ("circuits/edges/edge_ablation.py",
     'if module is not None and not self.needed[self.wiring.reader(Receiver("mlp", layer))]:',
     'if not module is not None and not self.needed[self.wiring.reader(Receiver("mlp", layer))]:',
     "an MLP that nobody reads is run all the same: time alone"),
    ("circuits/edges/single_edges.py",
     "return min(int(anywhere[0]) if len(anywhere) else rows.length, rows.length - rows.answer)",
     "return min(int(anywhere[0]) if len(anywhere) else rows.length, rows.length % rows.answer)",
     "an earlier first position computes again what stays as it is"),
    ("circuits/patching/path_passes.py", "if model.layers - 1 not in model.attention_layers:",
     "if model.layers | 1 not in model.attention_layers:", "which modules act on the last positions alone: time alone"),
    ("corpora/bible.py", 'if event == "start" and element.tag == "body":',
     'if event <= "start" and element.tag == "body":', "an element begins before it ends"),
    ("corpora/packed.py", "return stream.read(most + 1)", "return stream.read(most << 1)",
     "what is longer is refused by its length all the same"),
    ("corpora/source.py",
     "common = [sentence_id for sentence_id in present[first] if count[sentence_id] == len(present)]",
     "common = [sentence_id for sentence_id in present[first] if count[sentence_id] >= len(present)]",
     "an id is counted once a language"),
    ("corpora/packed.py", "return stream.read(most + 1)", "return stream.read(most + 2)",
     "what is longer is refused by its length all the same"),
    ("corpora/parallel.py", "if len(set(self.ids)) != len(self.ids):", "if len(set(self.ids)) < len(self.ids):",
     "a set is never the larger"),
    ("corpora/parallel.py", "n = round(fraction * len(self)) if 0 < fraction < 1 else 0",
     "n = round(fraction * len(self)) if 0 < fraction < 1 else -1", "refused as nothing is"),
    ("corpora/spec.py",
     "if not (value.isascii() and value.isdigit() and 0 < len(value) < 10 and int(value) > 0):",
     "if not (value.isascii() and value.isdigit() and 0 < len(value) < 10 and int(value) != 0):",
     "digits make no negative number"),
    ("evolution/differences.py",
     "known = np.isfinite(a) & np.isfinite(b)  # heads that a screen left unpatched are in neither",
     "known = np.isfinite(a) * np.isfinite(b)  # heads that a screen left unpatched are in neither",
     "of masks both say where both are true"),
    ("evolution/flow.py",
     "cuts = np.unique([*range(0, parts + 1, len(first)), *range(0, parts + 1, len(second))]) / parts",
     "cuts = np.unique([*range(0, parts * 1, len(first)), *range(0, parts + 1, len(second))]) / parts",
     "the other range has the end as well"),
    ("evolution/flow.py",
     "cuts = np.unique([*range(0, parts + 1, len(first)), *range(0, parts + 1, len(second))]) / parts",
     "cuts = np.unique([*range(0, parts + 0, len(first)), *range(0, parts + 1, len(second))]) / parts",
     "the other range has the end as well"),
    ("evolution/flow.py",
     "cuts = np.unique([*range(0, parts + 1, len(first)), *range(0, parts + 1, len(second))]) / parts",
     "cuts = np.unique([*range(0, parts + 1, len(first)), *range(0, parts * 1, len(second))]) / parts",
     "the other range has the end as well"),
    ("evolution/ray_engine.py",
     'room = [there.get(name, 0.0) / need for name, need in (("CPU", asked.cpus), ("GPU", asked.gpus)) if need > 0]',
     'room = [there.get(name, 0.0) // need for name, need in (("CPU", asked.cpus), ("GPU", asked.gpus)) if need > 0]',
     "rounded down afterwards"),
    ("models/decoding.py",
     "if parts and len(parts[-1]) < batch and (padded or len(rows[parts[-1][0][0]]) == length):",
     "if parts and len(parts[-1]) != batch and (padded or len(rows[parts[-1][0][0]]) == length):",
     "a part grows by one job at a time, and a batch holds one at least"),
    ("models/decoding.py",
     'return max(errors) if all(error == error for error in errors) else float("inf")',
     'return max(errors) if all(error <= error for error in errors) else float("inf")',
     "false of NaN alone, either way"),
    ("models/head_checks.py",
     "found.append((noise(seen[own]).float().repeat_interleave(group, dim=-2), seen[site].float()))",
     "found.append((noise(seen[own]).float().repeat_interleave(group, dim=+2), seen[site].float()))",
     "batch, position, head, width: four axes"),
    ("models/decoding.py", 'full: Reason = "length" if room == self.settings.tokens else "context"',
     'full: Reason = "length" if room >= self.settings.tokens else "context"', "room is the smaller of the two"),
    ("models/model.py", "if self._hashed is None or self._hashed[0] != sign:",
     "if self._hashed is None or self._hashed[0] is not sign:", "hashed once more: time alone"),
    ("models/hashing.py",
     "bytes_before, bytes_all = bits.storage_offset() * bits.element_size(), bits.numel() * bits.element_size()",
     "bytes_before, bytes_all = bits.storage_offset() * bits.element_size(), bits.numel() | bits.element_size()",
     "never a multiple of eight, but of elements of eight bytes: smaller integers, time alone"),
    ("regions/perplexity.py",
     "return (logits.logsumexp(-1) - logits.gather(-1, wanted[:, None])[:, 0]).reshape(targets.shape)",
     "return (logits.logsumexp(+1) - logits.gather(-1, wanted[:, None])[:, 0]).reshape(targets.shape)", "of two axes"),
    ("regions/alignment_measures.py", "total = by_document.sum(-1)", "total = by_document.sum(+1)", "of two axes"),
    ("regions/headlines.py", "varies = kept & (s > 0)", "varies = kept * (s > 0)",
     "of masks both say where both are true"),
    ("regions/losses_under.py", "totals[key].index_add_(0, owner, values)",
     "totals[key].index_add_( -1, owner, values)",
     "one axis"),
    ("regions/blocks.py", "parts[-1] = parts[-1] if last == stop and len(parts) == 1 else parts[-1].copy()",
     "parts[-1] = parts[-1] if last > stop and len(parts) == 1 else parts[-1].copy()", "a copy more: memory alone"),
    ("results/hidden.py", "lock.release(force=True)", "lock.release(force=False)", "a lock that is taken once"),
    ("results/rows.py", "  @cache", "", "columns of a class are found anew: time alone"),
    ("results/text_tables.py",
     "said = [with_ends(text, *pair) for text, pair in zip(said, zip(low, high, strict=True), strict=True)]",
     "said = [with_ends(text, *pair) for text, pair in zip(said, zip(low, high, strict=False), strict=True)]",
     "columns of one table are equally long"),
    ("results/schemas/sweep.py", "return {code: size for code, size in sizes.items() if size == size}",
     "return {code: size for code, size in sizes.items() if size <= size}", "false of NaN alone, either way"),
)  # fmt: skip
"""file, the line as it is, the line of the mutant, and why"""


def reason(file: str, old: str, new: str) -> str:
    """Why a mutant changes nothing that can be seen; empty where it may change something."""
    for name, right, wrong, why in ONES:
        if (name, right, wrong) == (file, old, new):
            return why
    for right, wrong, why in KINDS:
        if any(
            old[: one.start()] + re.sub(right, wrong, one[0]) + old[one.end() :] == new
            for one in re.finditer(right, old)
        ):
            return why
    return ""
