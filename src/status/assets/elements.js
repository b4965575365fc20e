"use strict";
// Elements of the page. Data is set as text or as the address of a link, never as markup. Elements
// are only changed if their content differs, so that focus and selection are preserved.

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// Only sets web addresses, whatever the settings or Prefect contain.
function setLink(node, url) {
  setAttribute(node, "href", url !== null && /^(https?:\/\/|[a-z]+$)/.test(url) ? url : null);
}

function make(name, className, parent) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (parent) parent.append(node);
  return node;
}

// Ensures that `parent` has one child per item, in order. Children of existing items are reused.
function list(parent, items, key, create, update) {
  const wanted = new Map();
  for (const item of items) {
    let name = key(item);
    while (wanted.has(name)) name += " "; // items with the same key remain separate
    wanted.set(name, item);
  }
  const focused = document.activeElement;
  const present = new Map();
  for (const child of Array.from(parent.children)) {
    if (wanted.has(child.dataset.key)) present.set(child.dataset.key, child);
    else child.remove();
  }
  let next = parent.firstElementChild;
  for (const [name, item] of wanted) {
    let child = present.get(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    update(child, item);
  }
  // An element loses the focus when it is moved.
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

// The rows of a table. A cell is a text, or {text, small, link, code, className, share}. The first
// cell is the row's header.
function rows(id, items, key, cells, columns) {
  const table = byId(id);
  table.hidden = items.length === 0;
  const create = () => {
    const row = document.createElement("tr");
    columns.forEach((className, index) => {
      const cell = make(index === 0 ? "th" : "td", className, row);
      if (index === 0) cell.scope = "row";
    });
    return row;
  };
  list(table.tBodies[0], items, key, create, (row, item) => {
    cells(item).forEach((content, index) => fill(row.children[index], columns[index], content));
  });
}

function fill(cell, className, content) {
  const given = typeof content === "object" ? content : { text: content };
  const wanted = [
    given.share !== undefined && ["span", "share " + given.className],
    [given.link ? "a" : "span", given.share === undefined ? given.className || "" : ""],
    given.small && ["small", ""],
  ].filter(Boolean);
  const fits = wanted.length === cell.children.length &&
    wanted.every(([tag], index) => cell.children[index].tagName.toLowerCase() === tag);
  if (!fits) cell.replaceChildren(...wanted.map(([tag]) => document.createElement(tag)));
  setClass(cell, className || "");
  wanted.forEach(([, name], index) => setClass(cell.children[index], name));
  const parts = Array.from(cell.children);
  if (given.share !== undefined) {
    const bar = parts.shift();
    bar.setAttribute("aria-hidden", "true");
    bar.style.width = (given.share * 60).toFixed(1) + "%";
  }
  const [main, small] = parts;
  setText(main, given.text);
  if (given.code) main.classList.add("code");
  if (given.link) setLink(main, given.link);
  if (small) setText(small, given.small);
}
