// What the views here share: nodes, the play button with its slider, and how a view is woken.
//
// Inlined before player.mjs or a walk.mjs, since a module inside a page cannot import (see
// html.script). Hand-written, no network. Words of a record are untrusted: they enter the
// document as text nodes only.

const ICONS = { play: "M3 1.5v13l11-6.5z", pause: "M3 2h3.6v12H3zM9.4 2H13v12H9.4z" };

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

/**
 * Play button and slider, with `above` standing over the slider. `show(position)` is called for
 * every position, `rest(position)` once the reader's hand or the playing has come to rest: a
 * kernel hears of that alone, so that scrubbing sends nothing. `pace(calm)` is the time between
 * two positions in ms, calm where the reader asked for less motion. Playing ends at the last
 * position, or with `swings` goes there and back until it is paused. `reach()` is the last position
 * that there is yet, where the slider is as long as what will be.
 */
function transport({ label, last = 0, above = [], show, rest = () => {}, pace, swings = false, reach }) {
  const button = make("button", "ldm-play");
  button.type = "button";
  const icon = draw("path", {});
  const svg = draw("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
  svg.append(icon);
  button.append(svg);
  const slider = make("input", "ldm-slider");
  Object.assign(slider, { type: "range", min: 0, max: last, step: 1, value: 0 });
  slider.setAttribute("aria-label", label);
  // JupyterLab's notebook takes the arrow keys of whatever has the focus (selector `:focus`), so
  // the attribute must stand on the focused element: on an ancestor it comes too late.
  for (const node of [button, slider]) node.setAttribute("data-lm-suppress-shortcuts", "true");
  const track = make("div", "ldm-track");
  track.append(...above, slider);
  const bar = make("div", "ldm-transport");
  bar.append(button, track);
  let [timer, resting, moved, forward] = [0, 0, false, true];
  const at = () => Number(slider.value);
  const end = reach ?? (() => Number(slider.max));

  function symbol(playing) {
    icon.setAttribute("d", playing ? ICONS.pause : ICONS.play);
    button.setAttribute("aria-label", playing ? "Pause" : "Play");
    button.title = playing ? "Pause (space)" : "Play (space)";
  }
  function settle() {
    clearTimeout(resting);
    if (moved) rest(at());
    resting = 0;
    moved = false;
  }
  function stop() {
    clearTimeout(timer);
    clearTimeout(resting);
    [timer, resting, moved] = [0, 0, false];
    symbol(false);
  }
  function pause() {
    settle();
    stop();
  }
  function go(position) {
    slider.value = Math.min(position, end());
    show(at());
    moved = true;
  }
  // The reader chose a place, on the slider or on a picture: playing ends there.
  function choose(position) {
    stop();
    go(position);
    resting = setTimeout(settle, 150);
  }
  function wait() {
    timer = setTimeout(tick, pace(matchMedia("(prefers-reduced-motion: reduce)").matches));
  }
  function tick() {
    if (!button.isConnected) return stop(); // the output was cleared
    if (end() < 1 || (at() >= end() && !swings)) return pause();
    if (at() >= end()) forward = false;
    if (at() <= 0 || !swings) forward = true;
    go(at() + (forward ? 1 : -1));
    return wait();
  }
  function toggle() {
    if (timer) return pause();
    if (at() >= end() && !swings) go(0);
    symbol(true);
    clearTimeout(resting);
    return wait();
  }

  symbol(false);
  button.addEventListener("click", toggle);
  slider.addEventListener("input", () => choose(at()));
  slider.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    toggle();
  });
  return { bar, slider, choose, settle, stop, busy: () => Boolean(timer || resting) };
}

// Every copy of one inlined record (ids repeat when an output is shown twice), each once.
function wake(id, mountIn) {
  for (const root of document.querySelectorAll(`[id="${id}"]:not([data-awake])`)) {
    root.dataset.awake = "";
    mountIn(root);
  }
}

// Tells the kernel of one trait.
function tell(model, name, value) {
  if (model.get(name) === value) return;
  model.set(name, value);
  model.save_changes();
}

// A call of `redraw` for however many traits have changed in one message.
function gathered(redraw) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    queueMicrotask(() => ((due = false), redraw()));
  };
}
