// The similarity map: every cell from the packed triangle, drawn to the pixel, exact under the pointer.
const drawSimilarity = (block, data) => {
  const spec = data.spec, size = spec.packed.size;
  const bytes = bytesOf(spec.packed.data);
  const cells = spec.packed.kind === "float32" ? new Float32Array(bytes.buffer)
    : spec.packed.kind === "uint16" ? new Uint16Array(bytes.buffer) : bytes;
  const levels = { float32: 0, uint16: 65535, uint8: 255 }[spec.packed.kind];
  const stored = (i, j) => cells[i >= j ? (i * (i + 1)) / 2 + j : (j * (j + 1)) / 2 + i];
  const value = levels ? (i, j) => spec.packed.low + (stored(i, j) / levels) * (spec.packed.high - spec.packed.low) : stored;

  const palette = bytesOf(spec.colours), colours = new Uint32Array(256);
  for (let k = 0; k < 256; k++) colours[k] = 0xff000000 | (palette[3 * k + 2] << 16) | (palette[3 * k + 1] << 8) | palette[3 * k];

  const byLanguage = [...Array(size).keys()];
  const byMeaning = [...byLanguage].sort((a, b) => spec.sentence[a] - spec.sentence[b] || spec.language[a] - spec.language[b]);
  let order = byLanguage, view = { x: 0, y: 0, size }, cursor = null, pinned = null;

  const canvas = make("canvas", { class: "cells", tabindex: "0", role: "application", "aria-label": "Similarity map, " + size + " by " + size + " sentences. Arrow keys move, Enter pins, plus and minus zoom." });
  const frame = make("div", { class: "frame" }, canvas);
  const mark = make("div", { class: "mark", hidden: true }), pin = make("div", { class: "mark pinned", hidden: true });
  frame.append(mark, pin);
  const scale = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const scaleRow = make("div", { class: "scale" }, "0", scale, "1  cosine similarity");
  const here = make("div", { class: "card here", "aria-live": "polite" }), kept = make("div", { class: "card kept", hidden: true });
  const radio = (label, checked, chosen) => {
    const input = make("input", { type: "radio", name: block.id + "-order", checked });
    input.addEventListener("change", () => { order = chosen; view = { x: 0, y: 0, size }; cursor = null; draw(); });
    return make("label", {}, input, " " + label);
  };
  const button = (label, action) => { const it = make("button", { type: "button" }, label); it.addEventListener("click", action); return it; };
  const controls = make("div", { class: "controls" },
    make("fieldset", {}, make("legend", {}, "Order"), radio("by language", true, byLanguage), radio("by meaning", false, byMeaning)),
    make("span", {}, button("Zoom in", () => zoom(0.5)), " ", button("Zoom out", () => zoom(2)), " ", button("Whole map", () => zoom(Infinity))));
  block.querySelector(".canvas").append(make("div", { class: "map" }, controls, make("div", {}, frame, scaleRow), make("div", {}, here, kept)));
  {
    const context = scale.getContext("2d"), image = context.createImageData(256, 1);
    new Uint32Array(image.data.buffer).set(colours);
    context.putImageData(image, 0, 0);
  }

  // From afar a large map is drawn from block means, made once for each order; from near, from the cells themselves:
  // then a pixel shows the mean of up to 3 × 3 of the cells under it.
  const block_size = size > 2000 ? Math.ceil(size / 1000) : 1;
  const coarse = new Map();
  const coarseOf = (order) => {
    if (coarse.has(order)) return coarse.get(order);
    const many = Math.ceil(size / block_size), sums = new Float32Array(many * many), counts = new Float32Array(many);
    const bin = new Int32Array(size);
    order.forEach((item, place) => { bin[item] = Math.floor(place / block_size); counts[bin[item]]++; });
    for (let i = 0, at = 0; i < size; i++) {
      const row = bin[i] * many;
      for (let j = 0; j <= i; j++, at++) {
        const cell = cells[at];
        sums[row + bin[j]] += cell;
        if (j < i) sums[bin[j] * many + bin[i]] += cell;
      }
    }
    const scale = levels ? (spec.packed.high - spec.packed.low) / levels : 1, low = levels ? spec.packed.low : 0;
    for (let y = 0; y < many; y++) for (let x = 0; x < many; x++) sums[y * many + x] = low + (scale * sums[y * many + x]) / (counts[y] * counts[x]);
    const made = { many, at: (y, x) => sums[y * many + x] };
    coarse.set(order, made);
    return made;
  };
  const samples = (start, pixels, far) => {
    const per = far ? 1 : Math.min(3, Math.max(1, Math.round(view.size / pixels)));
    const index = new Int32Array(pixels * per);
    for (let k = 0; k < index.length; k++) {
      const place = Math.min(size - 1, Math.floor(start + ((k + 0.5) / index.length) * view.size));
      index[k] = far ? Math.floor(place / block_size) : order[place];
    }
    return [index, per];
  };
  const draw = () => {
    const pixels = Math.max(64, Math.min(1400, Math.round(canvas.clientWidth * devicePixelRatio)));
    canvas.width = canvas.height = pixels;
    const context = canvas.getContext("2d"), image = context.createImageData(pixels, pixels), out = new Uint32Array(image.data.buffer);
    const far = block_size > 1 && view.size / pixels > block_size / 2, read = far ? coarseOf(order).at : value;
    const [rows, per] = samples(view.y, pixels, far), [columns] = samples(view.x, pixels, far);
    const mirrored = view.x === view.y;  // the map is symmetric: half of it is enough
    for (let y = 0; y < pixels; y++)
      for (let x = 0; x < (mirrored ? y + 1 : pixels); x++) {
        let sum = 0;
        for (let a = 0; a < per; a++) for (let b = 0; b < per; b++) sum += read(rows[y * per + a], columns[x * per + b]);
        const colour = colours[Math.max(0, Math.min(255, Math.floor((sum / (per * per)) * 256)))];
        out[y * pixels + x] = colour;
        if (mirrored) out[x * pixels + y] = colour;
      }
    context.putImageData(image, 0, 0);
    rule(context, pixels);
    label();
    place(mark, cursor);
    place(pin, pinned && [order.indexOf(pinned[0]), order.indexOf(pinned[1])]);
    frame.classList.toggle("zoomed", view.size < size);
  };
  let waiting = false;
  const drawSoon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
  const groupOf = (k) => (order === byLanguage ? spec.language[order[k]] : spec.sentence[order[k]]);
  const groups = (start) => {
    const found = [], first = Math.max(0, Math.floor(start)), last = Math.min(size, Math.ceil(start + view.size));
    for (let k = first; k < last; k++)
      if (k === first || groupOf(k) !== groupOf(k - 1)) found.push({ group: groupOf(k), from: k, to: k + 1 }); else found[found.length - 1].to = k + 1;
    return found;
  };
  const rule = (context, pixels) => {
    context.fillStyle = "rgba(255,255,255,.8)";
    const wide = Math.max(1, pixels / 700);
    for (const [start, across] of [[view.x, true], [view.y, false]]) {
      const found = groups(start);
      if (found.length > 40) continue;
      for (const { from } of found.slice(1)) {
        const at = ((from - start) / view.size) * pixels - wide / 2;
        if (across) context.fillRect(at, 0, wide, pixels); else context.fillRect(0, at, pixels, wide);
      }
    }
  };
  // A sentence's name on an axis: its id without what all ids begin with where that is short, else its number.
  const tails = (() => {
    const ids = spec.sentences, first = ids[0] ?? "";
    let same = 0;
    while (same < first.length && ids.every((id) => id[same] === first[same])) same++;
    const begin = Math.max(...[".", ":", "/", "-", "_", " "].map((sign) => first.lastIndexOf(sign, same - 1) + 1), 0);
    const short = ids.map((id) => id.slice(Math.min(begin, same)));
    return short.every((id) => id && id.length <= 9) ? short : ids.map((_, k) => String(k + 1));
  })();
  const label = () => {
    for (const old of frame.querySelectorAll(".tick")) old.remove();
    for (const [axis, start] of [["x", view.x], ["y", view.y]]) {
      const found = groups(start), step = Math.ceil(found.length / (order === byLanguage ? 14 : 8));
      found.forEach((it, k) => {
        if (k % step) return;
        const from = Math.max(it.from, start), to = Math.min(it.to, start + view.size);
        const at = (((from + to) / 2 - start) / view.size) * 100;
        const text = order === byLanguage ? spec.codes[it.group] : tails[it.group];
        const tick = make("span", { class: "tick " + axis, "aria-hidden": "true", title: order === byLanguage ? spec.names[it.group] : spec.sentences[it.group] }, visible(text));
        tick.style[axis === "x" ? "left" : "top"] = at + "%";
        frame.append(tick);
      });
    }
  };
  const place = (element, cell) => {
    const inside = cell && cell[0] >= view.y && cell[0] < view.y + view.size && cell[1] >= view.x && cell[1] < view.x + view.size;
    element.hidden = !inside;
    if (!inside) return;
    const percent = 100 / view.size;
    element.style.top = (cell[0] - view.y) * percent + "%";
    element.style.left = (cell[1] - view.x) * percent + "%";
    element.style.width = element.style.height = percent + "%";
  };
  const describe = (card, title, i, j) => {
    const part = (k) => [
      make("p", { class: "where" }, spec.names[spec.language[k]] + ", " + visible(spec.sentences[spec.sentence[k]])),
      sentence(spec.texts[k], spec.tags[spec.language[k]]),
    ];
    card.replaceChildren(make("h5", {}, title), make("p", { class: "value" }, value(i, j).toFixed(4)), ...part(i), ...part(j));
    // What must be scrolled to be read can be reached by keyboard.
    for (const it of card.querySelectorAll(".sentence")) if (it.scrollHeight > it.clientHeight + 1) it.tabIndex = 0;
  };
  const show = (cell) => {
    cursor = cell;
    place(mark, cell);
    if (cell) describe(here, "Under the pointer", order[cell[0]], order[cell[1]]);
    else here.replaceChildren(make("h5", {}, "Under the pointer"), make("p", {}, "Point at a cell to see its two sentences."));
  };
  const toggle = (cell) => {
    const [i, j] = [order[cell[0]], order[cell[1]]];
    pinned = pinned && pinned[0] === i && pinned[1] === j ? null : [i, j];
    kept.hidden = !pinned;
    place(pin, pinned && cell);
    if (!pinned) return;
    describe(kept, "Pinned", i, j);
    kept.append(button("Unpin", () => { pinned = null; kept.hidden = true; place(pin, null); canvas.focus(); }));
  };
  const clamp = (low, x, high) => Math.min(high, Math.max(low, x));
  const zoom = (factor, at = cursor ?? [view.y + view.size / 2, view.x + view.size / 2]) => {
    const next = factor === Infinity ? size : clamp(Math.min(8, size), view.size * factor, size);
    const keep = (start, centre) => clamp(0, centre - ((centre - start) / view.size) * next, size - next);
    view = { x: keep(view.x, at[1]), y: keep(view.y, at[0]), size: next };
    draw();
  };
  const cellAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (start, part) => clamp(0, Math.floor(start + clamp(0, part, 0.9999) * view.size), size - 1);
    return [at(view.y, (event.clientY - box.top) / box.height), at(view.x, (event.clientX - box.left) / box.width)];
  };
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => { grip = { x: event.clientX, y: event.clientY, view, moved: false }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    const far = grip && Math.hypot(event.clientX - grip.x, event.clientY - grip.y) > 4;
    if (grip && (grip.moved || far) && view.size < size) {
      grip.moved = true;
      const per = view.size / canvas.clientWidth;
      view = { size: view.size, x: clamp(0, grip.view.x - (event.clientX - grip.x) * per, size - view.size), y: clamp(0, grip.view.y - (event.clientY - grip.y) * per, size - view.size) };
      drawSoon();
    } else show(cellAt(event));
  });
  canvas.addEventListener("pointerup", (event) => { if (grip && !grip.moved) { show(cellAt(event)); toggle(cursor); } grip = null; });
  canvas.addEventListener("pointercancel", () => { grip = null; });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, cellAt(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const [y, x] = cursor ?? [Math.floor(view.y), Math.floor(view.x)];
    if (moves[event.key]) {
      const far = event.shiftKey ? 10 : 1;
      const next = [clamp(0, y + moves[event.key][0] * far, size - 1), clamp(0, x + moves[event.key][1] * far, size - 1)];
      show(cursor ? next : [y, x]);
      const follow = (start, at) => clamp(0, at < start ? at : at >= start + view.size ? at - view.size + 1 : start, size - view.size);
      const moved = { size: view.size, x: follow(view.x, next[1]), y: follow(view.y, next[0]) };
      if (moved.x !== view.x || moved.y !== view.y) { view = moved; draw(); }
    } else if (event.key === "Enter" || event.key === " ") { if (cursor) toggle(cursor); }
    else if (event.key === "+" || event.key === "=") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "Escape") { if (pinned) { pinned = null; kept.hidden = true; place(pin, null); } zoom(Infinity); }
    else return;
    event.preventDefault();
  });
  show(null);
  draw();
  new ResizeObserver(drawSoon).observe(frame);

  const csv = () => {
    const name = (k) => spec.codes[spec.language[k]] + "/" + spec.sentences[spec.sentence[k]];
    const text = levels ? String : float32Text;
    const lines = [["language", "sentence", ...byLanguage.map(name)].map(csvCell).join(",")];
    for (let i = 0; i < size; i++) {
      const row = [csvCell(spec.codes[spec.language[i]]), csvCell(spec.sentences[spec.sentence[i]])];
      for (let j = 0; j < size; j++) row.push(text(value(i, j)));
      lines.push(row.join(","));
    }
    return lines.join("\n") + "\n";
  };
  return { csv };
};
