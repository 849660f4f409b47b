// A walk's pictures under one slider; the browser moves it alone.
//
// Each picture is a trait of its own, which comes once when it is made, so dragging asks nobody;
// the kernel hears of a place when the slider rests. Behind what figures/transport.mjs holds.

const MOST = 64; // pictures, as in walk_view.py
const SIZE = { width: 300, height: 200, margin: 14 };

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
  const strip = make("div", "ldm-strip");
  let [frames, cells, data, plane] = [[], [], {}, null];
  const { bar, slider, choose, settle, stop, busy } = transport({
    label: "Place",
    above: [strip],
    show,
    rest: (i) => tell(model, "place", i),
    pace: (calm) => (calm ? 1000 : 220),
    swings: true, // there and back, so that it repeats smoothly
    reach: () => Math.max(0, frames.length - 1),
  });
  root.append(head, top, bar);
  el.append(root);

  const urls = addresses();

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
  function rebuild() {
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
      if (i < list.length) cell.addEventListener("click", () => (choose(i), settle()));
      return cell;
    });
    strip.replaceChildren(...cells);
    plane = data.plane?.path ? planeView(data.plane) : null;
    planeBox.replaceChildren(...(plane ? [plane.figure] : []));
    const now = Number(slider.value);
    // As long as the strip above it: the thumb stands under its picture also while others come.
    slider.max = Math.max(0, list.length - 1, (data.total ?? 0) - 1);
    // While pictures come, the last one is shown; where the reader has moved, it stays.
    const made = list.length && list.length < data.total;
    go(made && !busy() ? list.length - 1 : Math.min(now, list.length - 1));
    if (!made && list.length) go(Math.min(model.get("place"), list.length - 1));
    root.dataset.count = list.length;
  }
  const later = gathered(rebuild);
  const follow = () => go(model.get("place"));
  const frameNames = Array.from({ length: MOST }, (_, i) => `change:frame_${i}`);
  const watched = ["change:data", "change:count", ...frameNames].join(" ");
  model.on(watched, later);
  model.on("change:place", follow);
  rebuild();
  tell(model, "awake", true);
  return () => {
    model.off(watched, later);
    model.off("change:place", follow);
    stop();
    urls.close();
  };
}

export default { render };
