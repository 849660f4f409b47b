// The player of a recorded run: lanes side by side, one slider, the two numbers that mix them.
//
// One ES module, hand-written, no network, behind what transport.mjs holds. It serves
//   - a page or a notebook cell, inlined:  mountInlined(id)
//   - an anywidget panel:                  export default { render }
// Both hand `mount` the same two things: `data` (see ldmkit/figures/player.py) and one block of
// WebP bytes. Words of a record are untrusted: they enter the document as text nodes only.

function round(value) {
  if (value === null || value === undefined) return "?";
  return Math.abs(value) >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

// A binary trait arrives as a DataView on a larger buffer: its offset counts.
function bytesOf(frames) {
  return ArrayBuffer.isView(frames)
    ? new Uint8Array(frames.buffer, frames.byteOffset, frames.byteLength)
    : new Uint8Array(frames);
}

// Pictures by position in the block, decoded once, when first asked for.
function library(sizes, bytes) {
  const starts = [0];
  for (const size of sizes) starts.push(starts.at(-1) + size);
  const cache = new Map();
  const drop = (i) => {
    cache.get(i).then((bitmap) => bitmap.close(), () => {});
    cache.delete(i);
  };
  return {
    get(i) {
      if (!cache.has(i)) {
        if (cache.size >= 300) drop(cache.keys().next().value); // 300 of 256 pixels: 80 MB
        const blob = new Blob([bytes.subarray(starts[i], starts[i + 1])], { type: "image/webp" });
        cache.set(i, createImageBitmap(blob));
      }
      return cache.get(i);
    },
    close() {
      for (const i of [...cache.keys()]) drop(i);
    },
  };
}

function laneView(title, caption, { aspect = 1, crisp = false, name = "" } = {}) {
  const figure = make("figure", "ldm-lane");
  figure.dataset.lane = name;
  const view = make("div", "ldm-view");
  const canvas = make("canvas", crisp ? "ldm-canvas ldm-crisp" : "ldm-canvas");
  canvas.style.aspectRatio = String(aspect);
  canvas.setAttribute("role", "img");
  view.append(canvas);
  const words = make("figcaption", "ldm-caption");
  words.append(make("span", "ldm-title", title), make("span", "ldm-teach", caption));
  figure.append(view, words);
  return { figure, view, canvas };
}

function paint(canvas, bitmap) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

// alpha and sigma over the steps, with a cursor that stands above the slider's thumb. Both are
// divided by their length, so that Euler's sigma of 14 draws the same crossing as DDIM's.
function plot(data) {
  const box = make("div", "ldm-plot");
  const svg = draw("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none" });
  svg.setAttribute("aria-hidden", "true");
  const last = Math.max(1, data.total - 1);
  const lengths = data.alphas.map((alpha, i) => Math.hypot(alpha, data.sigmas[i]) || 1);
  for (const [values, kind, sign] of [
    [data.sigmas, "noise", "\u03c3"],
    [data.alphas, "picture", "\u03b1"],
  ]) {
    const heights = values.map((value, i) => 100 - (100 * value) / lengths[i]);
    const points = heights.map((y, i) => `${((100 * i) / last).toFixed(2)},${y.toFixed(2)}`);
    svg.append(draw("polyline", { points: points.join(" "), class: `ldm-line ldm-${kind}` }));
    const label = make("span", `ldm-label ldm-${kind}`, sign);
    label.style.top = `${heights[0]}%`;
    box.append(label);
  }
  const cursor = make("div", "ldm-cursor");
  box.append(svg, cursor);
  return { box, move: (i) => (cursor.style.left = `${(100 * i) / last}%`) };
}

// "Step 5 of 32 · timestep 864 · 0.34 × picture + 0.94 × noise", the two shares in the
// colours of the plot's lines, so that the sentence is the legend too.
function statusLine() {
  const line = make("p", "ldm-status");
  const step = make("span", "ldm-step");
  const mix = make("span", "ldm-mix");
  const picture = make("span", "ldm-picture");
  const noise = make("span", "ldm-noise");
  mix.append(picture, " + ", noise);
  line.append(step, mix);
  return {
    line,
    say(data, i) {
      const t = data.timesteps[i];
      const time = t === null ? "" : ` · timestep ${+t.toFixed(1)}`;
      step.textContent = `${data.align ? "Position" : "Step"} ${i + 1} of ${data.total}${time}`;
      picture.textContent = `${round(data.alphas[i])} × picture`;
      noise.textContent = `${round(data.sigmas[i])} × noise`;
      return `${step.textContent}, ${mix.textContent}`;
    },
  };
}

