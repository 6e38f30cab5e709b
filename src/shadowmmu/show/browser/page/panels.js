/* The panels beside the trees: the op, what is selected, the walk, shadow pages, reverse maps, statistics. */

function opPanel(view) {
  const { op } = view.moment;
  const parts = [element("p", {}, element("code", {}, `${op.op < 0 ? "" : op.op + " "}${op.text}`),
    data.ops.length > 1 && Object.keys(view.moment.registers).length > 1 ? ` on vCPU ${op.vcpu}` : "")];
  if (op.outcome) {
    const good = op.outcome === "ok";
    parts.push(element("p", {}, "Result: ", element("span", { class: good ? "good" : "bad" }, op.outcome),
      " ", op.details.join(" ")));
  }
  if (op.stale) parts.push(element("p", { class: "bad" }, `Stale: ${op.stale}`));
  if (op.undumped) parts.push(element("p", { class: "dim" }, "The state after this op was not recorded; shown is the last one that was."));
  for (const other of op.meanwhile || []) parts.push(element("p", {}, `Meanwhile ${other}`));
  const changed = summaryOfChanges(view.changes);
  if (changed.length) parts.push(element("h3", {}, "Changed"), element("ul", {}, changed.map((line) => element("li", {}, line))));
  if (op.why) parts.push(element("h3", {}, "Why"), reasonsList(op.why));
  if (op.events) {
    parts.push(element("h3", {}, `Events (${op.events.length})`),
      element("ul", { class: "events", tabindex: "0", "aria-label": "Events" }, op.events.map((line) => element("li", {}, line))));
  } else if (op.op >= 0) parts.push(element("p", { class: "dim" }, "No event: the guest did not leave to KVM."));
  return parts;
}

function summaryOfChanges(changes) {
  const lines = [];
  for (const [gpa, [old, value]] of [...changes.gptes].slice(0, 8)) lines.push(`guest entry at gpa ${gpa}: ${old} \u2192 ${value}`);
  if (changes.gptes.size > 8) lines.push(`and ${changes.gptes.size - 8} more guest entries`);
  if (changes.made.size) lines.push(`made: ${[...changes.made].join(", ")}`);
  if (changes.freed.length) lines.push(`freed: ${changes.freed.join(", ")}`);
  const sptes = [...changes.entries.keys()].filter((name) => !changes.made.has(name.split("[")[0]));
  if (sptes.length) lines.push(`SPTEs: ${sptes.slice(0, 12).join(", ")}${sptes.length > 12 ? ` and ${sptes.length - 12} more` : ""}`);
  return lines;
}

const MOST_CHANGES = 8;

/* Groups of changes with one reason: [what changed, number of the sentence that says why, and of what led there]. */
function reasonsList(groups) {
  const said = (number, words) => number < 0 ? null : element("p", { class: "said" }, `${words} ${data.reasons[number]}`);
  return element("ol", { class: "why", tabindex: "0", "aria-label": "Why" }, groups.map(([changes, reason, led]) => {
    const more = changes.length - MOST_CHANGES;
    const rest = more > 0 ? element("details", {}, element("summary", {}, `and ${more} more`),
      element("ul", {}, changes.slice(MOST_CHANGES).map((text) => element("li", {}, text)))) : null;
    return element("li", {}, element("ul", { class: "mono" }, changes.slice(0, MOST_CHANGES).map((text) => element("li", {}, text))),
      rest, said(reason, "because"), said(led, "led there:"));
  }));
}

/* -- what is selected -------------------------------------------------------------------------------------- */

function inspectorPanel(view) {
  const { inspected, selected } = view;
  if (inspected) return [element("p", {}, element("code", {}, inspected.title)), ...decodedParts(inspected.decoded)];
  if (selected.page) return pageParts(view, selected.page);
  if (selected.table) return tableParts(view, selected.table);
  const vcpus = Object.entries(view.moment.state.vcpus).map(([vcpu, state]) => vcpuParts(view, vcpu, state));
  return [element("p", { class: "dim" }, "Choose an entry, a shadow page or a table to see what it says."), ...vcpus.flat()];
}

