/* What is shown: the op, the address, the selection. It is in the page's address, and changes by mouse and keys. */

const view = {
  op: -1,
  vcpu: "0",
  l2: false,
  address: undefined,
  selected: {},
  inspected: undefined,
  moment: momentAt(-1),
  changes: undefined,
  walked: new Set(),
  translation: undefined,
  openRows: 20,
  select(selected) {
    const again = selected.page ? this.selected.page === selected.page : this.selected.table === selected.table;
    this.selected = again ? {} : selected;
    this.inspected = undefined;
    show();
  },
  inspect(inspected) {
    this.inspected = inspected;
    replaceChildren("inspector", inspectorPanel(this));
  },
  totals() {
    const all = new Map();
    for (const { op } of moments.slice(0, this.op + 2)) {
      for (const [group, counters] of Object.entries(op.stats || {})) {
        for (const [name, value] of Object.entries(counters)) {
          const key = group === "vm" ? name : `${group} ${name}`;
          const [, sum] = all.get(key) || [0, 0];
          all.set(key, [op.op === this.op ? value : 0, sum + value]);
        }
      }
    }
    return [...all].map(([name, [now, sum]]) => [name, now, sum]).sort((one, two) => (two[1] ? 1 : 0) - (one[1] ? 1 : 0));
  },
};

const lastOp = data.ops.length - 2;

function show() {
  const started = performance.now();
  view.moment = momentAt(view.op);
  view.changes = changesOf(view.moment.op, view.moment.before);
  walk();
  replaceChildren("op", opPanel(view));
  replaceChildren("inspector", inspectorPanel(view));
  replaceChildren("walk", walkPanel(view));
  replaceChildren("guest", guestTree(view));
  replaceChildren("shadow", shadowTree(view));
  const { state, before } = view.moment;
  showIfChanged("pages", [state.sps, before.sps, state.order, state.kvm, view.selected], pagesPanel);
  showIfChanged("rmaps", [state.rmap, before.rmap], rmapsPanel);
  replaceChildren("statistics", statisticsPanel(view));
  document.getElementById("slider").value = view.op;
  document.getElementById("slider").setAttribute("aria-valuetext", opText(view.moment.op));
  document.getElementById("where").textContent = view.op < 0 ? "before the first op" : `op ${view.op} of 0 to ${lastOp}`;
  document.getElementById("ops").selectedIndex = view.op + 1;
  document.getElementById("previous").disabled = view.op <= -1;
  document.getElementById("next").disabled = view.op >= lastOp;
  history.replaceState(null, "", hashOf());
  document.body.dataset.milliseconds = (performance.now() - started).toFixed(1);
}

/* Panels that are the same for many ops are made anew only if one of the things that they show is another one. */
const shownOf = new Map();

function showIfChanged(id, shown, panel) {
  const last = shownOf.get(id);
  if (last && last.every((held, n) => held === shown[n])) return;
  shownOf.set(id, shown);
  replaceChildren(id, panel(view));
}

function walk() {
  view.walked = new Set();
  view.translation = undefined;
  if (view.address === undefined) return;
  view.translation = translate(view.moment, view.vcpu, view.address, view.l2);
  for (const step of view.translation.guest.steps) view.walked.add(`gpa ${step.gpa.toString(16)}`);
  for (const step of view.translation.shadow.steps) view.walked.add(`${step.table}[${step.index}]`);
}

function opText(op) {
  const outcome = !op.outcome || op.outcome === "ok" ? "" : ` \u2013 ${op.outcome}`;
  return `${op.op < 0 ? "" : op.op + " "}${op.text}${outcome}`;
}

/* -- the address of the page ------------------------------------------------------------------------------- */

function hashOf() {
  const parts = [`op=${view.op}`];
  if (view.address !== undefined) parts.push(`gva=0x${view.address.toString(16)}`);
  if (view.vcpu !== "0" || view.l2) parts.push(`vcpu=${view.vcpu}${view.l2 ? ".l2" : ""}`);
  for (const [name, value] of Object.entries(view.selected)) parts.push(`${name}=${value}`);
  return `#${parts.join("&")}`;
}

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  const op = Number.parseInt(given.get("op") ?? "-1", 10);
  view.op = Number.isNaN(op) ? -1 : Math.max(-1, Math.min(lastOp, op));
  const [vcpu, l2] = (given.get("vcpu") ?? "0").split(".");
  view.vcpu = vcpu in momentAt(-1).registers ? vcpu : "0";
  view.l2 = l2 === "l2" && momentAt(-1).registers[view.vcpu].nestedRoot !== undefined;
  view.address = parsedAddress(given.get("gva") ?? "");
  view.selected = given.get("page") ? { page: given.get("page") } : {};
  if (/^[0-9a-f]+$/.test(given.get("table") ?? "")) view.selected = { table: given.get("table") };
  view.inspected = undefined;
  document.getElementById("gva").value = view.address === undefined ? "" : `0x${view.address.toString(16)}`;
  document.getElementById("space").value = `${view.vcpu}${view.l2 ? ".l2" : ""}`;
  show();
}

