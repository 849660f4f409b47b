// A text field that underlines the words a model never learned, while they are typed.
//
// The browser does it alone: a kernel that is busy answers nobody. A copy of the text lies behind
// the field, letter over letter, and carries the marks. Words enter the document as text nodes.

// The same cut as ldmkit.critters.parse makes.
function* pieces(text) {
  for (const [piece] of text.matchAll(/[\s,.;:!?]+|[^\s,.;:!?]+/g)) yield piece;
}

// The nearest known word, at most two letters away; a swap of neighbours counts as one.
function nearest(word, known) {
  let [best, least] = ["", Math.min(3, Math.ceil(word.length / 2))];
  for (const other of known) {
    if (Math.abs(other.length - word.length) >= least) continue;
    const distance = apart(word, other);
    if (distance < least) [best, least] = [other, distance];
  }
  return best;
}

function apart(a, b) {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = rows[i - 1][j - 1] + (a[i - 1] !== b[j - 1]);
      row[j] = Math.min(rows[i - 1][j] + 1, row[j - 1] + 1, change);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) row[j] = Math.min(row[j], rows[i - 2][j - 2] + 1);
    }
    rows.push(row);
  }
  return rows[a.length][b.length];
}

// At most 30 letters, each whole; nothing that turns the sentence round it.
function plain(word) {
  const steers = /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ud800-\udfff]/gu;
  return Array.from(word).slice(0, 30).join("").replace(steers, "\ufffd");
}

function sentence(unknown, known) {
  if (!unknown.length) return "";
  const some = unknown.slice(0, 5).map((word) => {
    const near = nearest(word, known);
    return `“${plain(word)}”${near ? ` (nearest: ${near})` : ""}`;
  });
  const more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : "";
  return `This model never learned ${some.join(", ")}${more}.`;
}

function render({ model, el }) {
  const known = new Set(model.get("vocabulary"));
  const root = make("div", "ldm-words");
  const title = make("span", "ldm-words-title", model.get("title"));
  const stack = make("div", "ldm-words-stack");
  const behind = make("div", "ldm-words-behind");
  behind.setAttribute("aria-hidden", "true");
  const field = make("textarea", "ldm-words-field");
  Object.assign(field, { rows: 2, placeholder: model.get("placeholder"), spellcheck: false });
  field.dir = "auto";
  field.setAttribute("aria-label", model.get("title"));
  field.setAttribute("data-lm-suppress-shortcuts", "true"); // Lab takes keys of what has the focus
  const told = make("span", "ldm-words-told");
  told.setAttribute("role", "status");
  stack.append(behind, field);
  root.append(title, stack, told);
  el.append(root);

  function mark() {
    const unknown = new Set();
    const nodes = [];
    for (const piece of pieces(field.value)) {
      const word = piece.toLowerCase();
      const strange = known.size > 0 && !/^[\s,.;:!?]/.test(piece) && !known.has(word);
      if (strange) unknown.add(word);
      nodes.push(strange ? make("mark", "ldm-unknown", piece) : document.createTextNode(piece));
    }
    behind.replaceChildren(...nodes, document.createTextNode("\u200b")); // a last empty line counts
    told.textContent = sentence([...unknown], known);
  }
  const handOver = () => tell(model, "value", field.value);
  function follow() {
    if (field.value === model.get("value")) return;
    field.value = model.get("value");
    mark();
  }
  field.addEventListener("input", () => {
    mark();
    if (model.get("live")) handOver();
  });
  field.addEventListener("change", handOver); // leaving the field: before a click on Run arrives
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    handOver();
    model.send({ run: true });
  });
  field.addEventListener("scroll", () => (behind.scrollTop = field.scrollTop));
  model.on("change:value", follow);
  field.value = model.get("value");
  mark();
  tell(model, "awake", true);
  return () => {
    handOver(); // what stands in a view that is taken away is not lost
    model.off("change:value", follow);
  };
}

export default { render };