function decodedParts(decoded) {
  if (!decoded) return [element("p", { class: "dim" }, "It maps nothing.")];
  return [
    element("p", {}, decoded.title, decoded.printed ? `; KVM prints ${decoded.printed}` : ""),
    element("ul", {}, decoded.implies.map((sentence) => element("li", {}, sentence))),
    element("table", { class: "fields" },
      element("thead", {}, element("tr", {}, ["bits", "name", "value", "meaning"].map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, decoded.fields.map(([bits, name, value, meaning]) =>
        element("tr", { class: value === "0" ? "zero" : undefined },
          [bits, name, value, meaning].map((cell) => element("td", {}, cell)))))),
  ];
}

function pageParts(view, name) {
  const page = view.moment.state.sps[name];
  if (!page) return [element("p", {}, `${name} does not exist after this op.`)];
  return [
    element("p", {}, element("strong", {}, name), ` ${pageWords(page)}`),
    element("p", {}, "Parents: ", page.parents.length ? page.parents.join(", ") : "none"),
    element("p", {}, `Role ${page.role}`),
    ...decodedParts(data.decoded.role[page.role]),
  ];
}

function pageWords(page) {
  const words = [`level ${page.level}`, page.direct ? `direct, gfn ${page.gfn}` : `of the guest's table gfn ${page.gfn}`];
  words.push(page.unsync ? "unsync" : "in sync", `generation ${page.gen}`, `root count ${page.root_count}`);
  if (page.flood) words.push(`${page.flood} writes towards flooding`);
  if (page.unsync_children) words.push(`${page.unsync_children} unsync children`);
  if (page.nxd) words.push("exists for the NX huge page mitigation");
  if (page.invalid) words.push("zapped");
  if (page.off_list) words.push("not on the list of active pages");
  if (page.tdp) words.push("of the TDP MMU");
  return words.join(", ");
}

function tableParts(view, table) {
  const gfn = (BigInt("0x" + table) >> 12n).toString(16);
  const names = Object.entries(view.moment.state.sps).filter(([, page]) => !page.direct && page.gfn === gfn);
  const tracked = Object.entries(view.moment.state.wtrack).filter(([key]) => key.split("/")[1] === gfn);
  return [
    element("p", {}, `Guest table at gpa 0x${table}, gfn ${gfn}`),
    element("ul", {}, names.map(([name, page]) => element("li", {}, nameButton(view, { page: name }, name), ` ${pageWords(page)}`))),
    names.length ? null : element("p", {}, "No shadow page shadows it."),
    element("p", {}, tracked.length ? `Write-tracked ${tracked[0][1]} times: writes to it exit.` : "Not write-tracked."),
  ];
}

function vcpuParts(view, vcpu, state) {
  const registers = view.moment.registers[vcpu];
  const lines = [`root ${state.root}, pgd ${state.pgd}, root role ${state.root_role}, CPU role ${state.cpu_role}`];
  if (registers) lines.push(`CR3 ${registers.cr3}, CR0 ${registers.cr0}, CR4 ${registers.cr4}, EFER ${registers.efer}`);
  if (state.prev.length) lines.push(`previous roots: ${state.prev.map(([pgd, name]) => `${name} (CR3 ${pgd})`).join(", ")}`);
  if (state.guest_mmu) {
    lines.push(`${state.in_l2 ? "runs L2" : "runs L1"}; root for L2 ${state.guest_mmu.root}, role ${state.guest_mmu.root_role}`);
  }
  const decoded = data.decoded.cpuRole[state.cpu_role];
  return [element("h3", {}, `vCPU ${vcpu}${decoded ? `: ${decoded.title.replace("CPU role: ", "")}` : ""}`),
    element("ul", { class: "mono" }, lines.map((line) => element("li", {}, line)))];
}

/* -- the walk ---------------------------------------------------------------------------------------------- */

function walkPanel(view) {
  if (view.address === undefined) {
    return [element("p", { class: "dim" }, "Type an address of the guest: its way through both tables is shown, and marked bold in the trees.")];
  }
  const { guest, shadow } = view.translation;
  const physical = data.tdp && !view.l2 && guest.gpa !== undefined ? ` (of gpa 0x${guest.gpa.toString(16)})` : "";
  return [
    walkColumn("Through the guest's tables", guest, (step) => "0x" + step.value),
    walkColumn(`Through KVM's tables${physical}`, shadow, (step) => step.value),
  ];
}

/* Of all steps but the last only what is not true of every link: the first sentence says what a link is. */
function walkColumn(title, walk, value) {
  const said = (step, n) => step.decoded ? step.decoded.implies.slice(n < walk.steps.length - 1 ? 1 : 0) : [];
  const rows = walk.steps.map((step, n) => element("li", {},
    element("code", {}, `level ${step.level}  ${step.table}[${step.index}] = ${step.decoded ? value(step) : step.value} `),
    shortOf(step.decoded),
    said(step, n).map((sentence) => element("p", { class: "said" }, sentence))));
  return element("section", {}, element("h3", {}, title), element("ol", { class: "walk" }, rows),
    element("p", {}, element("strong", {}, walk.end)));
}

/* -- lists ------------------------------------------------------------------------------------------------- */

function pagesPanel(view) {
  const { state } = view.moment;
  const names = state.order.concat(Object.keys(state.sps).filter((name) => !state.order.includes(name)));
  const heads = ["page", "level", "gfn", "role", "access", "kind", "sync", "unsync below", "flooding", "generation", "root count", "SPTEs", "parents"];
  if (!names.length) return [element("p", { class: "dim" }, "There are none.")];
  const kvm = state.kvm;
  return [
    element("p", {}, `${kvm.used} in use of ${kvm.max}, ${kvm.indirect} indirect; generation ${kvm.gen}, memslots' generation ${kvm.slots_gen}. Newest first.`),
    element("table", {},
      element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, names.map((name) => pageRow(view, name, state.sps[name])))),
  ];
}

