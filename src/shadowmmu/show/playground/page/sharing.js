/* Scenario and machine in the page's address: #s= with deflated JSON in base64url, or #lesson=NAME. */

async function through(bytes, transform) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(transform)).arrayBuffer());
}

async function packed(shared) {
  const bytes = await through(new TextEncoder().encode(JSON.stringify(shared)), new CompressionStream("deflate-raw"));
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/* What an address shares, or undefined if that is nothing that can be read. */
async function unpacked(text) {
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
    const shared = JSON.parse(new TextDecoder().decode(await through(bytes, new DecompressionStream("deflate-raw"))));
    return typeof shared.text === "string" ? { text: shared.text, settings: cleaned(shared.settings) } : undefined;
  } catch {
    return undefined;
  }
}

/* Settings of an address, without anything that the menus do not have. */
function cleaned(shared) {
  const named = (held, names) => Object.fromEntries(Object.entries(held ?? {}).filter(([name, value]) => names.has(name) && typeof value === "string"));
  const switches = new Set(Object.keys(given.completions.designs));
  const params = new Set(given.menus.params.map((param) => param.name));
  return {
    kernel: shared?.kernel in given.menus.kernels ? shared.kernel : "",
    vendor: given.menus.vendors.includes(shared?.vendor) ? shared.vendor : "",
    params: named(shared?.params, params),
    designs: named(shared?.designs, switches),
    tlb: shared?.tlb === true,
  };
}
