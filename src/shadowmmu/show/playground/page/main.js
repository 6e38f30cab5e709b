/* What people do: lessons, running, checking, sharing. */

const button = (name) => document.getElementById(name);
let lesson;
let parsing;
let loaded = "";
let own;

/* -- asking the model -------------------------------------------------------------------------------------- */

function question(kind) {
  return { ask: kind, text: editor.value, ...settings };
}

async function run() {
  closeCompletions();
  const started = performance.now();
  const answered = await busy("Playing the scenario", question("run"));
  if (!answered) return;
  showProblem(answered.error);
  if (answered.error) return;
  showLines("output", answered.lines);
  showTables(answered.page);
  if (document.getElementById("panel-checks").hidden === false) selectTab("output");
  say(`Played in ${seconds(started)}`);
}

async function check() {
  closeCompletions();
  const started = performance.now();
  const answered = await busy("Playing the scenario under all checks", question("check"));
  if (!answered) return;
  showProblem(answered.error);
  if (answered.error) return;
  showLines("checks", answered.lines);
  selectTab("checks");
  say(`Checked in ${seconds(started)}: ${answered.found ? `${answered.found} found` : "nothing found"}`);
}

const seconds = (started) => `${((performance.now() - started) / 1000).toFixed(1)} s`;

async function busy(what, asked) {
  clearTimeout(parsing);
  button("stop").disabled = false;
  if (model.ready) say(what);
  const answered = await ask(asked);
  button("stop").disabled = true;
  if (answered?.error) say("Not played");
  return answered;
}

/* While nobody writes, say what is wrong with the text. */
function parseSoon() {
  clearTimeout(parsing);
  parsing = setTimeout(async () => {
    if (!model.ready || model.waiting) return;
    const asked = question("parse");
    const answered = await ask(asked);
    if (answered && asked.text === editor.value) showProblem(answered.error);
  }, 400);
}

function say(text) {
  document.getElementById("status").textContent = text;
}

/* -- results ----------------------------------------------------------------------------------------------- */

function showLines(id, lines) {
  const shown = document.getElementById(id);
  shown.replaceChildren(...lines.flatMap(({ op, spans }) => [
    ...spans.map(([text, role]) => (role === "op" && op !== null ? opButton(op, text) : element("span", { class: role || undefined }, text))), "\n"]));
  shown.parentElement.scrollTop = 0;
}

function opButton(op, text) {
  const made = element("button", { type: "button", class: "op", title: `Page tables after op ${op}` }, text);
  made.addEventListener("click", () => { selectTab("tables"); stepTo(op); });
  return made;
}

/* The page that `shadowmmu show` writes, at the op that was looked at before. It is written into an empty frame,
 * which has this page's origin also if that was opened from the disk: a frame with an address would have another. */
function showTables(page) {
  const old = document.getElementById("tables");
  const place = placeInTables();
  const frame = element("iframe", { id: "tables", title: old.title });
  old.replaceWith(frame);
  document.getElementById("no-tables").hidden = true;
  frame.contentDocument.open();
  frame.contentDocument.write(page);
  frame.contentDocument.close();
  frame.contentWindow.addEventListener("keydown", onKey);
  if (place) frame.contentWindow.location.replace(place);
}

function placeInTables() {
  return document.getElementById("tables").contentWindow?.location.hash ?? "";
}

function stepTo(op) {
  const place = new URLSearchParams(placeInTables().slice(1));
  place.set("op", op);
  document.getElementById("tables").contentWindow.location.replace(`#${place}`);
}

const TABS = ["tables", "output", "checks"];

function selectTab(name) {
  for (const each of TABS) {
    const tab = document.getElementById(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    document.getElementById(`panel-${each}`).hidden = each !== name;
  }
}

function onTabKey(event) {
  const step = { ArrowRight: 1, ArrowLeft: TABS.length - 1 }[event.key];
  if (!step) return;
  const now = TABS.findIndex((each) => event.target.id === `tab-${each}`);
  const next = TABS[(now + step) % TABS.length];
  selectTab(next);
  document.getElementById(`tab-${next}`).focus();
}

/* -- lessons and sharing ------------------------------------------------------------------------------------ */

const OWN = "own";
const AS_WRITTEN = { kernel: "", vendor: "", params: {}, designs: {}, tlb: false };

/* Put a text into the editor. What was written there instead of the last one is kept: the last of the lessons is it. */
function loadText(text, machine) {
  if (editor.value.trim() && editor.value !== loaded) {
    own = { text: editor.value, settings: { ...settings } };
    document.getElementById("own").disabled = false;
  }
  loaded = text;
  change({ ...AS_WRITTEN, ...machine });
  setText(text);
}

function openLesson(name) {
  if (name === OWN) {
    loadText(own.text, own.settings);
    return;
  }
  lesson = given.lessons.find((each) => each.name === name) ?? given.lessons[0];
  document.getElementById("lesson").value = lesson.name;
  const shown = document.getElementById("lesson-text");
  shown.innerHTML = lesson.html;  // of the lessons' files, not of anything that people write
  shown.scrollTop = 0;
  loadText(lesson.scenario, AS_WRITTEN);
}

function doTask() {
  loadText(lesson.changed, lesson.settings);
  if (lesson.asks === "check") check();
  else run();
}

async function share() {
  const address = `${location.href.split("#")[0]}#s=${await packed({ text: editor.value, settings })}`;
  history.replaceState(null, "", address);
  document.getElementById("shared").hidden = false;
  const field = document.getElementById("address");
  field.value = address;
  field.focus();
  field.select();
  const copied = await navigator.clipboard?.writeText(address).then(() => true, () => false);
  say(copied ? "The address is copied: it has the scenario and the machine" : "The address has the scenario and the machine");
}

async function readAddress() {
  const [name, value] = location.hash.slice(1).split(/=(.*)/s);
  if (name === "s") {
    const shared = await unpacked(value ?? "");
    openLesson("");
    if (shared) loadText(shared.text, shared.settings);
    else say("This address shares nothing that can be read; here is the first lesson");
  } else {
    openLesson(name === "lesson" ? value : "");
  }
}

/* -- start -------------------------------------------------------------------------------------------------- */

function onKey(event) {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  if (event.shiftKey) check();
  else run();
}

function start() {
  startEditor();
  startMenus();
  document.getElementById("lesson").append(...given.lessons.map((each) => option(each.name, each.title)),
    element("option", { value: OWN, id: "own", disabled: "" }, "What you wrote last"));
  document.getElementById("lesson").addEventListener("change", (event) => {
    if (event.target.value !== OWN) history.replaceState(null, "", `#lesson=${event.target.value}`);
    openLesson(event.target.value);
  });
  button("do-task").addEventListener("click", doTask);
  button("run").addEventListener("click", run);
  button("check").addEventListener("click", check);
  button("stop").addEventListener("click", () => { say("Stopped"); stopModel(); });
  button("share").addEventListener("click", share);
  document.querySelector("[role=tablist]").addEventListener("keydown", onTabKey);
  for (const each of TABS) document.getElementById(`tab-${each}`).addEventListener("click", () => selectTab(each));
  document.addEventListener("keydown", onKey);
  document.addEventListener("scenario", parseSoon);
  document.addEventListener("model", ({ detail }) => {
    say(detail);
    button("run").disabled = button("check").disabled = model.failed !== undefined;
    if (model.ready) parseSoon();
  });
  window.addEventListener("hashchange", readAddress);
  readAddress();
  window.addEventListener("load", startModel);
}

start();
