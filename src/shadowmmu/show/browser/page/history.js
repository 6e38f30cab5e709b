/* All moments of the history, made once from its deltas. They share what did not change. */

const data = JSON.parse(document.getElementById("data").textContent);

/* The state after a delta of a recording: {set: {path: value}, del: [path]}, parts of a path joined by ":". */
function changedState(state, delta) {
  const root = { ...state };
  const fresh = new Map([["", root]]);
  const own = (parts) => {
    const path = parts.join(":");
    if (!fresh.has(path)) {
      const parent = own(parts.slice(0, -1));
      const last = parts[parts.length - 1];
      parent[last] = { ...parent[last] };
      fresh.set(path, parent[last]);
    }
    return fresh.get(path);
  };
  for (const path of delta.del || []) {
    const parts = path.split(":");
    delete own(parts.slice(0, -1))[parts[parts.length - 1]];
  }
  for (const [path, value] of Object.entries(delta.set)) {
    const parts = path.split(":");
    own(parts.slice(0, -1))[parts[parts.length - 1]] = value;
    fresh.delete(path);
  }
  return root;
}

/* Guest tables by gpa after changes [gpa, old, new]. */
function changedMemory(memory, changes, sizes) {
  const pages = { ...memory };
  const fresh = new Set();
  for (const [gpaText, , value] of changes) {
    const gpa = BigInt("0x" + gpaText);
    const page = (gpa & ~0xfffn).toString(16);
    if (!fresh.has(page)) {
      const held = pages[page] || { size: sizes[page], entries: {} };
      pages[page] = { size: held.size, entries: { ...held.entries } };
      fresh.add(page);
    }
    const index = Number(gpa & 0xfffn) / pages[page].size;
    if (value === "0") delete pages[page].entries[index];
    else pages[page].entries[index] = value;
  }
  return pages;
}

/* What an op changed, for highlighting: names of pages, of entries `S7[3]`, gpas of guest entries. */
function changesOf(op, before) {
  const found = { entries: new Map(), pages: new Set(), made: new Set(), freed: [], gptes: new Map() };
  const note = (page, index, old) => found.entries.set(`${page}[${index}]`, old);
  const oldSptes = (page) => (before && before.sps && before.sps[page] ? before.sps[page].sptes : {});
  for (const path of op.delta.del || []) {
    const parts = path.split(":");
    if (parts[0] !== "sps") continue;
    if (parts.length === 2) found.freed.push(parts[1]);
    else found.pages.add(parts[1]);
    if (parts.length === 4 && parts[2] === "sptes") note(parts[1], parts[3], oldSptes(parts[1])[parts[3]]);
  }
  for (const [path, value] of Object.entries(op.delta.set)) {
    const parts = path.split(":");
    if (parts[0] !== "sps" || parts.length < 2) continue;
    found.pages.add(parts[1]);
    if (parts.length === 2) {
      found.made.add(parts[1]);
      for (const index of Object.keys(value.sptes)) note(parts[1], index, undefined);
    } else if (parts[2] === "sptes" && parts.length === 4) {
      note(parts[1], parts[3], oldSptes(parts[1])[parts[3]]);
    } else if (parts[2] === "sptes") {
      const old = oldSptes(parts[1]);
      for (const index of Object.keys(value)) if (old[index] !== value[index]) note(parts[1], index, old[index]);
    }
  }
  found.freed = found.freed.filter((name) => !found.made.has(name));
  for (const [gpa, old, value] of op.changes || []) found.gptes.set(gpa, [old, value]);
  return found;
}

function allMoments() {
  let state = {};
  let memory = data.memory;
  let registers = {};
  return data.ops.map((op) => {
    const before = state;
    state = changedState(state, op.delta);
    if (op.changes) memory = changedMemory(memory, op.changes, op.sizes);
    if (op.registers) registers = { ...registers, ...op.registers };
    return { op, before, state, memory, registers };
  });
}

const moments = allMoments();

function momentAt(op) {
  return moments[op + 1];
}
