/* Python and the model. Nothing can be fetched here: what Pyodide asks for are the files that it was given. */
"use strict";

let answer;

async function load(files) {
  // Pyodide wants a worker of modules, which a page from the disk cannot have; it only tries importScripts()
  self.importScripts = () => { throw new Error("not in this worker"); };
  self.fetch = async (address) => {
    const name = String(address).replace("embedded:/", "");
    if (!(name in files)) throw new Error(`${address} is not in this folder`);
    return new Response(files[name], { headers: { "Content-Type": name.endsWith(".wasm") ? "application/wasm" : "application/octet-stream" } });
  };
  const module = (name) => import(URL.createObjectURL(new Blob([files[name]], { type: "text/javascript" })));
  const { loadPyodide } = await module("pyodide.mjs");
  const { default: createPyodideModule } = await module("pyodide.asm.mjs");
  const pyodide = await loadPyodide({
    indexURL: "embedded:/",
    createPyodideModule,
    lockFileContents: await files["pyodide-lock.json"].text(),
    env: { SHADOWMMU_INTERPRETED: "1" },
  });
  postMessage({ status: "Loading the model" });
  pyodide.unpackArchive(await files["model.zip"].arrayBuffer(), "zip", { extractDir: "/model" });
  pyodide.runPython("import sys; sys.path.insert(0, '/model')");
  answer = pyodide.pyimport("shadowmmu.show.playground.session").answer;
  postMessage({ status: "Ready", ready: true });
}

self.onmessage = async ({ data }) => {
  try {
    if (data.files) await load(data.files);
    else postMessage({ answer: answer(data.question) });
  } catch (error) {
    if (data.files) postMessage({ failed: error.message || String(error) });
    else postMessage({ answer: JSON.stringify({ error: { line: null, text: `the model failed, which is a defect of it: ${lastLine(error)}` } }) });
  }
};

function lastLine(error) {
  return String(error.message).trim().split("\n").pop();
}
