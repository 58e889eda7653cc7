"""What the explorer computes, without a browser: bounds, similarities, switches, neurons, heads, runs."""

from __future__ import annotations

import threading

import pytest
import torch

from babelscope.app import facts, heads, layers, neurons, sentences, steered, switches
from babelscope.app.identify import identify
from babelscope.app.markup import Tint, differing, heat_table, shown, side_by_side
from babelscope.app.session import Loading, Session, open_for_viewing, open_session
from babelscope.app.work import Work, bounded
from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError, Interrupted, ModelError, RunError
from babelscope.models import Model, Site, capture, edit
from babelscope.models.hooks import hook_count
from babelscope.models.norms import frozen_norm
from babelscope.regions import record
from babelscope.regions.similarity import gram
from babelscope.steering import collect, direction
from tests.tiny_models import tiny_model, tiny_tokenizer

NASTY = '<script>alert(1)</script> "><img src=x onerror=alert(1)> ${alert(1)} {{value}} \u202eabc'
TEXTS = {
    "en": ["the cat sat on a mat", "a dog ran far away", "birds fly over here", "fish swim down there"],
    "fr": ["le chat est sur le tapis", "un chien a couru loin", "les oiseaux volent ici", "les poissons nagent"],
    "es": ["el gato en la alfombra", "un perro corre lejos", "las aves vuelan", "los peces nadan ahí"],
    "pt": ["o gato no tapete", "um cão corre longe", "as aves voam aqui", "os peixes nadam"],
    "id": ["kucing duduk di tikar", "anjing lari jauh", "burung terbang di sini", "ikan berenang"],
    "zh": ["的一是不", "人我在有", "他这的一", "不人是我"],
}


@pytest.fixture(scope="module")
def model():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="tiny-llama")