function pageRow(view, name, page) {
  const kind = [page.direct ? "direct" : "indirect", page.tdp ? "TDP MMU" : "", page.has_4_byte_gpte ? `part ${page.quadrant || 0}` : "",
    page.invalid ? "zapped" : "", page.off_list ? "off list" : "", page.nxd ? "NX" : ""].filter(Boolean).join(", ");
  const parents = page.parents.slice(0, 4).join(" ") + (page.parents.length > 4 ? ` and ${page.parents.length - 4} more` : "");
  const cells = [page.level, page.gfn, page.role, page.access, kind, page.unsync ? "unsync" : "in sync", page.unsync_children,
    page.flood, page.gen, page.root_count, Object.keys(page.sptes).length, parents || "none"];
  const marks = classes(view.changes.pages.has(name) && "changed", view.selected.page === name && "related");
  return element("tr", { class: marks },
    element("td", {}, nameButton(view, { page: name }, name), view.changes.made.has(name) ? element("span", { class: "mark" }, " new") : null),
    cells.map((cell) => element("td", {}, String(cell))));
}

const MOST_RMAPS = 100;

function rmapsPanel(view) {
  const { state, before } = view.moment;
  const old = before.rmap || {};
  const keys = Object.keys(state.rmap);
  if (!keys.length) return [element("p", { class: "dim" }, "No frame is mapped by shadow pages.")];
  const changed = (key) => (old[key] || []).join() !== state.rmap[key].join();
  const sorted = keys.sort((one, two) => Number(changed(two)) - Number(changed(one)));
  const rows = sorted.slice(0, MOST_RMAPS).map((key) => {
    const [slot, level, gfn] = key.split("/");
    const list = state.rmap[key];
    const text = list.slice(0, 8).join(" ") + (list.length > 8 ? ` and ${list.length - 8} more` : "");
    return element("tr", { class: changed(key) ? "changed" : undefined }, [gfn, level, slot, text].map((cell) => element("td", {}, cell)));
  });
  return [
    element("p", { class: "dim" }, `${keys.length} frames, those that changed first${keys.length > MOST_RMAPS ? `; ${MOST_RMAPS} are shown` : ""}`),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "rmaps-heading" }, element("table", {},
      element("thead", {}, element("tr", {}, ["gfn", "level", "slot", "mapped by"].map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, rows))),
  ];
}

function statisticsPanel(view) {
  const totals = view.totals();
  if (!totals.length) return [element("p", { class: "dim" }, "Nothing was counted yet.")];
  return [element("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "statistics-heading" }, element("table", {},
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "counter"), element("th", { scope: "col", class: "number" }, "this op"),
      element("th", { scope: "col", class: "number" }, "so far"))),
    element("tbody", {}, totals.map(([name, now, all]) => element("tr", { class: now ? "changed" : undefined },
      element("td", {}, name), element("td", { class: "number" }, now ? (now > 0 ? `+${now}` : String(now)) : ""),
      element("td", { class: "number" }, String(all)))))))];
}
