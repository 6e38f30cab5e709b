/* The guest's tables and KVM's as trees of lists; runs of entries that continue in equal steps are one line. */

const SHORTEST_RUN = 4;
const OPEN_ROWS = 400; /* a tree of more rows begins closed, but for what changed and what the walk passes */
const toggled = new Map(); /* tables that were opened or closed by hand */

/* Entries [index, value, place, step-free form] in order -> runs [first, last]. */
function runsOf(entries) {
  const runs = [];
  let first = 0;
  while (first < entries.length) {
    let last = first;
    const step = first + 1 < entries.length ? entries[first + 1].place - entries[first].place : 0n;
    while (last + 1 < entries.length) {
      const [one, two] = [entries[last], entries[last + 1]];
      const goesOn = two.index - one.index === 1 && two.kind === one.kind && two.place - one.place === step;
      if (!goesOn || two.alone || one.alone) break;
      last += 1;
    }
    if (last - first + 1 < SHORTEST_RUN) last = first;
    runs.push([first, last]);
    first = last + 1;
  }
  return runs;
}

function indexText(entries, [first, last]) {
  return first === last ? `[${entries[first].index}]` : `[${entries[first].index}..${entries[last].index}]`;
}

/* -- the guest's ------------------------------------------------------------------------------------------ */

/* gpa of a table -> names of the shadow pages that shadow it. */
function shadowsOf(state) {
  const found = new Map();
  for (const [name, page] of Object.entries(state.sps)) {
    if (page.direct) continue;
    const gpa = (BigInt("0x" + page.gfn) << 12n).toString(16);
    if (!found.has(gpa)) found.set(gpa, []);
    found.get(gpa).push(name);
  }
  return found;
}

/* The roots of guest tables in use: {root, format, users}. */
function guestRoots(moment) {
  const roots = new Map();
  for (const [vcpu, registers] of Object.entries(moment.registers)) {
    for (const nested of [false, true]) {
      if (nested ? registers.nestedRoot === undefined : !registers.levels) continue;
      const format = formatOf(registers, nested);
      const key = `${format.root}/${format.levels}/${format.nx}/${format.pse}`;
      if (!roots.has(key)) roots.set(key, { format, users: [] });
      roots.get(key).users.push(`${nested ? "nested " : ""}CR3 of vCPU ${vcpu}`);
    }
  }
  return [...roots.values()];
}

function guestTree(view) {
  const shadows = shadowsOf(view.moment.state);
  const roots = guestRoots(view.moment);
  if (!roots.length) return [element("p", { class: "dim" }, "No vCPU has paging switched on.")];
  const seen = new Set();
  return roots.map(({ format, users }) =>
    guestTable(view, shadows, seen, format, format.root, format.levels, `${users.join(", ")}: `));
}

function guestTable(view, shadows, seen, format, table, level, prefix) {
  const text = table.toString(16);
  const key = `guest ${text}/${level}/${format.levels}`;
  const names = shadows.get((table & ~0xfffn).toString(16)) || [];
  const head = [
    prefix,
    nameButton(view, { table: text }, `gpa ${text}`),
    ` level ${level}`,
    names.length ? [" shadowed by ", names.map((name, n) => [n ? ", " : "", nameButton(view, { page: name }, name)])] : [],
  ].flat(4);
  const entries = guestEntries(view, format, table, level);
  if (entries === undefined) return element("p", {}, head, element("span", { class: "dim" }, " not recorded"));
  if (seen.has(key)) return element("p", {}, head, element("span", { class: "dim" }, " (shown above)"));
  seen.add(key);
  const related = view.selected.table === text || names.includes(view.selected.page);
  const rows = runsOf(entries).map((run) => guestRow(view, shadows, seen, format, level, table, entries, run));
  const open = entries.some((entry) => entry.alone);
  return branch(view, key, head, rows, { related, open, root: level === format.levels });
}

function guestEntries(view, format, table, level) {
  const page = view.moment.memory[(table & ~0xfffn).toString(16)];
  if (!page) return undefined;
  const size = entryBytes(format.levels);
  const start = Number((table & 0xfffn) / size);
  const held = Number(size) === page.size ? page.entries : rescaled(view, table & ~0xfffn, size);
  const found = [];
  for (const [indexText, hex] of Object.entries(held)) {
    const index = Number(indexText) - start;
    if (index < 0 || (format.levels === 3 && level === 3 && index > 3)) continue;
    found.push(guestEntryOf(view, format, table, level, index, BigInt("0x" + hex)));
  }
  const size_ = Number(size);
  for (const [gpa, [old, value]] of view.changes.gptes) {
    const at = BigInt("0x" + gpa);
    if (value !== "0" || (at & ~0xfffn) !== (table & ~0xfffn)) continue;
    const index = Number(at & 0xfffn) / size_ - start;
    if (index < 0 || index % 1) continue;
    found.push({ index, value: 0n, place: 0n, kind: "", alone: true, gpa: at, old, text: "0" });
  }
  return found.sort((one, two) => one.index - two.index);
}

