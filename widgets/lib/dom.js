// Elements without strings of HTML: text is always text, so nothing a model or a file says becomes markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.setAttribute("class", value);
    else if (name === "style") Object.entries(value).forEach(([k, v]) => node.style.setProperty(k, v));
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element: h("p", { class: "note" }, "text", other). Strings among the children are text. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A button that does something; `reason` greys it out and says why, to the eye and to a screen reader. */
export function button(label, onclick, { reason = "", title = "", pressed, name, ...more } = {}) {
  const node = h("button", { type: "button", title: reason || title, "aria-label": name, ...more }, label);
  if (pressed !== undefined) node.setAttribute("aria-pressed", String(pressed));
  if (reason) node.setAttribute("aria-disabled", "true");
  node.addEventListener("click", (event) => {
    if (node.getAttribute("aria-disabled") !== "true") onclick(event);
  });
  return node;
}

/** A labelled choice; options are [value, text]. */
export function choice(label, options, value, onchange) {
  const select = h("select", { "aria-label": label }, options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  select.addEventListener("change", () => onchange(select.value));
  return h("label", { class: "wb-field" }, h("span", {}, label), select);
}
