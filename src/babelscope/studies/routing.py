"""The part of a regions study of a mixture that says which experts serve which language, and what chance would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import xarray as xr

from babelscope import stats
from babelscope.models import Model
from babelscope.regions import nulls, similarity
from babelscope.regions import routing as measures
from babelscope.regions.document_means import layer_map, whole_map
from babelscope.regions.perplexity import Windows
from babelscope.regions.recording import Recording
from babelscope.regions.routed import Routing
from babelscope.regions.routing_nulls import RoutingNull, routing_null
from babelscope.results.rows import write_rows
from babelscope.results.schemas.routing import ExpertOff, RoutingExpert, RoutingLayer, RoutingSimilarity
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.routing_deactivation import expert_deactivation
from babelscope.studies.steps import Sink

NAN = float("nan")
NOT_ASKED = "no permutations were asked for"
TWO_LANGUAGES = "D is symmetric: with two languages no permutation moves it"
HASHED = "experts follow from the token id alone"


def write_routing(
    run: Sink,
    model: Model,
    recording: Recording,
    windows: Mapping[str, Windows],
    settings: RegionsSettings,
) -> dict[str, object]:
    """Tables `routing_layer`, `routing_expert` and `routing_similarity`, arrays `routing`, and the summary's part.

    With texts also `routing_deactivation`. A run of a model without experts has none of them. The reference of
    divergences is English, or else the first language.
    """
    found = recording.routing
    if found is None:
        return {}
    reference = "en" if "en" in found.languages else found.languages[0]
    draws, documents = settings.permutations, recording.documents
    null = routing_null(found, reference, draws, settings.seed, documents) if draws else None
    layers, experts = _layers(found, reference, null, documents), _experts(found, reference, null, settings.fdr)
    write_rows(run, RoutingLayer, layers)
    write_rows(run, RoutingExpert, experts)
    write_rows(run, RoutingSimilarity, _similarities(found, settings, documents))
    if windows:
        write_rows(run, ExpertOff, expert_deactivation(model, windows, found, settings.controls))
    coordinates = {"language": list(found.languages), "layer": list(found.layers)}
    dimensions = ("language", "layer", "expert")
    run.arrays(
        xr.Dataset(
            {
                "routing_probability": (dimensions, found.language_probabilities().numpy()),
                "routing_choice": (dimensions, found.language_choices().numpy()),
            },
            coordinates,
        ),
        group="routing",
    )
    return {"routing": _summary(found, reference, experts, null, settings.fdr)}


def _summary(
    found: Routing, reference: str, experts: list[RoutingExpert], null: RoutingNull | None, rate: float
) -> dict[str, object]:
    raised = Counter(row.language for row in experts if row.chosen)
    return {
        "layers": list(found.layers),
        "experts": list(found.experts),
        "per_token": found.per_token,
        "scoring": found.scoring,
        "scoring_reproduces_weights": found.reproduced,
        "hashed_layers": list(found.hashed),
        "reference": reference,
        "raised_experts": {code: raised[code] for code in found.languages} if null else None,
        "rate": rate,
    }


def _layers(found: Routing, reference: str, null: RoutingNull | None, documents: tuple[str, ...]) -> list[RoutingLayer]:
    """A row for each layer and language: its distances from the reference, with intervals and what chance gives."""
    distances, even = measures.divergences(found, reference), measures.evenness(found)
    pairs = measures.pair_divergences(found)
    own = found.languages.index(reference)
    rows: list[RoutingLayer] = []
    for place, layer in enumerate(found.layers):
        for language, code in enumerate(found.languages):
            if language == own:
                continue
            each = pairs[place, :, own, language]
            mean = _over_documents(each, documents)
            translations = null.same_sentence if null else None
            apart = _against(mean.value, translations, place, language)
            pooled = float(distances.pooled[place, language])
            pooled_null = _against(pooled, null.pooled if null else None, place, language)
            why = HASHED if layer in found.hashed else NOT_ASKED if not null else ""
            row = RoutingLayer(
                layer=layer,
                language=code,
                reference=reference,
                divergence=mean.value,
                divergence_low=mean.low,
                divergence_high=mean.high,
                interval=mean.method,
                other_sentence=float(distances.other_sentence[place, language]),
                alignment=float(distances.alignment[place, language]),
                pooled_js=pooled,
                divergence_null_low=apart.low,
                divergence_null_high=apart.high,
                divergence_p=apart.p,
                pooled_js_null_low=pooled_null.low,
                pooled_js_null_high=pooled_null.high,
                pooled_js_p=pooled_null.p,
                evenness=float(even[language, place]),
                evenness_reference=float(even[own, place]),
                n=len(found.ids),
                why=why or (TWO_LANGUAGES if translations is None else mean.why),
            )
            rows.append(row)
    return rows


def _over_documents(each: torch.Tensor, documents: tuple[str, ...]) -> stats.Interval:
    """Mean over sentences, its interval over documents where there are any."""
    known = each.isfinite()
    if not documents:
        return stats.bootstrap_mean(each[known].numpy())
    owner = torch.from_numpy(stats.group_items(documents, len(documents)))
    totals, sizes = torch.zeros(2, int(owner.max()) + 1, dtype=torch.float64)
    totals.index_add_(0, owner[known], each[known].double())
    sizes.index_add_(0, owner[known], torch.ones_like(each[known], dtype=torch.float64))
    return stats.ratio_t(totals.numpy(), sizes.numpy())


@dataclass(frozen=True)
class _Chance:
    """Middle 95 % of a null's draws, and how often they reach what was observed."""

    low: float = NAN
    high: float = NAN
    p: float = NAN