/* Entries of a page that was written in entries of another size. */
function rescaled(view, table, size) {
  const entries = {};
  for (let index = 0n; index < 4096n / size; index++) {
    const value = guestEntry(view.moment.memory, table + index * size, size);
    if (value) entries[index] = value.toString(16);
  }
  return entries;
}

function guestEntryOf(view, format, table, level, index, value) {
  const gpa = table + BigInt(index) * entryBytes(format.levels);
  const present = Boolean(value & 1n);
  const leaf = present && isLeaf(format, value, level);
  const change = view.changes.gptes.get(gpa.toString(16));
  const physical = present ? gptePhysical(format, value, level) : 0n;
  return {
    index, value, gpa, leaf, present, text: value.toString(16), old: change && change[0],
    place: physical,
    kind: present ? (value & ~addressBits(format, value, level)).toString(16) : `absent ${value}`,
    alone: (present && !leaf) || change !== undefined || view.walked.has(`gpa ${gpa.toString(16)}`),
  };
}

function guestRow(view, shadows, seen, format, level, table, entries, run) {
  const entry = entries[run[0]];
  const decoded = decodedGpte(format, entry.value, level);
  const more = run[0] === run[1] ? "" : ` .. ${entries[run[1]].text}`;
  const select = { kind: "gpte", title: `Guest entry at gpa 0x${entry.gpa.toString(16)}: 0x${entry.text}`, decoded };
  const row = [
    entryButton(view, select, `${indexText(entries, run)} ${entry.text}${more}`),
    " ", shortOf(decoded),
    entry.old !== undefined ? changeMark(entry.old, entry.text) : null,
  ];
  const on = view.walked.has(`gpa ${entry.gpa.toString(16)}`);
  const attributes = { class: classes(entry.old !== undefined && "changed", on && "on-walk") };
  if (!entry.present || entry.leaf) return element("li", attributes, row);
  return element("li", attributes, row, guestTable(view, shadows, seen, format, entry.place, level - 1, "\u2192 "));
}

/* -- KVM's ------------------------------------------------------------------------------------------------ */

/* Names of the roots in use, and for what: [[name, what]]. */
function shadowRoots(state) {
  const found = [];
  for (const [vcpu, top] of Object.entries(state.vcpus)) {
    for (const [mmu, whose] of [[top, ""], [top.guest_mmu, " for L2"]]) {
      if (!mmu) continue;
      if (mmu.pae_root) mmu.pae_root.forEach((text, n) => {
        const link = /^(S\d+)\|/.exec(text);
        if (link) found.push([link[1], `vCPU ${vcpu}${whose}, ${mmu.root}[${n}]`]);
      });
      else found.push([mmu.root, `vCPU ${vcpu}${whose}`]);
      for (const [pgd, name] of mmu.prev) found.push([name, `vCPU ${vcpu}${whose}, previous, CR3 ${pgd}`]);
    }
  }
  return found;
}

function shadowTree(view) {
  const state = view.moment.state;
  const seen = new Set();
  const users = new Map();
  const rows = [];
  for (const [name, what] of shadowRoots(state)) {
    if (!state.sps[name]) {
      rows.push(element("p", { class: "dim" }, `root of ${what}: ${name === "dummy" ? "the dummy page" : name}`));
      continue;
    }
    if (!users.has(name)) users.set(name, []);
    users.get(name).push(what);
  }
  for (const [name, what] of users) rows.push(shadowTable(view, seen, name, `root of ${what.join("; ")}: `, true));
  const left = Object.keys(state.sps).filter((name) => !seen.has(name));
  const tops = left.filter((name) => !state.sps[name].parents.some((parent) => left.includes(parent.split("[")[0])));
  if (left.length) rows.push(element("h3", {}, "In no root's tree"));
  for (const name of tops) rows.push(shadowTable(view, seen, name, "", true));
  if (view.changes.freed.length) {
    rows.push(element("p", { class: "changed" }, "freed: ",
      view.changes.freed.map((name, n) => [n ? ", " : "", element("span", { class: "gone" }, name)]).flat()));
  }
  return rows;
}

