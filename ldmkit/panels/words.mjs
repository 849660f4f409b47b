// A text field that underlines the words a model never learned, while they are typed.
//
// The browser does it alone: a kernel that is busy answers nobody. A copy of the text lies behind
// the field, letter over letter, and carries the marks. Words enter the document as text nodes.

function make(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

// The same cut as ldmkit.critters.parse makes.
function* pieces(text) {
  for (const [piece] of text.matchAll(/[\s,.;:!?]+|[^\s,.;:!?]+/g)) yield piece;
}

function sentence(unknown) {
  if (!unknown.length) return "";
  const some = unknown.slice(0, 5).map((word) => `“${word.slice(0, 30)}”`);
  const more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : "";
  return `This model never learned ${some.join(", ")}${more}.`;
}

function render({ model, el }) {
  const known = new Set(model.get("vocabulary"));
  const root = make("label", "ldm-words");
  const title = make("span", "ldm-words-title", model.get("title"));
  const stack = make("div", "ldm-words-stack");
  const behind = make("div", "ldm-words-behind");
  behind.setAttribute("aria-hidden", "true");
  const field = make("textarea", "ldm-words-field");
  Object.assign(field, { rows: 2, placeholder: model.get("placeholder"), spellcheck: false });
  field.dir = "auto";
  field.setAttribute("data-lm-suppress-shortcuts", "true"); // Lab takes keys of what has the focus
  const told = make("span", "ldm-words-told");
  told.setAttribute("role", "status");
  stack.append(behind, field);
  root.append(title, stack, told);
  el.append(root);

  function mark() {
    const unknown = [];
    const nodes = [];
    for (const piece of pieces(field.value)) {
      const word = piece.toLowerCase();
      const strange = known.size && !/^[\s,.;:!?]/.test(piece) && !known.has(word);
      if (strange && !unknown.includes(word)) unknown.push(word);
      nodes.push(strange ? make("mark", "ldm-unknown", piece) : document.createTextNode(piece));
    }
    behind.replaceChildren(...nodes, document.createTextNode("\u200b")); // a last empty line counts
    told.textContent = sentence(unknown);
  }
  function tell() {
    if (model.get("value") === field.value) return;
    model.set("value", field.value);
    model.save_changes();
  }
  function follow() {
    if (field.value === model.get("value")) return;
    field.value = model.get("value");
    mark();
  }
  field.addEventListener("input", mark);
  field.addEventListener("change", tell); // leaving the field: before a click on Run arrives
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    tell();
    model.send({ run: true });
  });
  field.addEventListener("scroll", () => (behind.scrollTop = field.scrollTop));
  model.on("change:value", follow);
  field.value = model.get("value");
  mark();
  return () => {
    tell(); // what stands in a view that is taken away is not lost
    model.off("change:value", follow);
  };
}

export default { render };
