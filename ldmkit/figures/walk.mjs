// The slider of a walk: one large picture, moved by the slider or by a click on the sheet.
//
// The pictures are those of the contact sheet, so nothing stands twice in the page. Words come
// from the sheet's own attributes and enter as text nodes. Behind what transport.mjs holds.

function mountWalk(root) {
  const frames = [...root.querySelectorAll(".ldm-sheet img")];
  const image = make("img", "ldm-walk-image");
  const words = make("p", "ldm-walk-words");
  const place = make("p", "ldm-details");

  function show(i) {
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
  const pace = (calm) => (calm ? 1000 : 220);
  const { bar, slider, choose } = transport({ label: "Place", last: frames.length - 1, show, pace, swings: true });
  frames.forEach((frame, i) => {
    frame.style.cursor = "pointer";
    frame.addEventListener("click", () => choose(i));
  });

  const side = make("div", "ldm-walk-side");
  side.append(words, place, bar);
  const view = make("div", "ldm-walk");
  view.append(image, side);
  root.querySelector(".ldm-sheet-frames").before(view);
  show(0);
}