function shadowTable(view, seen, name, prefix, root) {
  const page = view.moment.state.sps[name];
  const gpa = (BigInt("0x" + page.gfn) << 12n).toString(16);
  const head = [prefix, nameButton(view, { page: name }, name), ` level ${page.level}, `];
  if (page.direct) head.push(`direct, gfn ${page.gfn}`);
  else head.push("of ", nameButton(view, { table: gpa }, `gpa ${gpa}`), page.has_4_byte_gpte ? ` part ${page.quadrant || 0}` : "");
  head.push(`, ${page.access}`);
  if (page.unsync) head.push(", ", element("strong", {}, "unsync"));
  if (page.unsync_children) head.push(`, ${page.unsync_children} unsync below`);
  if (page.invalid) head.push(", zapped");
  if (view.changes.made.has(name)) head.push(element("span", { class: "mark" }, " new"));
  if (seen.has(name)) return element("p", {}, head, element("span", { class: "dim" }, " (shown above)"));
  seen.add(name);
  const entries = shadowEntries(view, name, page);
  const rows = runsOf(entries).map((run) => shadowRow(view, seen, name, page, entries, run));
  const related = view.selected.page === name || (!page.direct && view.selected.table === gpa);
  const changed = view.changes.pages.has(name);
  return branch(view, name, head, rows, { related, changed, open: entries.some((entry) => entry.alone), root });
}

function shadowEntries(view, name, page) {
  const found = Object.entries(page.sptes).map(([index, text]) => {
    const change = view.changes.entries.has(`${name}[${index}]`) && !view.changes.made.has(name);
    const link = /^(S\d+)\|/.exec(text);
    const place = /^gpa:([0-9a-f]+)\|/.exec(text);
    return {
      index: Number(index), text, child: link && link[1],
      place: place ? BigInt("0x" + place[1]) : 0n,
      kind: place ? text.slice(text.indexOf("|")) : text,
      changed: change, old: view.changes.entries.get(`${name}[${index}]`),
      alone: Boolean(link) || change || view.walked.has(`${name}[${index}]`),
    };
  });
  for (const [entry, old] of view.changes.entries) {
    const [owner, index] = entry.slice(0, -1).split("[");
    if (owner !== name || page.sptes[index] !== undefined) continue;
    found.push({ index: Number(index), text: "empty", place: 0n, kind: "", changed: true, old, alone: true });
  }
  return found.sort((one, two) => one.index - two.index);
}

function shadowRow(view, seen, name, page, entries, run) {
  const entry = entries[run[0]];
  const decoded = entry.text === "empty" ? undefined : decodedSpte(entry.text, page.level);
  const more = run[0] === run[1] ? "" : ` .. ${entries[run[1]].text}`;
  const select = { kind: "spte", title: `${name}[${entry.index}] = ${entry.text}`, decoded };
  const row = [
    entryButton(view, select, `${indexText(entries, run)} ${entry.text}${more}`),
    " ", shortOf(decoded),
    entry.changed ? changeMark(entry.old || "empty", entry.text) : null,
  ];
  const attributes = { class: classes(entry.changed && "changed", view.walked.has(`${name}[${entry.index}]`) && "on-walk") };
  if (!entry.child || !view.moment.state.sps[entry.child]) return element("li", attributes, row);
  return element("li", attributes, row, shadowTable(view, seen, entry.child, "\u2192 ", false));
}

/* -- what both have in common ------------------------------------------------------------------------------ */

function branch(view, key, head, rows, { related, changed, open, root }) {
  const byHand = toggled.get(key);
  const isOpen = byHand === undefined ? root || open || rows.length < view.openRows : byHand;
  const summary = element("summary", { class: classes(related && "related", changed && "changed") }, head);
  const made = element("details", { open: isOpen }, summary);
  const fill = () => made.append(rows.length
    ? element("ul", { class: "entries" }, rows)
    : element("p", { class: "dim" }, "\u00a0 empty"));
  fill();
  made.addEventListener("toggle", () => toggled.set(key, made.open));
  return made;
}

function nameButton(view, select, text) {
  const pressed = select.page ? view.selected.page === select.page : view.selected.table === select.table;
  return element("button", {
    type: "button", class: "name", "aria-pressed": String(pressed),
    onclick: (event) => { event.preventDefault(); view.select(select); },
  }, text);
}

function entryButton(view, select, text) {
  return element("button", {
    type: "button", class: "entry", onclick: (event) => { event.preventDefault(); view.inspect(select); },
  }, text);
}

function shortOf(decoded) {
  return decoded && decoded.short ? element("span", { class: "dim" }, decoded.short) : null;
}

function changeMark(old, text) {
  return element("span", { class: "mark" }, old === text ? " written again" : ` was ${old}`);
}
