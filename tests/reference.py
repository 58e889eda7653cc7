"""Plain loops straight from the papers: every fast function equals one of these."""

from __future__ import annotations

import torch

from babelscope.models import Site, capture, edit

# -- path patching and activation patching, one sender and one pair at a time (circuits.md, section 3) ----------------


@torch.no_grad()
def logit_difference(model, final, target, foil):
    """LD at the answer positions of one prompt, from final hidden states [1, T, D] of both continuations."""
    if len(target) == len(foil) == 1:
        logits = model.hf.get_output_embeddings()(final[0][0, -1])
        logits = model.finish_logits(logits)
        return float(logits[target[0]] - logits[foil[0]])

    def log_probability(hidden, words):
        logits = model.finish_logits(model.hf.get_output_embeddings()(hidden[0, -len(words) :]))
        return float(logits.log_softmax(-1)[torch.arange(len(words)), list(words)].sum())

    return log_probability(final[0], target) - log_probability(final[1], foil)


def prompts_of(pair, which):
    """The prompt continued by each answer but its last token."""
    ids = getattr(pair, which)
    return [torch.tensor([[*ids, *answer[:-1]]]) for answer in (pair.target, pair.foil)]


def role_positions(pair, role, answer, length):
    if role is None:
        return list(range(length))
    if role == "END":
        return list(range(length - len(answer), length))
    return list(range(*pair.roles[role]))


def sender_edits(model, seen, sender, positions):
    """The edit that gives a sender its recorded value at some positions."""

    def put(site, head=None):
        def change(value):
            value = value.clone()
            for position in positions:
                if head is None:
                    value[:, position] = seen[site][:, position]
                else:
                    value[:, position, head] = seen[site][:, position, head]
            return value

        return {site: change}

    if hasattr(sender, "head"):
        return put(Site("z", sender.layer), sender.head)
    return put(Site("mlp_write", sender.layer) if hasattr(sender, "layer") else Site("residual", 0))


def naive_activation_patching(model, pair, sender, role=None):
    """LD of the clean prompt with one sender's output taken from the corrupted one; whole forward passes only."""
    sites = [Site("residual", 0)]
    sites += [Site(kind, layer) for layer in range(model.layers) for kind in ("z", "mlp_write")]
    finals = []
    for ids, corrupted, answer in zip(
        prompts_of(pair, "clean"), prompts_of(pair, "corrupted"), (pair.target, pair.foil)
    ):
        with torch.no_grad(), capture(model, sites) as seen:
            model.trunk(corrupted)
        positions = role_positions(pair, role, answer, ids.shape[1])
        with torch.no_grad(), edit(model, sender_edits(model, seen, sender, positions)):
            finals.append(model.trunk(ids))
    return logit_difference(model, finals, pair.target, pair.foil)


def naive_path_patching(model, pair, sender, receivers, role="END", mlps="recomputed"):
    """The four passes, literally: A corrupted, B clean, C frozen heads but one, D clean with the receivers' values."""
    runs = zip(prompts_of(pair, "clean"), prompts_of(pair, "corrupted"), (pair.target, pair.foil))
    with torch.no_grad():
        finals = [
            four_passes(model, ids, other, role_positions(pair, role, answer, ids.shape[1]), sender, receivers, mlps)
            for ids, other, answer in runs
        ]
    return logit_difference(model, finals, pair.target, pair.foil)


def four_passes(model, ids, corrupted, positions, sender, receivers, mlps):
    heads = [Site("z", layer) for layer in range(model.layers)]
    ffns = [Site("mlp_write", layer) for layer in range(model.layers)]
    names = {"q": "q", "k": "k", "v": "v", "mlp": "mlp_in"}
    end = Site("residual", model.layers)
    sites = {r: end if r.kind == "logits" else Site(names[r.kind], r.layer) for r in receivers}
    with capture(model, [Site("residual", 0), *heads, *ffns]) as a:
        model.trunk(corrupted)
    with capture(model, [*heads, *ffns]) as b:
        model.trunk(ids)
    frozen = {site: (lambda _, site=site: b[site]) for site in heads + (ffns if mlps == "frozen" else [])}
    for site, change in sender_edits(model, a, sender, positions).items():
        base = frozen.get(site, lambda value: value)
        frozen[site] = lambda value, base=base, change=change: change(base(value))
    with edit(model, frozen), capture(model, sorted(set(sites.values()))) as c:
        model.trunk(ids)

    def patched(site):
        def change(value):
            value = value.clone()
            for receiver in receivers:
                for position in positions if sites[receiver] == site else []:
                    if receiver.kind in ("q", "k", "v"):
                        value[:, position, receiver.head] = c[site][:, position, receiver.head]
                    else:
                        value[:, position] = c[site][:, position]
            return value

        return change

    with edit(model, {site: patched(site) for site in set(sites.values())}):
        return model.trunk(ids)
