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
    if str(sender).startswith("s"):
        return put(Site("state_write", sender.layer))
    return put(Site("mlp_write", sender.layer) if hasattr(sender, "layer") else Site("residual", 0))


def between_positions(model):
    """What moves anything between positions: heads, and linear mixers."""
    mixers = [Site("state_write", layer) for layer in model.mixer_layers]
    return [Site("z", layer) for layer in model.attention_layers] + mixers


def naive_activation_patching(model, pair, sender, role=None):
    """LD of the clean prompt with one sender's output taken from the corrupted one; whole forward passes only."""
    sites = [Site("residual", 0), *between_positions(model)]
    sites += [Site("mlp_write", layer) for layer in model.neuron_layers]

    def two_passes(ids, corrupted, positions):
        with torch.no_grad(), capture(model, sites) as seen:
            model.trunk(corrupted)
        with torch.no_grad(), edit(model, sender_edits(model, seen, sender, positions)):
            return model.trunk(ids)

    return logit_difference(model, for_each_answer(pair, role, two_passes), pair.target, pair.foil)


def naive_path_patching(model, pair, sender, receivers, role="END", mlps="recomputed"):
    """The four passes, literally: A corrupted, B clean, C frozen heads but one, D clean with the receivers' values."""

    def passes(ids, corrupted, positions):
        with torch.no_grad():
            return four_passes(model, ids, corrupted, positions, sender, receivers, mlps)

    return logit_difference(model, for_each_answer(pair, role, passes), pair.target, pair.foil)


def for_each_answer(pair, role, passes):
    """Where the passes end for target and for foil: in the same if both are one token, for the last is not fed."""
    finals = []
    for ids, other, answer in zip(prompts_of(pair, "clean"), prompts_of(pair, "corrupted"), (pair.target, pair.foil)):
        finals.append(passes(ids, other, role_positions(pair, role, answer, ids.shape[1])))
        if len(pair.target) == len(pair.foil) == 1:
            return finals * 2
    return finals


def four_passes(model, ids, corrupted, positions, sender, receivers, mlps):
    heads = between_positions(model)
    ffns = [Site("mlp_write", layer) for layer in model.neuron_layers]
    end = Site("residual", model.layers)
    sites = {
        r: end if r.kind == "logits" else Site("mlp_in" if r.kind == "mlp" else r.kind, r.layer) for r in receivers
    }
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
                    if receiver.kind not in ("mlp", "logits"):
                        value[:, position, receiver.head] = c[site][:, position, receiver.head]
                    else:
                        value[:, position] = c[site][:, position]
            return value

        return change

    with edit(model, {site: patched(site) for site in set(sites.values())}):
        return model.trunk(ids)


# -- regions: similarity, scores, alignment, loss, by loops over pairs (regions.md, sections 2 to 5) -------------------


def sentence_vectors(model, corpus):
    """Unit vectors [L, n, D] in float64: one sentence at a time, no padding, hidden neurons averaged over tokens."""
    rows = []
    for language in corpus.languages:
        for text in corpus.texts[language]:
            ids = torch.tensor(model.tokenize([text]))
            with torch.no_grad(), capture(model, [Site("neurons", layer) for layer in range(model.layers)]) as seen:
                model.trunk(ids)
            means = [seen[Site("neurons", layer)][0].double().mean(0) for layer in range(model.layers)]
            rows.append(torch.cat(means))
    v = torch.stack(rows).reshape(len(corpus.languages), len(corpus), -1)
    return v / v.norm(dim=-1, keepdim=True)


def pair_loop_means(x):
    """A, B and C of unit vectors [L, n, D], pair by pair."""
    sums, counts = [0.0, 0.0, 0.0], [0, 0, 0]
    items = [(one, i) for one in range(x.shape[0]) for i in range(x.shape[1])]
    for one, i in items:
        for other, j in items:
            if (one, i) == (other, j):
                continue
            which = 0 if one == other else 1 if i == j else 2
            sums[which] += float(x[one, i] @ x[other, j])
            counts[which] += 1
    return [total / count for total, count in zip(sums, counts)]


def pair_loop_scores(x):
    """Equation 11, literally: the mean over pairs i < j of the products of a neuron's activations. [L, D]."""
    languages, sentences, neurons = x.shape
    scores = torch.zeros(languages, neurons, dtype=x.dtype)
    for one in range(languages):
        for i in range(sentences):
            for j in range(i + 1, sentences):
                scores[one] += x[one, i] * x[one, j]
    return scores * 2 / (sentences * (sentences - 1))


def loop_z(scores):
    """Equations 12 to 14, neuron by neuron."""
    z = torch.zeros_like(scores)
    for k in range(scores.shape[1]):
        mean = sum(scores[:, k]) / len(scores)
        spread = (sum((score - mean) ** 2 for score in scores[:, k]) / len(scores)) ** 0.5
        z[:, k] = (scores[:, k] - mean) / spread if spread > 0 else -torch.inf
    return z


def loop_mexa(a, b):
    """Share of sentences whose translation is the strict mutual nearest neighbour, from cosines one by one."""
    hits = 0
    for i in range(len(a)):
        own = torch.cosine_similarity(a[i], b[i], dim=0)
        rivals = [torch.cosine_similarity(a[i], b[j], dim=0) for j in range(len(b)) if j != i]
        rivals += [torch.cosine_similarity(a[j], b[i], dim=0) for j in range(len(a)) if j != i]
        hits += all(own > rival for rival in rivals)
    return hits / len(a)


def loop_anc(a, b):
    """Mean over neurons of the Pearson correlation over parallel sentences."""
    correlations = [torch.corrcoef(torch.stack([a[:, k], b[:, k]]))[0, 1] for k in range(a.shape[1])]
    return float(sum(correlations) / len(correlations))


def loop_hsic(k, m):
    """The unbiased estimate of Song et al. 2012, from its definition with kernels without a diagonal."""
    n = len(k)
    k, m = k - k.diag().diag(), m - m.diag().diag()
    ones = torch.ones(n, 1, dtype=k.dtype)
    total = (k @ m).trace() + (ones.T @ k @ ones) * (ones.T @ m @ ones) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (ones.T @ k @ m @ ones)) / (n * (n - 3)))


def loop_average_precision(values, positive):
    """Precision at each positive, where an item's place counts all items at least as high; equals share the place."""
    precisions = []
    for item in range(len(values)):
        if positive[item]:
            above = [other for other in range(len(values)) if values[other] >= values[item]]
            precisions.append(sum(positive[other] for other in above) / len(above))
    return sum(precisions) / len(precisions)


def mean_loss(model, windows):
    """Mean cross-entropy of full logits, one window at a time."""
    losses = []
    for row in windows:
        with torch.no_grad():
            logits = model.hf(row[None]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1].double(), row[1:], reduction="none"))
    return float(torch.cat(losses).mean())
