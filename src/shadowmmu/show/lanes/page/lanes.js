/* Lanes: runs, each with steps in time, a lane for every CPU. The run and the step are in the page's address. */

const data = JSON.parse(document.getElementById("data").textContent);
const shown = { run: 0, step: 0 };

const runOf = () => data.runs[shown.run];

function showAll() {
  const run = runOf();
  [...document.getElementById("runs").children].forEach((button, n) => button.setAttribute("aria-pressed", String(n === shown.run)));
  replaceChildren("verdict", element("span", { class: run.good ? "good" : "bad" }, `${run.name}: ${run.verdict}`));
  replaceChildren("lanes", run.steps.length ? lanesTable(run)
    : element("p", { class: "dim" }, "No order of the steps has a bad outcome: there is no schedule to show."));
  showStep();
}

function lanesTable(run) {
  const head = ["", ...run.lanes].map((lane) => element("th", { scope: "col" }, lane));
  const rows = run.steps.map((step, n) => element("tr", {}, element("td", {}, String(n)),
    run.lanes.map((_, lane) => element("td", {}, lane === step.lane ? stepButton(step, n) : ""))));
  return element("table", { class: "lanes" }, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows));
}

function stepButton(step, n) {
  return element("button", {
    type: "button", class: classes("step", step.wrong.length && "wrong"), id: `step-${n}`, onclick: () => goToStep(n),
  }, step.text, step.wrong.length ? " \u2013 wrong" : "");
}

function showStep() {
  const { steps, lanes } = runOf();
  const step = steps[shown.step];
  document.querySelectorAll("[aria-current=step]").forEach((button) => button.removeAttribute("aria-current"));
  document.getElementById("where").textContent = step ? `step ${shown.step} of 0 to ${steps.length - 1}` : "no steps";
  document.getElementById("previous").disabled = shown.step <= 0;
  document.getElementById("next").disabled = shown.step >= steps.length - 1;
  history.replaceState(null, "", `#run=${shown.run}&step=${shown.step}`);
  if (!step) { replaceChildren("step", element("p", { class: "dim" }, "None.")); return; }
  const button = document.getElementById(`step-${shown.step}`);
  button.setAttribute("aria-current", "step");
  button.scrollIntoView({ block: "nearest" });
  const lines = (all, name) => element("ul", { class: name }, all.map((line) => element("li", {}, line)));
  replaceChildren("step",
    element("p", {}, element("strong", {}, lanes[step.lane]), ": ", element("code", {}, step.text)),
    step.wrong.length ? [element("h3", { class: "bad" }, "Wrong after it"), lines(step.wrong)] : null,
    step.details.length ? [element("h3", {}, "What it did"), lines(step.details)] : null);
}

function goToStep(step) {
  shown.step = Math.max(0, Math.min(runOf().steps.length - 1, step));
  showStep();
}

function goToRun(run) {
  shown.run = Math.max(0, Math.min(data.runs.length - 1, run));
  shown.step = Math.max(0, Math.min(runOf().steps.length - 1, shown.step));
  showAll();
}

/* The next step in a direction after which something is wrong; stays where there is none. */
function goToWrong(direction) {
  const { steps } = runOf();
  for (let n = shown.step + direction; n >= 0 && n < steps.length; n += direction) {
    if (steps[n].wrong.length) { goToStep(n); return; }
  }
}

function toggleHelp() {
  const help = document.getElementById("help");
  help.hidden = !help.hidden;
  document.getElementById("help-button").setAttribute("aria-expanded", String(!help.hidden));
}

const KEYS = {
  ArrowUp: () => goToStep(shown.step - 1),
  ArrowDown: () => goToStep(shown.step + 1),
  Home: () => goToStep(0),
  End: () => goToStep(runOf().steps.length - 1),
  ArrowLeft: () => goToRun(shown.run - 1),
  ArrowRight: () => goToRun(shown.run + 1),
  "[": () => goToWrong(-1),
  "]": () => goToWrong(1),
  "?": toggleHelp,
};

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name) => Number.parseInt(given.get(name) ?? "0", 10) || 0;
  shown.step = number("step");
  goToRun(number("run"));
}

function start() {
  document.getElementById("name").textContent = `${data.name}: ${data.title}`;
  replaceChildren("about", data.about.map(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
  document.getElementById("runs").append(...data.runs.map((run, n) =>
    element("button", { type: "button", onclick: () => goToRun(n) }, run.name)));
  document.getElementById("previous").addEventListener("click", () => goToStep(shown.step - 1));
  document.getElementById("next").addEventListener("click", () => goToStep(shown.step + 1));
  document.getElementById("help-button").addEventListener("click", toggleHelp);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", readHash);
  readHash();
}

start();
