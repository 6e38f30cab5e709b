/* What may be written at a place of a scenario, from the language's own table. No elements here, only text. */

const words = given.completions.words;
const SHOWN_COMPLETIONS = 40;

/* The statement of a line up to the cursor, taken apart: words before the one that is being written, and that one. */
function statementAt(text, cursor) {
  const line = text.slice(text.lastIndexOf("\n", cursor - 1) + 1, cursor);
  if (line.includes("#")) return undefined;
  const parts = line.split(/\s+/);
  if (parts[0] === "") parts.shift();
  const writing = parts.length ? parts[parts.length - 1] : "";
  let before = parts.slice(0, -1);
  if (/^@\d*$/.test(before[0] ?? "")) before = before.slice(1);
  if (before[0] === "meanwhile" && before.length >= 2) before = before.slice(2).filter((word) => !/^@\d+$/.test(word));
  return { before, writing };
}

function startedBefore(text, cursor) {
  const lines = text.slice(0, cursor).split("\n").slice(0, -1);
  return lines.some((line) => /^\s*start\b/.test(line));
}

/* A word's entry, whatever stands around its name: `map@1`, `uread`, `l2write`. */
function wordNamed(text) {
  const name = text.replace(/@\d*$/, "");
  return words.find((word) => word.name === name || word.forms.some((form) => form + word.name === name));
}

/* Short words first, `read` before `resetrings`; of equal ones those that may stand only here. */
function firstWords(started) {
  const found = [];
  for (const word of words) {
    if (!(started ? word.op : word.setup)) continue;
    const rank = word.setup && word.op ? 0.5 : 0;
    for (const form of started ? ["", ...word.forms] : [""]) {
      found.push({ text: form + word.name, means: word.means, rank: rank + form.length + word.name.length });
    }
  }
  return found.sort((one, two) => one.rank - two.rank);
}

/* What a usage offers after its word: alternatives a|b, options [a] and keys [a=N]; capitals stand for numbers. */
function optionsOf(word) {
  const found = [];
  for (const part of word.usage.split(" ").slice(1)) {
    const bare = part.replaceAll(/[[\]]/g, "");
    if (/^[a-z0-9]+=/.test(bare)) found.push(bare.slice(0, bare.indexOf("=") + 1));
    else if (/^[a-z0-9_]+(\|[a-z0-9_]+)*$/.test(bare)) found.push(...bare.split("|"));
  }
  return found.map((text) => ({ text, means: word.usage }));
}

function designWords(writing) {
  const [name, value] = writing.split("=");
  if (value === undefined) return Object.keys(given.completions.designs).map((each) => ({ text: `${each}=`, means: effectOf(each) }));
  return (given.completions.designs[name] ?? []).map((each) => ({ text: `${name}=${each}`, means: effectOf(name) }));
}

function effectOf(name) {
  for (const { switches } of given.menus.switches) {
    const found = switches.find((each) => each.name === name);
    if (found) return found.effect;
  }
  return "";
}

function paramWords(before, writing) {
  const inModule = given.menus.params.filter((param) => param.name.startsWith(`${before[1]}.`));
  const [name, value] = writing.split("=");
  if (value === undefined) return inModule.map((param) => ({ text: `${param.name.split(".")[1]}=`, means: `parameter of ${before[1]}` }));
  const param = inModule.find((each) => each.name === `${before[1]}.${name}`);
  return (param?.values ?? []).map((each) => ({ text: `${name}=${each}`, means: `parameter of ${before[1]}` }));
}

/* All that may stand where the cursor is, best first: {start, options: [{text, means}]}. */
function completionsAt(text, cursor) {
  const statement = statementAt(text, cursor);
  if (!statement) return { start: cursor, options: [] };
  const { before, writing } = statement;
  let options;
  if (!before.length || (before[0] === "npt" && before.length === 1)) {
    options = before.length ? [{ text: "map", means: "" }, { text: "pt", means: "" }] : firstWords(startedBefore(text, cursor));
    if (/^@\d*$/.test(writing)) options = [];
  } else if (before[0] === "design") options = designWords(writing);
  else if (before[0] === "param" && before.length > 1) options = paramWords(before, writing);
  else options = wordNamed(before[0] === "npt" ? before[1] : before[0]) ? optionsOf(wordNamed(before[0] === "npt" ? before[1] : before[0])) : [];
  const matching = options.filter(({ text: each }) => each.startsWith(writing) && each !== writing);
  return { start: cursor - writing.length, options: matching.slice(0, SHOWN_COMPLETIONS) };
}
