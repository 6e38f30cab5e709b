/* The machine: kernel, vendor, parameters and switches, as far as they are not the scenario's. */

const settings = { kernel: "", vendor: "", params: {}, designs: {}, tlb: false };

function option(value, text) {
  return element("option", { value }, text);
}

/* The value of a switch that the chosen kernel has, as far as the menus can know it. */
function kernelsValue(each) {
  const kernel = settings.kernel || Object.keys(given.menus.kernels)[0];
  return given.menus.kernels[kernel][each.name] ?? each.default;
}

function drawMenus() {
  document.getElementById("kernel").value = settings.kernel;
  document.getElementById("vendor").value = settings.vendor;
  document.getElementById("tlb").checked = settings.tlb;
  for (const input of document.querySelectorAll("[data-param]")) input.value = settings.params[input.dataset.param] ?? "";
  for (const { switches } of given.menus.switches) {
    for (const each of switches) {
      const select = document.getElementById(`switch-${each.name}`);
      select.options[0].textContent = `${kernelsValue(each)} (kernel's)`;
      select.value = settings.designs[each.name] ?? "";
      select.closest(".switch").classList.toggle("set", each.name in settings.designs);
    }
  }
  const set = [settings.kernel, settings.vendor, settings.tlb ? "TLB" : "",
    ...[settings.params, settings.designs].flatMap((each) => Object.entries(each).map((pair) => pair.join("=")))].filter(Boolean);
  document.getElementById("machine-summary").textContent = `Machine: ${set.join(" ") || "as the scenario says"}`;
}

function change(what) {
  Object.assign(settings, what);
  drawMenus();
  document.dispatchEvent(new Event("scenario"));
}

function without(held, name, value) {
  const { [name]: _, ...rest } = held;
  return value === "" ? rest : { ...rest, [name]: value };
}

function paramMenu({ name, values }) {
  const input = values.length
    ? element("select", { "data-param": name }, option("", "as it is"), ...values.map((each) => option(each, each)))
    : element("input", { "data-param": name, size: "5", inputmode: "numeric", placeholder: "as it is" });
  input.addEventListener("change", () => change({ params: without(settings.params, name, input.value.trim()) }));
  return element("label", {}, `${name} `, input);
}

function switchMenu(each) {
  const mark = (value) => (each.unsafe.includes(value) ? `${value}, unsafe` : value);
  const select = element("select", { id: `switch-${each.name}`, "aria-describedby": `about-${each.name}` },
    option("", each.default), ...each.values.map((value) => option(value, mark(value))));
  select.addEventListener("change", () => change({ designs: without(settings.designs, each.name, select.value) }));
  return element("div", { class: "switch", "data-text": `${each.name} ${each.effect}`.toLowerCase() },
    element("label", { for: `switch-${each.name}` }, each.name), select,
    element("p", { id: `about-${each.name}` }, `${each.effect} [${each.origin}]`));
}

function findSwitches() {
  const wanted = document.getElementById("find").value.trim().toLowerCase();
  for (const each of document.querySelectorAll(".switch")) each.hidden = !each.dataset.text.includes(wanted);
}

function startMenus() {
  const kernels = Object.keys(given.menus.kernels);
  document.getElementById("kernel").append(option("", `${kernels[0]} (default)`), ...kernels.map((each) => option(each, each)));
  document.getElementById("vendor").append(option("", "as it is"), ...given.menus.vendors.map((each) => option(each, each)));
  document.getElementById("params").append(...given.menus.params.map(paramMenu));
  for (const { title, switches } of given.menus.switches) {
    document.getElementById("switches").append(element("h3", {}, title), ...switches.map(switchMenu));
  }
  document.getElementById("kernel").addEventListener("change", (event) => change({ kernel: event.target.value }));
  document.getElementById("vendor").addEventListener("change", (event) => change({ vendor: event.target.value }));
  document.getElementById("tlb").addEventListener("change", (event) => change({ tlb: event.target.checked }));
  document.getElementById("reset").addEventListener("click", () => change({ kernel: "", vendor: "", params: {}, designs: {}, tlb: false }));
  document.getElementById("find").addEventListener("input", findSwitches);
  drawMenus();
}
