// Elements, built one by one. Data becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "class") element.setAttribute("class", value);
    else if (name in element && typeof element[name] === "boolean") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** h("p", {class: "lead", on: {click}}, "text", element): an element. Attributes that are null or false are left out. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG elements. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** Replace what an element holds. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A link of the pages; `current` marks the page that is shown. */
export function link(href, text, props) {
  return h("a", {href, ...props}, text);
}

/** A labelled choice. `options` are [value, text]; `change` gets the value. */
export function choice(label, options, value, change, props) {
  const select = h("select", {on: {change: (event) => change(event.target.value)}, ...props},
    options.map(([key, text]) => h("option", {value: key, selected: key === value}, text)));
  return h("label", {class: "field"}, h("span", {}, label), select);
}

/** Copy a text, and say so on the button. */
export function copyButton(text, label = "Copy") {
  const button = h("button", {type: "button", class: "quiet small"}, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy by hand";
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
}

/** Run `act` once, `wait` ms after the last call. */
export function later(act, wait) {
  let timer = 0;
  return (...words) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...words), wait);
  };
}