// noisy = alpha × clean + sigma × noise: the lanes stand in the order of the sum.
function operators(lanes) {
  const byName = Object.fromEntries(lanes.map((lane) => [lane.name, lane]));
  if (!(byName.latents && byName.denoised && byName.noise_pred)) return () => {};
  const set = [["denoised", "=", "picture"], ["noise_pred", "+", "noise"]].map(
    ([name, sign, kind]) => {
      const factor = make("span", `ldm-factor ldm-${kind}`);
      const op = make("div", "ldm-op");
      op.setAttribute("aria-hidden", "true"); // the status says it in words
      op.append(make("span", "ldm-sign", sign), factor);
      byName[name].view.append(op);
      return (value) => (factor.textContent = `${round(value)} ×`);
    },
  );
  return (alpha, sigma) => (set[0](alpha), set[1](sigma));
}

function heading(data) {
  const head = make("header", "ldm-head");
  const prompt = make("p", "ldm-prompt", data.prompt || "no prompt");
  prompt.dir = "auto";
  head.append(prompt, make("p", "ldm-details", data.details.join(" \u00b7 ")));
  return head;
}

function finalView(run, start, caption) {
  const view = laneView("Final picture", caption, { name: "final" });
  view.figure.classList.add("ldm-final");
  return { ...view, start, alt: run.final.alt, final: true };
}

// The views of one run; frame `start + position` of the block belongs at a position.
function viewsOf(run, first, caption) {
  const count = run.index.length;
  const lanes = run.lanes.map((lane, k) => {
    return { ...lane, ...laneView(lane.title, lane.caption, lane), start: first + k * count };
  });
  const final = finalView(run, first + lanes.length * count, caption);
  return run.final.size ? [...lanes, final] : lanes;
}

// One run: its lanes in the order of the sum, then what became of it.
function single(run) {
  const row = make("div", "ldm-lanes");
  const views = viewsOf(run, 0, run.total ? `after step ${run.total}` : "");
  row.append(...views.map((view) => view.figure));
  const operate = operators(views);
  return { node: row, columns: [{ run, views, say: (i) => operate(run.alphas[i], run.sigmas[i]) }] };
}

// Several runs: a column each, a lane in each row; the words of a row stand once, at its left.
// Two runs lie across: a row each, so that slider and pictures fit a screen.
function table(data) {
  const grid = make("div", data.runs.length > 2 ? "ldm-table" : "ldm-table ldm-across");
  grid.style.setProperty("--ldm-runs", data.runs.length);
  let first = 0;
  const columns = data.runs.map((run) => {
    const views = viewsOf(run, first, "");
    first += run.lanes.length * run.index.length + 1;
    const head = make("div", "ldm-column");
    const { line, say } = statusLine();
    head.append(make("p", "ldm-title", run.title));
    if (data.align) head.append(line);
    return { run, views, head, say: (i) => say(run, i) };
  });
  grid.append(make("span", "ldm-corner"), ...columns.map((column) => column.head));
  const rows = [...data.lanes, { title: "Final picture", caption: "after the last step" }];
  rows.forEach(({ title, caption }, k) => {
    const label = make("p", "ldm-row");
    label.append(make("span", "ldm-title", title), make("span", "ldm-teach", caption));
    const cells = columns.map(({ views }) => views[k]?.figure ?? make("span"));
    if (columns.some(({ views }) => views[k])) grid.append(label, ...cells);
  });
  return { node: grid, columns };
}