def _against(value: float, draws: torch.Tensor | None, layer: int, language: int) -> _Chance:
    if draws is None or not bool(draws[:, layer, language].isfinite().all()):
        return _Chance()
    return _chance(value, draws[:, layer, language])


def _experts(found: Routing, reference: str, null: RoutingNull | None, rate: float) -> list[RoutingExpert]:
    """A row for each layer, expert and language: how often it is chosen, and whether chance gives that."""
    f = found.language_choices()
    special = measures.specialised(f, found.languages.index(reference))
    shares = measures.language_shares(f)
    owners = measures.owner(shares)
    raised = null.chosen(rate) if null else torch.zeros_like(f, dtype=torch.bool)
    rows: list[RoutingExpert] = []
    for place, layer in enumerate(found.layers):
        for expert in range(found.experts[place]):
            for language, code in enumerate(found.languages):
                rows.append(
                    RoutingExpert(
                        layer=layer,
                        expert=expert,
                        language=code,
                        f=float(f[language, place, expert]),
                        f_others=float((f[:, place, expert].sum() - f[language, place, expert]) / (len(f) - 1)),
                        p=float(null.p[language, place, expert]) if null else NAN,
                        chosen=bool(raised[language, place, expert]),
                        rate=rate,
                        specialised=bool(special[language, place, expert]),
                        language_share=float(shares[language, place, expert]),
                        exclusive=bool(owners[place, expert] == language),
                        n=len(found.ids),
                        why=HASHED if layer in found.hashed else "" if null else NOT_ASKED,
                    )
                )
    return rows


def _similarities(found: Routing, settings: RegionsSettings, documents: tuple[str, ...]) -> list[RoutingSimilarity]:
    """LRDS and SADS of routing, over all layers and by layer, centred and as it is, with intervals and nulls."""
    rows: list[RoutingSimilarity] = []
    counts = {found.experts[place] for place in found.measured}
    if len(counts) != 1:
        return [RoutingSimilarity(why="layers differ in their number of experts, or none is measured")]
    for centred in (True, False):
        recording = replace(measures.routing_recording(found, centred), documents=documents)
        for place in (None, *range(recording.layers)):
            gram = similarity.gram(recording, place)
            means = similarity.whole_means(recording) if place is None else similarity.layer_means(recording)
            blocks = whole_map(recording) if place is None else layer_map(recording, place)
            left_out = blocks.means(blocks.each_left_out())
            lrds = stats.jackknife_t(float(means.lrds if place is None else means.lrds[place]), left_out.lrds.numpy())
            sads = stats.jackknife_t(float(means.sads if place is None else means.sads[place]), left_out.sads.numpy())
            by_label, by_sentence = _Chance(), _Chance()
            if draws := settings.permutations:
                by_label = _chance(lrds.value, nulls.label_null(gram, draws, settings.seed, documents).lrds)
                by_sentence = _chance(sads.value, nulls.sentence_null(gram, draws, settings.seed).sads)
            row = RoutingSimilarity(
                layer=NAN if place is None else found.layers[found.measured[place]],
                centred=centred,
                n=len(found.ids),
                lrds=lrds.value,
                lrds_low=lrds.low,
                lrds_high=lrds.high,
                lrds_null_low=by_label.low,
                lrds_null_high=by_label.high,
                lrds_p=by_label.p,
                sads=sads.value,
                sads_low=sads.low,
                sads_high=sads.high,
                sads_null_low=by_sentence.low,
                sads_null_high=by_sentence.high,
                sads_p=by_sentence.p,
                why="" if draws else NOT_ASKED,
            )
            rows.append(row)
    return rows


def _chance(value: float, draws: torch.Tensor) -> _Chance:
    return _Chance(*stats.percentile(draws.numpy()), nulls.reached(value, draws))
