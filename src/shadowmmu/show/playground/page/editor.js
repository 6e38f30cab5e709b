/* The text area: line numbers, the wrong line, completion by keys. */

const editor = document.getElementById("editor");
const LINE = 19;
const EDGE = { left: 8, top: 6 };
const completing = { start: 0, options: [], chosen: 0 };
let wrongLine;

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawLines() {
  const numbers = (first, last) => Array.from({ length: Math.max(0, last - first + 1) }, (_, n) => `${first + n}\n`).join("");
  const last = editor.value.split("\n").length;
  const shown = wrongLine === undefined ? [numbers(1, last)]
    : [numbers(1, wrongLine - 1), element("span", { class: "wrong" }, `\u25b8${wrongLine}\n`), numbers(wrongLine + 1, last)];
  document.getElementById("gutter").replaceChildren(...shown);
  const mark = document.getElementById("wrong-line");
  mark.hidden = wrongLine === undefined;
  if (wrongLine !== undefined) mark.style.top = `${EDGE.top + (wrongLine - 1) * LINE - editor.scrollTop}px`;
  document.getElementById("gutter").scrollTop = editor.scrollTop;
}

/* Show what is wrong beside the text and at its line; undefined: nothing is. */
function showProblem(problem) {
  wrongLine = problem?.line ?? undefined;
  const shown = document.getElementById("problem");
  shown.className = problem ? "wrong" : "";
  const text = problem ? (problem.line ? `Line ${problem.line}: ${problem.text}` : problem.text) : "";
  if (shown.textContent !== text) shown.textContent = text;
  editor.setAttribute("aria-invalid", String(Boolean(problem)));
  drawLines();
}

function setText(text) {
  editor.value = text;
  editor.setSelectionRange(0, 0);
  editor.scrollTop = 0;
  textChanged();
}

function textChanged() {
  showProblem(undefined);
  showWord();
  document.dispatchEvent(new Event("scenario"));
}

/* How the word of the cursor's line is written, and what it means. */
function showWord() {
  const text = editor.value;
  const start = text.lastIndexOf("\n", editor.selectionStart - 1) + 1;
  const names = text.slice(start).split("\n")[0].trim().split(/\s+/);
  const name = /^@\d+$/.test(names[0]) ? names[1] : names[0];
  const word = name ? wordNamed(name) : undefined;
  document.getElementById("word").textContent = word ? `${word.usage}: ${word.means}` : "";
}

/* -- completion -------------------------------------------------------------------------------------------- */

function openCompletions(asked) {
  const { start, options } = editor.selectionStart === editor.selectionEnd
    ? completionsAt(editor.value, editor.selectionStart) : { start: 0, options: [] };
  const writing = editor.value.slice(start, editor.selectionStart);
  if (!options.length || (!asked && !writing)) { closeCompletions(); return; }
  Object.assign(completing, { start, options, chosen: 0 });
  drawCompletions();
}

function drawCompletions() {
  const list = document.getElementById("completions");
  list.replaceChildren(...completing.options.map(({ text, means }, n) => {
    const item = element("li", { role: "option", id: `completion-${n}`, "aria-selected": String(n === completing.chosen), title: means },
      text, element("span", { class: "dim" }, means && means !== text ? `  ${means}` : ""));
    item.addEventListener("mousedown", (event) => { event.preventDefault(); completing.chosen = n; acceptCompletion(); });
    return item;
  }));
  list.hidden = false;
  const lines = editor.value.slice(0, completing.start).split("\n");
  const left = EDGE.left + lines[lines.length - 1].length * letterWidth() - editor.scrollLeft;
  list.style.left = `${Math.max(0, Math.min(left, editor.clientWidth - 250))}px`;
  const top = EDGE.top + lines.length * LINE - editor.scrollTop;
  const below = editor.clientHeight - top;
  list.style.maxHeight = "210px";
  list.style.top = below > 120 || top < 140 ? `${top}px` : `${Math.max(0, top - LINE - Math.min(210, list.scrollHeight + 6))}px`;
  list.children[completing.chosen].scrollIntoView({ block: "nearest" });
  editor.setAttribute("aria-activedescendant", `completion-${completing.chosen}`);
}

function closeCompletions() {
  document.getElementById("completions").hidden = true;
  editor.removeAttribute("aria-activedescendant");
}

function letterWidth() {
  const context = document.createElement("canvas").getContext("2d");
  context.font = getComputedStyle(editor).font;
  return context.measureText("0".repeat(100)).width / 100;
}

function acceptCompletion() {
  const { text } = completing.options[completing.chosen];
  closeCompletions();
  editor.focus();
  editor.setSelectionRange(completing.start, editor.selectionStart);
  const inserted = text.endsWith("=") ? text : `${text} `;
  if (!document.execCommand("insertText", false, inserted)) {  // which can be undone
    editor.setRangeText(inserted, completing.start, editor.selectionEnd, "end");
    textChanged();
  }
}

const COMPLETION_KEYS = {
  ArrowDown: () => { completing.chosen = (completing.chosen + 1) % completing.options.length; drawCompletions(); },
  ArrowUp: () => { completing.chosen = (completing.chosen + completing.options.length - 1) % completing.options.length; drawCompletions(); },
  Enter: acceptCompletion,
  Tab: acceptCompletion,
  Escape: closeCompletions,
};

function onEditorKey(event) {
  if (event.ctrlKey && event.key === " ") { event.preventDefault(); openCompletions(true); return; }
  if (event.ctrlKey || event.altKey || event.metaKey || document.getElementById("completions").hidden) return;
  if (event.key in COMPLETION_KEYS && !event.shiftKey) { event.preventDefault(); COMPLETION_KEYS[event.key](); }
  else if (["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) closeCompletions();
}

function startEditor() {
  editor.addEventListener("keydown", onEditorKey);
  editor.addEventListener("input", (event) => { textChanged(); if (event.inputType !== "insertFromPaste") openCompletions(false); });
  editor.addEventListener("scroll", () => { drawLines(); closeCompletions(); });
  editor.addEventListener("blur", closeCompletions);
  for (const name of ["keyup", "click"]) editor.addEventListener(name, showWord);
}
