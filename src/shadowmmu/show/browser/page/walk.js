/* Walks of an address through the guest's tables and through KVM's, as shadowmmu.show.history.walk makes them. */

const PS = 1n << 7n;
const ADDRESS = 0x000ffffffffff000n;

const indexBits = (levels) => (levels === 2 ? 10n : 9n);
const entryBytes = (levels) => (levels === 2 ? 4n : 8n);
const levelShift = (levels, level) => 12n + indexBits(levels) * BigInt(level - 1);

function indexOf(levels, level, address) {
  if (levels === 3 && level === 3) return (address >> 30n) & 3n;
  return (address >> levelShift(levels, level)) & ((1n << indexBits(levels)) - 1n);
}

/* How a vCPU walks: its own tables, or those that it makes for its L2. */
function formatOf(registers, nested) {
  return {
    levels: nested ? registers.nestedLevels : registers.levels,
    root: BigInt("0x" + (nested ? registers.nestedRoot : registers.root)),
    nx: registers.nx,
    pse: registers.pse,
  };
}

function isLeaf(format, value, level) {
  if (level === 1 || !(value & PS)) return level === 1;
  return (level === 2 && (format.levels > 2 || format.pse)) || (level === 3 && format.levels > 3);
}

/* The address bits of a present entry, those that the key of its decoded form leaves out. */
function addressBits(format, value, level) {
  const leaf = isLeaf(format, value, level);
  if (format.levels === 2) return leaf && level === 2 ? 0xffc00000n : 0xfffff000n;
  const shift = leaf ? levelShift(format.levels, level) : 12n;
  return ADDRESS & ((1n << BigInt(data.maxphyaddr)) - 1n) & ~((1n << shift) - 1n);
}

function gptePhysical(format, value, level) {
  const leaf = isLeaf(format, value, level);
  if (format.levels === 2) {
    if (!(leaf && level === 2)) return value & 0xfffff000n;
    return (value & 0xffc00000n) | (((value >> 13n) & 0xfn) << 32n);
  }
  const shift = leaf ? levelShift(format.levels, level) : 12n;
  return value & ADDRESS & ~((1n << shift) - 1n);
}

function decodedGpte(format, value, level) {
  if (!(value & 1n)) return data.decoded.gpte["0"];
  const bits = value & ~addressBits(format, value, level);
  const key = `${format.levels}/${level}/${format.nx ? 1 : 0}${format.pse ? 1 : 0}/${bits.toString(16)}`;
  return data.decoded.gpte[key];
}

function decodedSpte(text, level) {
  const bar = text.indexOf("|");
  return data.decoded.spte[`${level}:${bar < 0 ? text : text.slice(bar)}`];
}

function hasReserved(decoded) {
  return decoded.implies.some((sentence) => sentence.startsWith("Reserved"));
}

/* The entry at a gpa as a number; undefined if it was not recorded. */
function guestEntry(memory, gpa, size) {
  const page = memory[(gpa & ~0xfffn).toString(16)];
  if (!page) return undefined;
  const offset = Number(gpa & 0xfffn);
  if (page.size === Number(size)) return BigInt("0x" + (page.entries[offset / page.size] || "0"));
  const wide = BigInt(page.size);
  let value = 0n; /* the page was written in entries of another size */
  for (let byte = 0; byte < Number(size); byte++) {
    const at = BigInt(offset + byte);
    const held = BigInt("0x" + (page.entries[Number(at / wide)] || "0"));
    value |= ((held >> (8n * (at % wide))) & 0xffn) << (8n * BigInt(byte));
  }
  return value;
}

function guestWalk(moment, vcpu, address, nested) {
  const format = formatOf(moment.registers[vcpu], nested);
  if (!format.levels) return { steps: [], gpa: address, end: "without paging the address is physical" };
  const size = entryBytes(format.levels);
  const steps = [];
  let table = format.root;
  for (let level = format.levels; level > 0; level--) {
    const index = indexOf(format.levels, level, address);
    const gpa = table + index * size;
    const value = guestEntry(moment.memory, gpa, size);
    const decoded = value === undefined ? undefined : decodedGpte(format, value, level);
    const step = { level, table: `gpa ${table.toString(16)}`, index: Number(index), gpa, decoded };
    step.value = value === undefined ? "not recorded" : value.toString(16);
    steps.push(step);
    const stop = (end) => ({ steps, gpa: undefined, end });
    if (value === undefined) return stop(`what is at gpa 0x${table.toString(16)} was not recorded`);
    if (!(value & 1n)) return stop(`the entry of level ${level} is not present: #PF for the guest`);
    if (decoded && hasReserved(decoded)) {
      return stop(`the entry of level ${level} has reserved bits set: #PF with RSVD`);
    }
    const physical = gptePhysical(format, value, level);
    if (isLeaf(format, value, level)) {
      const offset = address & ((1n << levelShift(format.levels, level)) - 1n);
      const gpa = physical + offset;
      return { steps, gpa, end: `leads to gpa 0x${gpa.toString(16)}` };
    }
    table = physical;
  }
  throw new Error("level 1 is always a leaf");
}

function shadowWalk(moment, mmu, address) {
  const ends = { invalid: "the vCPU has no root: it is made at the next entry", dummy: "the root is a dummy page" };
  if (mmu.root in ends) return { steps: [], end: ends[mmu.root] };
  if (mmu.root.startsWith("?")) return { steps: [], end: "the root is no shadow page" };
  const steps = [];
  let text = `${mmu.root}|`;
  if (mmu.root === "pae_root" || mmu.root === "pml4_root") {
    const index = Number((address >> 30n) & 3n);
    text = mmu.pae_root[index];
    steps.push({ level: 3, table: "pae_root", index, value: text, decoded: decodedSpte(text, 3) });
  }
  for (;;) {
    const link = /^(S\d+)\|/.exec(text);
    if (!link) break;
    const page = moment.state.sps[link[1]];
    if (!page) return { steps, end: `${link[1]} is no page of this state` };
    const index = Number((address >> (12n + 9n * BigInt(page.level - 1))) & 511n);
    text = page.sptes[index] || "";
    const decoded = text ? decodedSpte(text, page.level) : undefined;
    steps.push({ level: page.level, table: link[1], index, value: text || "empty", decoded });
  }
  const last = steps[steps.length - 1];
  if (!last) return { steps, end: "there is no root" };
  const name = `${last.table}[${last.index}]`;
  if (!text || text.startsWith("none")) {
    return { steps, end: `nothing is mapped: ${name} is empty, an access faults to KVM` };
  }
  if (text.startsWith("mmio:")) return { steps, end: "an MMIO SPTE: the access is emulated" };
  if (text === "frozen") return { steps, end: "frozen: another CPU is changing it" };
  return { steps, end: `mapped by ${name}` };
}

/* Both walks of an address. KVM's tables are walked for the gpa with nested paging, else for the address. */
function translate(moment, vcpu, address, l2) {
  const guest = guestWalk(moment, vcpu, address, l2);
  const vcpuState = moment.state.vcpus[vcpu];
  const mmu = l2 ? vcpuState.guest_mmu : vcpuState;
  const target = data.tdp && !l2 ? guest.gpa : address;
  if (target === undefined) {
    return { guest, shadow: { steps: [], end: "the guest's tables lead to no address that KVM could map" } };
  }
  return { guest, shadow: shadowWalk(moment, mmu, target) };
}
