// A walk's pictures under one slider; the browser moves it alone.
//
// Hand-written, no imports, no network. Each picture is a trait of its own, which comes once when
// it is made, so dragging asks nobody; the kernel hears of a place when the slider rests. Words are
// untrusted: they enter the document as text nodes only.

const ICONS = { play: "M3 1.5v13l11-6.5z", pause: "M3 2h3.6v12H3zM9.4 2H13v12H9.4z" };
const MOST = 64; // pictures, as in walk_view.py
const SIZE = { width: 300, height: 200, margin: 14 };

function make(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function draw(name, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
}

// One address per picture, which it keeps while others are added.
function addresses() {
  let known = [];
  return {
    of(frames) {
      const next = frames.map((bytes, i) =>
        known[i]?.bytes === bytes
          ? known[i]
          : { bytes, url: URL.createObjectURL(new Blob([bytes], { type: "image/webp" })) },
      );
      for (const old of known) if (!next.includes(old)) URL.revokeObjectURL(old.url);
      known = next;
      return known.map(({ url }) => url);
    },
    close() {
      for (const { url } of known) URL.revokeObjectURL(url);
      known = [];
    },
  };
}

// Dots of texts and pictures, the path between its ends, and a ring at the present place.
function planeView(plane) {
  const figure = make("figure", "ldm-plane");
  const { width, height, margin } = SIZE;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const all = [plane.texts, plane.pictures, plane.path, plane.own].flat();
  const [xs, ys] = [0, 1].map((k) => all.map((point) => point[k]));
  const low = [Math.min(...xs), Math.min(...ys)];
  const high = [Math.max(...xs), Math.max(...ys)];
  const room = [width - 2 * margin, height - 2 * margin];
  const scale = Math.min(...room.map((side, k) => side / Math.max(1e-6, high[k] - low[k])));
  const middle = low.map((value, k) => (value + high[k]) / 2);
  const at = ([x, y]) => [
    width / 2 + (x - middle[0]) * scale,
    height / 2 - (y - middle[1]) * scale,
  ];
  const dot = (kind, r) => (point) => {
    const [cx, cy] = at(point).map((value) => value.toFixed(1));
    return draw("circle", { class: `ldm-dot ldm-${kind}`, cx, cy, r });
  };
  svg.append(...plane.texts.map(dot("text", 2)), ...plane.pictures.map(dot("image", 2)));
  const path = plane.path.map((point) => at(point).map((value) => value.toFixed(1)).join(","));
  for (const point of plane.own) {
    const node = dot("own", 4)(point);
    node.append(draw("title", {}, point[2]));
    svg.append(node);
  }
  svg.append(draw("polyline", { class: "ldm-path", points: path.join(" ") }));
  svg.append(...plane.path.map(dot("place", 2.5)));
  const ring = draw("circle", { class: "ldm-here", r: 6 });
  svg.append(ring);
  svg.setAttribute("aria-label", `Plane: ${plane.words.join("; upwards ")}`);
  const legend = make("figcaption", "ldm-legend");
  const kinds = [["text", "texts"], ["image", "pictures"], ["place", "this way"]];
  if (plane.own.length) kinds.push(["own", "the words given"]);
  for (const [kind, words] of kinds) legend.append(make("span", `ldm-key ldm-${kind}`, words));
  figure.append(svg, legend);
  const axes = make("p", "ldm-teach", `→ ${plane.words[0]}, ↑ ${plane.words[1]}`);
  figure.append(axes);
  return {
    figure,
    go(i) {
      const [cx, cy] = at(plane.path[Math.min(i, plane.path.length - 1)]);
      ring.setAttribute("cx", cx);
      ring.setAttribute("cy", cy);
    },
  };
}

// The captions nearest to a place, each with its cosine as a bar.
function nearestView() {
  const box = make("div", "ldm-nearest");
  const rows = make("div", "ldm-nearest-rows");
  box.append(make("span", "ldm-nearest-title", "Nearest captions (cosine)"), rows);
  return {
    box,
    go(nearest) {
      box.style.display = nearest.length ? "" : "none";
      rows.replaceChildren(
        ...nearest.map(([words, cosine]) => {
          const row = make("div", "ldm-nearest-row");
          row.style.setProperty("--ldm-share", `${Math.max(0, Math.min(1, cosine)) * 100}%`);
          row.append(make("span", "", words), make("span", "ldm-number", cosine.toFixed(2)));
          return row;
        }),
      );
    },
  };
}

function render({ model, el }) {
  const root = make("section", "ldm-player ldm-walking");
  const head = make("header", "ldm-head");
  const title = make("p", "ldm-prompt");
  title.dir = "auto";
  const details = make("p", "ldm-details");
  head.append(title, details);
  const stage = make("div", "ldm-walk-stage");
  const side = make("div", "ldm-walk-side");
  const place = make("p", "ldm-place");
  const label = make("p", "ldm-walk-label");
  label.dir = "auto";
  const seen = make("p", "ldm-seen");
  const nearest = nearestView();
  const planeBox = make("div", "ldm-plane-box");
  side.append(place, label, seen, nearest.box);
  const top = make("div", "ldm-walk-top");
  top.append(stage, side, planeBox);
  const button = make("button", "ldm-play");
  button.type = "button";
  const icon = draw("path", {});
  const svg = draw("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
  svg.append(icon);
  button.append(svg);
  const slider = make("input", "ldm-slider");
  Object.assign(slider, { type: "range", min: 0, max: 0, step: 1, value: 0 });
  slider.setAttribute("aria-label", "Place");
  for (const node of [button, slider]) node.setAttribute("data-lm-suppress-shortcuts", "true");
  const strip = make("div", "ldm-strip");
  const track = make("div", "ldm-track");
  track.append(strip, slider);
  const bar = make("div", "ldm-transport");
  bar.append(button, track);
  root.append(head, top, bar);
  el.append(root);

  const urls = addresses();
  let [frames, cells, data, plane] = [[], [], {}, null];
  let [timer, resting, forward] = [0, 0, true];

  function show(i) {
    const words = data.places?.[i] ?? { place: "", label: "", seen: "", nearest: [] };
    frames.forEach((frame, k) => frame.classList.toggle("ldm-shown", k === i));
    cells.forEach((cell, k) => cell.classList.toggle("ldm-shown", k === i));
    place.textContent = words.place;
    label.textContent = words.label;
    seen.textContent = words.seen;
    nearest.go(words.nearest);
    plane?.go(i);
    slider.setAttribute("aria-valuetext", `${[words.place, words.label].filter(Boolean).join(", ")}. ${words.seen}`);
    root.dataset.place = i;
  }
  function go(i) {
    slider.value = i;
    show(Number(slider.value));
  }
  function rest() {
    clearTimeout(resting);
    resting = 0;
    if (model.get("place") === Number(slider.value)) return;
    model.set("place", Number(slider.value));
    model.save_changes();
  }
  function symbol(playing) {
    icon.setAttribute("d", playing ? ICONS.pause : ICONS.play);
    button.setAttribute("aria-label", playing ? "Pause" : "Play");
    button.title = playing ? "Pause (space)" : "Play (space)";
  }
  function stop() {
    clearTimeout(timer);
    timer = 0;
    symbol(false);
  }
  function tick() {
    if (!button.isConnected || frames.length < 2) return stop();
    const now = Number(slider.value);
    if (now >= frames.length - 1) forward = false;
    if (now <= 0) forward = true;
    go(now + (forward ? 1 : -1)); // there and back, so that it repeats smoothly
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    timer = setTimeout(tick, calm ? 1000 : 220);
    return undefined;
  }
  function toggle() {
    if (timer) {
      stop();
      return rest();
    }
    symbol(true);
    return tick();
  }
  button.addEventListener("click", toggle);
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
    clearTimeout(resting);
    resting = setTimeout(rest, 150);
  });
  slider.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    toggle();
  });

  function rebuild() {
    due = false;
    data = model.get("data") ?? {};
    const count = model.get("count") ?? 0;
    const list = urls.of(Array.from({ length: count }, (_, i) => model.get(`frame_${i}`)));
    root.style.display = list.length ? "" : "none";
    title.textContent = data.title ?? "";
    details.textContent = data.details ?? "";
    frames = list.map((url, i) => {
      const image = make("img", "ldm-frame");
      Object.assign(image, { src: url, alt: data.places?.[i]?.label ?? "", draggable: false });
      return image;
    });
    stage.replaceChildren(...frames);
    cells = Array.from({ length: data.total ?? 0 }, (_, i) => {
      const cell = make("div", "ldm-cell");
      if (i < list.length) cell.append(Object.assign(make("img"), { src: list[i], alt: "" }));
      if (i < list.length) cell.addEventListener("click", () => (stop(), go(i), rest()));
      return cell;
    });
    strip.replaceChildren(...cells);
    plane = data.plane?.path ? planeView(data.plane) : null;
    planeBox.replaceChildren(...(plane ? [plane.figure] : []));
    const now = Number(slider.value);
    slider.max = Math.max(0, list.length - 1);
    // While pictures come, the last one is shown; where the reader has moved, it stays.
    const made = list.length && list.length < data.total;
    go(made && !timer && !resting ? list.length - 1 : Math.min(now, list.length - 1));
    if (!made && list.length) go(Math.min(model.get("place"), list.length - 1));
    root.dataset.count = list.length;
  }
  let due = false;
  const later = () => due || ((due = true), queueMicrotask(rebuild));
  const follow = () => go(model.get("place"));
  const frameNames = Array.from({ length: MOST }, (_, i) => `change:frame_${i}`);
  const watched = ["change:data", "change:count", ...frameNames].join(" ");
  symbol(false);
  model.on(watched, later);
  model.on("change:place", follow);
  rebuild();
  model.set("awake", true);
  model.save_changes();
  return () => {
    model.off(watched, later);
    model.off("change:place", follow);
    stop();
    urls.close();
  };
}

export default { render };