function parsedAddress(text) {
  const match = /^(?:0x)?([0-9a-f]{1,16})$/i.exec(text.trim().replaceAll("_", ""));
  return match ? BigInt(`0x${match[1]}`) : undefined;
}

/* -- what people do ---------------------------------------------------------------------------------------- */

function go(op) {
  view.op = Math.max(-1, Math.min(lastOp, op));
  view.inspected = undefined;
  show();
}

/* The next op in a direction that changes the selected page, table or the walk's entries; else that changes any. */
function goToChange(direction) {
  for (let op = view.op + direction; op >= -1 && op <= lastOp; op += direction) {
    const moment = momentAt(op);
    const changes = changesOf(moment.op, moment.before);
    if (touches(changes)) { go(op); return; }
  }
}

function touches(changes) {
  const { page, table } = view.selected;
  if (page) return changes.pages.has(page) || changes.freed.includes(page);
  if (table) return [...changes.gptes.keys()].some((gpa) => gpa.slice(0, -3) === table.slice(0, -3));
  if (view.address !== undefined) {
    return [...view.walked].some((name) => changes.entries.has(name) || changes.gptes.has(name.replace("gpa ", "")));
  }
  return changes.pages.size + changes.gptes.size + changes.freed.length > 0;
}

function submitAddress(event) {
  event.preventDefault();
  const text = document.getElementById("gva").value;
  const address = parsedAddress(text);
  const wrong = text.trim() && address === undefined;
  document.getElementById("gva-error").textContent = wrong ? "Write a hexadecimal address of 64 bits at most, 0x400000" : "";
  document.getElementById("gva").setAttribute("aria-invalid", String(Boolean(wrong)));
  if (wrong) return;
  view.address = address;
  const [vcpu, l2] = document.getElementById("space").value.split(".");
  view.vcpu = vcpu;
  view.l2 = l2 === "l2";
  show();
}

function toggleHelp() {
  const help = document.getElementById("help");
  help.hidden = !help.hidden;
  document.getElementById("help-button").setAttribute("aria-expanded", String(!help.hidden));
}

const KEYS = {
  ArrowLeft: () => go(view.op - 1),
  ArrowRight: () => go(view.op + 1),
  Home: () => go(-1),
  End: () => go(lastOp),
  "[": () => goToChange(-1),
  "]": () => goToChange(1),
  g: () => document.getElementById("gva").focus(),
  "/": () => document.getElementById("gva").focus(),
  o: () => document.getElementById("ops").focus(),
  "?": toggleHelp,
};

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const typing = event.target.matches("input:not([type=range]), select, textarea");
  if (event.key === "Escape") { event.target.blur(); return; }
  const ranged = event.target.matches("input[type=range]") && ["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key);
  if (typing || ranged || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

function start() {
  const source = data.recorded ? "recorded from real KVM" : "played by the model";
  document.getElementById("name").textContent = `${data.name}: ${data.title}`;
  const params = Object.entries(data.params).filter(([name]) => name !== "thp").map(([name, value]) => `${name}=${value}`);
  const design = Object.entries(data.design).map(([name, value]) => `${name}=${value}`);
  document.getElementById("about").textContent =
    `${source}, ${data.kernel.split(" ")[0]}, guest ${[...new Set(data.modes)].join(", ")}; ${[...params, ...design].join(" ")}`;
  document.getElementById("slider").max = lastOp;
  document.getElementById("ops").append(...data.ops.map((op) => element("option", { value: op.op }, opText(op))));
  const spaces = Object.entries(momentAt(-1).registers).flatMap(([vcpu, registers]) => [
    element("option", { value: vcpu }, `vCPU ${vcpu}`),
    registers.nestedRoot === undefined ? null : element("option", { value: `${vcpu}.l2` }, `L2 of vCPU ${vcpu}`),
  ]).filter(Boolean);
  document.getElementById("space").append(...spaces);
  document.getElementById("slider").addEventListener("input", (event) => go(Number(event.target.value)));
  document.getElementById("ops").addEventListener("change", (event) => go(Number(event.target.value)));
  document.getElementById("previous").addEventListener("click", () => go(view.op - 1));
  document.getElementById("next").addEventListener("click", () => go(view.op + 1));
  document.getElementById("help-button").addEventListener("click", toggleHelp);
  document.getElementById("walk-form").addEventListener("submit", submitAddress);
  document.getElementById("space").addEventListener("change", submitAddress);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", readHash);
  readHash();
}

start();