// The words of the prompt above the clean estimate: one that is pointed at lights up where it is
// looked at at this step, a second one that was pressed stays beside it in another colour. The maps
// are bytes behind the pictures: layer, word, step, place.
function attention(maps, bytes, start, steps, lane) {
  const canvas = make("canvas", "ldm-heat");
  canvas.setAttribute("aria-hidden", "true");
  lane.view.append(canvas);
  const bar = make("div", "ldm-words");
  const pick = make("select", "ldm-layers");
  pick.setAttribute("aria-label", "Layer");
  pick.setAttribute("data-lm-suppress-shortcuts", "true");
  let at = start;
  const layers = maps.layers.map((layer) => {
    const first = at;
    at += maps.words.length * steps * layer.height * layer.width;
    pick.append(new Option(layer.name));
    return { ...layer, first };
  });
  const pinned = [];
  let hovered = null;
  let position = 0;
  const chips = maps.words.map((word, k) => {
    const chip = make("button", "ldm-word", word);
    Object.assign(chip, { type: "button", dir: "auto" });
    chip.setAttribute("data-lm-suppress-shortcuts", "true");
    chip.addEventListener("click", () => {
      if (pinned.includes(k)) pinned.splice(pinned.indexOf(k), 1);
      else if (pinned.push(k) > 2) pinned.shift();
      draw();
    });
    for (const [event, value] of [["pointerenter", k], ["focus", k], ["pointerleave", null], ["blur", null]])
      chip.addEventListener(event, () => ((hovered = value), draw()));
    return chip;
  });
  function draw() {
    const shown = pinned.slice();
    if (hovered !== null && !shown.includes(hovered)) shown.splice(shown.length > 1 ? 1 : shown.length, 1, hovered);
    chips.forEach((chip, k) => {
      chip.setAttribute("aria-pressed", String(pinned.includes(k)));
      chip.dataset.shown = shown.indexOf(k) + 1;
    });
    lane.figure.classList.toggle("ldm-lit", shown.length > 0);
    if (!shown.length) return;
    const { first, height, width } = layers[Math.max(0, pick.selectedIndex)];
    const size = height * width;
    canvas.width = width;
    canvas.height = height;
    const image = new ImageData(width, height);
    const parts = shown.map((k) => bytes.subarray(first + (k * steps + position) * size));
    for (let i = 0; i < size; i++) {
      const [a, b] = [parts[0][i], parts[1]?.[i] ?? 0];
      const share = a + b ? b / (a + b) : 0; // amber for the first word, blue for the second
      image.data[4 * i] = 255 - 205 * share;
      image.data[4 * i + 1] = 176 - 26 * share;
      image.data[4 * i + 2] = 255 * share;
      image.data[4 * i + 3] = 0.85 * Math.max(a, b);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  pick.addEventListener("change", draw);
  const teach = maps.concepts
    ? "What is each place most like? Point at a concept; press two to compare."
    : "Where is it looked at? Point at a word; press two to compare.";
  bar.append(make("span", "ldm-teach", teach), ...chips);
  if (layers.length > 1) bar.append(pick);
  return { bar, move: (to) => ((position = to), draw()) };
}

/**
 * Builds a player in `el`. Steps count from 0, as the record's do.
 * `onReady(true | false)` is called after the first frame, `onStep(step)` when the reader's slider
 * rests; `go(step)` of the answer moves the view without a call, `settle()` makes a call that is
 * still due, `close()` takes the player away.
 */
export function mount(el, data, frames, { step = 0, onReady = () => {}, onStep = () => {} } = {}) {
  const runs = data.runs ?? [data];
  const sizes = runs.flatMap((run) => [...run.lanes.flatMap((lane) => lane.sizes), run.final.size]);
  const pictures = library(sizes, bytesOf(frames));
  const count = data.index.length;
  const root = make("section", "ldm-player");
  root.setAttribute("aria-label", `Recorded run: ${data.prompt || "no prompt"}`);

  const curves = plot(data);
  const status = statusLine();
  const { node, columns } = data.runs ? table(data) : single(data);
  const lanes = data.runs ? [] : columns[0].views.filter((view) => view.picture);
  const lit = lanes.find((view) => view.name === "denoised") ?? lanes[0];
  const end = sizes.reduce((sum, size) => sum + size, 0);
  const looked = data.attention && lit && attention(data.attention, bytesOf(frames), end, count, lit);
  const moving = columns.flatMap(({ run, views }) => {
    return views.filter((view) => !view.final).map((view) => ({ ...view, run }));
  });
  const frame = ({ run, start }, position) => pictures.get(start + (run.at?.[position] ?? position));
  let alive = true;
  let asked = -1;
  async function show(position) {
    asked = position;
    const i = data.index[position];
    const stepOf = (run) => run.index[run.at?.[position] ?? position];
    curves.move(i);
    slider.setAttribute("aria-valuetext", status.say(data, i));
    for (const { run, say } of columns) say(stepOf(run));
    looked?.move(position);
    const bitmaps = await Promise.all(moving.map((view) => frame(view, position)));
    if (!alive || asked !== position) return; // the slider has moved on meanwhile
    moving.forEach(({ canvas, alt, run }, k) => {
      paint(canvas, bitmaps[k]);
      canvas.setAttribute("aria-label", `${alt} (step ${stepOf(run) + 1} of ${run.total})`);
    });
    root.dataset.step = i + 1;
    // Decode one step ahead, or a quick run would skip what is not ready.
    if (position + 1 < count) for (const view of moving) frame(view, position + 1);
  }
  async function showFinal({ canvas, start, alt }) {
    canvas.setAttribute("aria-label", alt);
    const bitmap = await pictures.get(start);
    canvas.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
    paint(canvas, bitmap);
  }
  const { bar, slider, stop, settle } = transport({
    label: "Step",
    last: count - 1,
    above: [curves.box],
    show,
    rest: (position) => onStep(data.index[position]),
    pace: (calm) => (calm ? 800 : Math.min(300, Math.max(40, 5000 / count))), // a run in 5 s
  });
  // Large records show some of their steps only: the last one shown that isn't beyond.
  function go(wanted) {
    const position = Math.max(0, data.index.findLastIndex((i) => i <= wanted));
    if (position === asked) return undefined;
    stop();
    slider.value = position;
    return show(position);
  }

  root.append(heading(data), node);
  if (looked) root.append(looked.bar);
  if (moving.length) {
    if (data.align) status.line.append(make("span", "ldm-align", data.align));
    root.append(status.line, bar);
  }
  if (data.note) root.append(make("p", "ldm-note", data.note));
  el.append(root);
  const finals = columns.flatMap(({ views }) => views.filter((view) => view.final).map(showFinal));
  const first = moving.length ? [go(step)] : finals;
  Promise.all(first).then(() => onReady(true), () => onReady(false));
  Promise.allSettled(finals); // onReady tells of pictures that cannot be decoded

  function close() {
    alive = false;
    stop();
    pictures.close();
    root.remove();
  }
  return { go, settle, close };
}

/** Wakes every copy of one inlined record. */
export function mountInlined(id) {
  wake(id, (root) => {
    const data = JSON.parse(root.querySelector(".ldm-data").textContent);
    const frames = Uint8Array.from(atob(data.frames), (c) => c.charCodeAt(0));
    const sheet = root.querySelector(".ldm-sheet");
    const onReady = (ready) => {
      if (ready) sheet.style.display = "none";
      else player.close(); // no WebP here: the contact sheet stays
    };
    const player = mount(root, data, frames, { onReady });
  });
}

function render({ model, el }) {
  let player = null;
  const onReady = (ready) => {
    if (ready) tell(model, "awake", true);
    else player.close(); // the panel's stock widgets stay
  };
  const onStep = (step) => tell(model, "step", step);
  const redraw = () => {
    player?.settle(); // where the reader stands now is where the new one begins
    player?.close();
    const [data, step] = [model.get("data"), model.get("step")];
    player = data?.lanes ? mount(el, data, model.get("frames"), { step, onReady, onStep }) : null;
  };
  const later = gathered(redraw);
  const follow = () => player?.go(model.get("step"));
  model.on("change:data change:frames", later);
  model.on("change:step", follow);
  redraw();
  return () => {
    model.off("change:data change:frames", later);
    model.off("change:step", follow);
    player?.close();
  };
}

export default { render };
