/* The model in its worker: one question at a time, the last one that was asked; it can be stopped. */

const model = { worker: undefined, waiting: undefined, next: undefined, ready: false, failed: undefined };

async function unzipped(name) {
  const text = atob(globalThis.embedded[name]);
  const bytes = new Uint8Array(text.length);
  for (let n = 0; n < text.length; n++) bytes[n] = text.charCodeAt(n);
  delete globalThis.embedded[name];
  return through(bytes, new DecompressionStream("gzip"));
}

let kept;

/* The runtime's files, kept for another worker after a stop. */
function runtimeFiles() {
  kept ??= Promise.all(given.files.map(async (name) => [name, new Blob([await unzipped(name)])])).then(Object.fromEntries);
  return kept;
}

async function startModel() {
  model.ready = false;
  model.failed = undefined;
  document.dispatchEvent(new CustomEvent("model", { detail: "Loading Python" }));
  try {
    const files = await runtimeFiles();
    const worker = new Worker(URL.createObjectURL(new Blob([given.worker], { type: "text/javascript" })));
    model.worker = worker;
    worker.onmessage = ({ data }) => { if (model.worker === worker) onModel(data); };
    worker.onerror = (event) => failModel(event.message || "the browser does not start the worker");
    worker.postMessage({ files });
  } catch (error) {
    failModel(String(error));
  }
}

function failModel(why) {
  model.failed = why;
  model.waiting?.({ error: { line: null, text: `the model cannot run: ${why}` } });
  model.waiting = undefined;
  document.dispatchEvent(new CustomEvent("model", { detail:
    `The model cannot run in this browser: ${why}. If the page was opened from the disk, run python3 -m http.server in its folder and open localhost:8000 instead` }));
}

function onModel(data) {
  if (data.failed) { failModel(data.failed); return; }
  if (data.status) {
    model.ready = data.ready === true;
    document.dispatchEvent(new CustomEvent("model", { detail: data.status }));
  } else {
    const answered = model.waiting;
    model.waiting = undefined;
    answered?.(JSON.parse(data.answer));
  }
  if (model.ready && model.next && !model.waiting) {
    const { question, answered } = model.next;
    model.next = undefined;
    model.waiting = answered;
    model.worker.postMessage({ question: JSON.stringify(question) });
  }
}

/* Ask; a question that waits for its turn is replaced by the next one, and is answered undefined. */
function ask(question) {
  if (model.failed !== undefined) return Promise.resolve({ error: { line: null, text: `the model cannot run: ${model.failed}` } });
  return new Promise((answered) => {
    model.next?.answered(undefined);
    model.next = { question, answered };
    if (model.ready && !model.waiting) {
      model.next = undefined;
      model.waiting = answered;
      model.worker.postMessage({ question: JSON.stringify(question) });
    }
  });
}

/* End what is running; Python is loaded anew. */
function stopModel() {
  model.worker?.terminate();
  model.waiting?.(undefined);
  model.next?.answered(undefined);
  model.waiting = model.next = undefined;
  startModel();
}
