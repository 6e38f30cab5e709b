/* Elements of the page, made without HTML text: nothing that a recording says can become markup. */

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === undefined || value === null) continue;
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function replaceChildren(id, ...children) {
  document.getElementById(id).replaceChildren(...children.flat(Infinity).filter((child) => child));
}

function classes(...names) {
  return names.filter(Boolean).join(" ") || undefined;
}
