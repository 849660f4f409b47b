// The slider of a walk: one large picture, moved by the slider or by a click on the sheet.
//
// Hand-written, no imports, no network; the pictures are those of the contact sheet, so nothing
// stands twice in the page. Words come from the sheet's own attributes and enter as text nodes.

function make(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function mountWalk(root) {
  const frames = [...root.querySelectorAll(".ldm-sheet img")];
  const image = make("img", "ldm-walk-image");
  const words = make("p", "ldm-walk-words");
  const place = make("p", "ldm-details");
  const slider = make("input", "ldm-slider");
  Object.assign(slider, { type: "range", min: 0, max: frames.length - 1, step: 1, value: 0 });
  slider.setAttribute("aria-label", "Place");
  slider.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab would take the arrows

  function show(i) {
    slider.value = i;
    image.src = frames[i].src;
    image.alt = frames[i].alt;
    const at = `${root.dataset.axis} = ${frames[i].dataset.t ?? i}`;
    const says = frames[i].title === at ? "" : frames[i].title; // else the place would stand twice
    words.textContent = says || at;
    place.textContent = says && at;
    slider.setAttribute("aria-valuetext", says ? `${at}, ${says}` : at);
    frames.forEach((frame, k) => (frame.style.outline = k === i ? "3px solid var(--ldm-focus)" : ""));
    root.dataset.place = i;
  }
  slider.addEventListener("input", () => show(Number(slider.value)));
  frames.forEach((frame, i) => {
    frame.style.cursor = "pointer";
    frame.addEventListener("click", () => show(i));
  });

  const side = make("div", "ldm-walk-side");
  side.append(words, place, slider);
  const view = make("div", "ldm-walk");
  view.append(image, side);
  root.querySelector(".ldm-sheet-frames").before(view);
  show(0);
}

// Every copy of one inlined record: ids repeat when an output is shown twice.
function mountWalks(id) {
  for (const root of document.querySelectorAll(`[id="${id}"]:not([data-awake])`)) {
    root.dataset.awake = "";
    mountWalk(root);
  }
}