@pytest.fixture
def session(model):
    session = Session(model)
    session.corpus = ParallelCorpus.from_texts(TEXTS)
    return session


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A real run of a tiny model, with its model and its text beside it."""
    from babelscope import load_model
    from babelscope.studies.regions import RegionsSettings, study_regions

    home = tmp_path_factory.mktemp("explorer")
    tiny_model("llama").save_pretrained(home / "model")
    tiny_tokenizer().save_pretrained(home / "model")
    (home / "text").mkdir()
    for code, lines in TEXTS.items():
        (home / "text" / f"{code}.txt").write_text("\n".join(lines), encoding="utf-8")
    settings = RegionsSettings(f"lines:{home / 'text'}", samples=4, bootstrap=20, threshold=1.5)
    study_regions(load_model(str(home / "model"), device="cpu"), settings, home / "runs" / "one")
    return home


def test_work_tells_and_stops():
    said = []
    work = Work(lambda share, text: said.append((share, text)))
    with work.stage("reading", 4, "texts") as step:
        step(1)
        work.stop()
        with pytest.raises(Interrupted):
            step(1)
    assert said == [(0.0, "reading"), (0.25, "reading: 1 of 4 texts")]


@pytest.mark.parametrize("text", ["", "   \n", "x" * 2001, None])
def test_texts_are_bounded(text):
    with pytest.raises(InputError, match="the prompt"):
        bounded(text, "the prompt")


def test_half_a_surrogate_pair_is_no_trouble():
    assert bounded("a\ud800b", "the prompt") == "a?b"


@pytest.mark.parametrize("text", ["one line", "\n".join(["a line"] * 13), "a\n" + "b" * 2001])
def test_lists_of_sentences_are_bounded(session, text):
    with pytest.raises(InputError, match="sentence"):
        sentences.compare(session, text, None, Work())


def test_similarity_is_that_of_a_recording(session, model):
    found = sentences.compare(session, "the cat sat\nle chat est\nfish", None, Work())
    alone = record(model, ParallelCorpus.from_texts({"a": ["the cat sat"], "b": ["le chat est"], "c": ["fish"]}))
    assert torch.allclose(found.similarity, gram(alone)[:, 0, :, 0])
    assert torch.allclose(found.similarity.diagonal(), torch.ones(3, dtype=torch.float64))
    apart = found.similarity.sum() - 3
    every = sentences.compare(session, "the cat sat\nle chat est\nfish", None, Work(), top=model.neurons)
    assert every.shared["adds to similarity"].sum() == pytest.approx(float(apart) / 6)
    assert every.own.groupby("sentence")["share"].sum().tolist() == pytest.approx([1, 1, 1])


def test_one_layer_is_its_own_map(session):
    found = sentences.compare(session, "the cat\nthe dog", 1, Work())
    assert float(found.by_layer[1]) == pytest.approx(float(found.similarity[0, 1]))
    with pytest.raises(InputError, match="no layer 3"):
        sentences.compare(session, "the cat\nthe dog", 3, Work())


def test_switching_a_region_off_changes_the_continuation_and_nothing_else(session, model):
    hooks = hook_count(model.hf)
    everything = {code: torch.ones(model.layers, model.neurons_per_layer).bool() for code in TEXTS}
    nothing = torch.zeros(model.layers, model.neurons_per_layer).bool()
    session.__dict__["_regions"] = type(session.regions(Work()))(everything | {"zh": nothing}, "test")
    found = switches.switch_off(session, "the cat", ["en"], 12, Work())
    assert found.neurons == model.neurons
    assert found.before.text != found.after.text
    again = switches.switch_off(session, "the cat", ["fr"], 12, Work())
    assert again.before.text == found.before.text
    assert hook_count(model.hf) == hooks
    with pytest.raises(InputError, match="empty"):
        switches.switch_off(session, "the cat", ["zh"], 12, Work())


def test_generation_is_that_of_the_model(session, model):
    found = switches.switch_off(session, "the cat", ["en"], 5, Work())
    ids = model.tokenize(["the cat"])[0]
    for _ in range(5):
        with torch.inference_mode():
            ids.append(int(model.logits(model.trunk(torch.tensor([ids])))[0, -1].argmax()))
    assert found.before.text == model.tokenizer.decode(ids, skip_special_tokens=True)[len("the cat") :]


def test_generation_can_be_stopped(session, model):
    session.regions(Work())
    work = Work(lambda share, text: work.stop() if share >= 0.5 else None)
    with pytest.raises(Interrupted):
        switches.switch_off(session, "the cat", ["en"], 10, work)
    assert hook_count(model.hf) == 0


@pytest.mark.parametrize(("prompt", "tokens"), [("the cat", 0), ("the cat", 101), ("a" * 127, 10), ("", 5)])
def test_generation_is_bounded(session, prompt, tokens):
    with pytest.raises(InputError):
        switches.switch_off(session, prompt, ["en"], tokens, Work())


def test_perplexity_has_a_row_for_every_language_and_a_control(session):
    table = switches.perplexity_change(session, ["zh"], Work())
    assert table["language"].tolist() == list(TEXTS)
    assert (table[["all neurons", "off", "random"]] > 1).all(axis=None)
    again = switches.perplexity_change(session, ["zh"], Work())
    assert again.equals(table)


def test_beginnings_are_halves_of_sentences(session):
    assert switches.beginning(session, "en", 4) == "the cat sat"
    assert switches.beginning(session, "zh", 0) == "的一"


def test_a_neuron_is_looked_at(session, model):
    found = neurons.strongest(session, "zh", Work(), top=5)
    assert found["z"].max() <= 5**0.5 + 1e-9
    layer, neuron = int(found["layer"][0]), int(found["neuron"][0])
    card = neurons.look_at(session, layer, neuron, Work())
    means = card.by_language["mean activation"]
    assert card.by_language.direction.tolist() == ["raised" if mean > means.mean() else "lowered" for mean in means]
    assert set(found.direction) <= {"raised", "lowered"}
    assert card.by_language["language"].tolist() == list(TEXTS)
    corpus = session.corpus
    row = card.sentences.iloc[0]
    with capture(model, [Site("neurons", layer)]) as seen, torch.inference_mode():
        model.trunk(torch.tensor([model.tokenize([row["text"]])[0]]))
    assert float(seen[Site("neurons", layer)][0, :, neuron].mean()) == pytest.approx(row["mean activation"], abs=1e-5)
    assert row["text"] in corpus.texts[row["language"]]
    assert card.sentences["mean activation"].is_monotonic_decreasing
    with pytest.raises(InputError, match="no neuron"):
        neurons.look_at(session, 0, model.neurons_per_layer, Work())


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma2", "olmo2", "cohere", "gpt_neox"])
@torch.no_grad()
def test_direct_attributions_add_up_to_the_logit_difference(family):
    model = Model(tiny_model(family), tiny_tokenizer(), id=family)
    session = Session(model)
    found = heads.answer(session, "the cat and the dog", "a", "b", Work())
    # the tiny tokenizer knows only letters, so the blank that both answers begin with joins the prompt
    ids = torch.tensor([model.tokenize(["the cat and the dog "])[0]])
    sites = [Site("residual", 0), Site("residual", model.layers)]
    written = [Site("attention_write", layer) for layer in range(model.layers)]
    with capture(model, [*sites, *written], keep=lambda value: value[0, -1].clone()) as seen:
        final = model.trunk(ids)[0, -1]
    words = [model.tokenize([word])[0][0] for word in "ab"]
    direction = model.unembedding[words[0]] - model.unembedding[words[1]]
    direction = direction * model.logit_scale
    assert found.difference == pytest.approx(float(final @ direction), abs=1e-4)
    norm = frozen_norm(model.norm("final"), seen[sites[1]]).part
    attention = sum(float(norm(seen[site]) @ direction) for site in written)
    biases = attention - float(found.heads.sum())
    bias_of_norm = float(model.norm("final")(torch.zeros(model.width)) @ direction)
    parts = float(norm(seen[sites[0]]) @ direction) + biases + bias_of_norm
    assert found.rest == pytest.approx(parts, abs=2e-3)
    if family in ("llama", "gemma2", "olmo2", "cohere"):
        assert biases == pytest.approx(0, abs=2e-3)


def test_answers_that_begin_alike_are_refused(session):
    with pytest.raises(InputError, match="nothing to compare"):
        heads.answer(session, "the cat", "a", "a", Work())


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_attention_is_a_distribution_and_the_kernel_comes_back(family):
    model = Model(tiny_model(family), tiny_tokenizer(), id=family)
    before = model.config._attn_implementation
    found = heads.attention(Session(model), "the cat", 1, 2, Work())
    assert "".join(found.words) == "the cat"
    assert torch.allclose(found.weights.sum(-1), torch.ones(7), atol=1e-5)
    assert float(found.weights.triu(1).abs().max()) < 1e-6
    assert model.config._attn_implementation == before
    with pytest.raises(InputError, match=r"no head 0\.9"):
        heads.attention(Session(model), "the cat", 0, 9, Work())
    with pytest.raises(InputError, match="at most 64"):
        heads.attention(Session(model), "a" * 65, 0, 0, Work())


def test_a_run_brings_its_model_its_regions_and_its_text(run_folder):
    session = open_session(str(run_folder / "runs" / "one"), loading=Loading(device="cpu"))
    assert session.languages == tuple(sorted(TEXTS))
    assert session.scores(Work()).source == "the run"
    assert session.regions(Work()).sizes == session.run.summary["region_size"]
    assert len(session.corpus) == 4
    card = neurons.look_at(session, 0, 0, Work())
    assert card.by_language["score"].tolist() == pytest.approx(session.run.arrays()["score"][:, 0, 0].values.tolist())
    rows = dict(facts.session_facts(session))
    assert rows["Run: Languages"] == ", ".join(session.languages)
    assert "sentences" in facts.table_names(session)
    sizes = facts.run_table(session, "region_size")
    assert set(sizes["method"]) == {"contrast", "z-score"}
    assert len(sizes) == 2 * len(TEXTS)
    with pytest.raises(InputError, match="no table"):
        facts.run_table(session, "../../x")


def test_scores_measured_here_are_those_of_the_run(run_folder):
    session = open_session(str(run_folder / "runs" / "one"), loading=Loading(device="cpu"))
    own = session._own_scores(Work())
    assert torch.allclose(own.score, session.scores(Work()).score, atol=1e-7)


def test_a_run_whose_model_is_elsewhere_says_so(run_folder, tmp_path):
    moved = run_folder / "model"
    there = tmp_path / "moved"
    moved.rename(there)
    try:
        with pytest.raises(ModelError, match="--model"):
            open_session(str(run_folder / "runs" / "one"), loading=Loading(device="cpu"))
        session = open_session(str(run_folder / "runs" / "one"), model=str(there), loading=Loading(device="cpu"))
        assert session.model is not None
        viewed = open_for_viewing(str(run_folder / "runs" / "one"), Loading(device="cpu"), Session(None))
        assert viewed.model is None
        assert "cannot be loaded" in viewed.note
        with pytest.raises(InputError, match="no model is loaded"):
            sentences.compare(viewed, "a\nb", None, Work())
        assert open_for_viewing(str(run_folder / "runs" / "one"), Loading(), session).model is session.model
    finally:
        there.rename(moved)


def test_another_model_is_not_taken_for_the_runs(run_folder, tmp_path):
    tiny_model("llama", seed=5).save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="weights are others"):
        open_session(str(run_folder / "runs" / "one"), model=str(tmp_path / "other"), loading=Loading(device="cpu"))


@pytest.mark.parametrize("path", ["s3://bucket/run", "nowhere"])
def test_only_runs_of_this_machine_are_opened(path):
    with pytest.raises(RunError):
        open_for_viewing(path, Loading(), Session(None))


def test_without_parallel_text_it_is_said_how_to_name_some(model):
    with pytest.raises(InputError, match="--corpus"):
        switches.switch_off(Session(model), "the cat", ["zh"], 5, Work())


def test_threads_take_turns(session):
    found = []

    def compare():
        with session.lock:
            found.append(sentences.compare(session, "the cat\na dog", None, Work()).similarity)

    threads = [threading.Thread(target=compare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, found[0]) for one in found)


def test_markup_shows_text_as_text():
    table = heat_table([[0.5, float("nan")], [-0.2, 1.0]], [NASTY, "b"], [NASTY, "d"], NASTY, Tint(-1, 1))
    assert "<script" not in table
    assert "<img" not in table
    assert not set("{}$`") & set(table.replace("&#36;", ""))
    assert shown("a&b") == "a&amp;b"


def test_languages_are_told_apart():
    pytest.importorskip("py3langid")
    assert identify("這 是 一 個 很 長 的 中文 句子 我們 都 知道", ["en", "zh"])[0] == "zh"
    code, probability = identify("The little dog was running through the garden.", ["en", "fr", "zh"])
    assert code == "en"
    assert 0.5 < probability <= 1
    assert identify("ab", ["en", "zh"]) is None


def test_what_differs_is_marked_and_what_is_typed_stays_text():
    before, after = differing("we <b>go</b> home", "we <b>stay</b> home")
    assert before == (
        '<bdi dir="auto">we </bdi><mark><bdi dir="auto">&lt;b&gt;go&lt;/b&gt;</bdi></mark><bdi dir="auto"> home</bdi>'
    )
    assert "stay" in after
    assert differing("我们去学校", "我们去公园")[1].count("<mark>") == 1
    assert differing("same", "same") == ('<bdi dir="auto">same</bdi>',) * 2
    assert "<script" not in side_by_side(["<script>"] * 2, ["<script>", "b"], ["<script>"] * 2)


def test_the_lens_of_the_last_layer_is_the_models_own_answer(session, model):
    found = layers.read_layers(session, "The children go to", "", Work())
    assert found.by_language == {}
    assert len(found.top) == model.layers + 1
    [ids] = model.tokenize(["The children go to"])
    with torch.inference_mode():
        chance = model.hf(torch.tensor([ids])).logits[0, -1].softmax(-1)
    best = int(chance.argmax())
    told = found.top.iloc[-1]["1."]
    assert layers.seen(model.tokenizer.decode([best])) in told
    assert told.endswith(f" {100 * float(chance[best]):.0f} %")


def test_a_steered_continuation_is_that_of_the_same_edit_by_hand(session, model):
    found = steered.steer(session, "The children go to", "en", "fr", 2, 3.0, 8, Work())
    plain = steered.steer(session, "The children go to", "en", "fr", 2, 0.0, 8, Work())
    assert plain.before == plain.after == found.before
    corpus = session.need_corpus()
    few = corpus.sample(min(steered.SENTENCES, len(corpus)), seed=0)
    towards = direction(collect(model, few), "en", "fr", 2)
    text = model.tokenizer("The children go to", return_tensors="pt", add_special_tokens=False)
    move = lambda h: h + 3.0 * towards.gap * towards.unit.to(h)  # noqa: E731
    with edit(model, {Site("residual", 2): move}):
        ids = model.hf.generate(**text, max_new_tokens=8, do_sample=False)
    by_hand = model.tokenizer.decode(ids[0, text["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found.after.text.strip() == by_hand.strip()


@pytest.mark.parametrize(("change", "said"), [
    ({"source": "fr"}, "two languages"), ({"layer": 99}, "no layer 99"), ({"alpha": 99.0}, "strengths between"),
    ({"prompt": " "}, "is empty"), ({"new_tokens": 0}, "tokens are written"),
])  # fmt: skip
def test_steering_refuses_what_makes_no_sense(session, change, said):
    asked = {"prompt": "The", "source": "en", "target": "fr", "layer": 2, "alpha": 1.0, "new_tokens": 5} | change
    with pytest.raises(InputError, match=said):
        steered.steer(session, **asked, work=Work())
