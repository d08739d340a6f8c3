// Elements from code. Whatever was stored by anybody becomes a text node or an attribute's value, never markup:
// the page's security policy (trusted types) refuses everything else.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function $(id) {
  return document.getElementById(id);
}

const whole = new Intl.NumberFormat("en");

export function count(n, one, many = `${one}s`) {
  return `${whole.format(n)} ${n === 1 ? one : many}`;
}

export function number(n) {
  return whole.format(n);
}

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const units = ["KB", "MB", "GB", "TB"];
  let i = -1;
  do {
    n /= 1024;
    i += 1;
  } while (n >= 1024 && i < units.length - 1);
  return `${n < 10 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(share === 1 ? 0 : digits)}%`;
}

const moment = new Intl.DateTimeFormat("en", {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: "UTC",
});

export function when(text) {
  const time = new Date(text);
  // JavaScript ends before Python's datetime.max, and says "Invalid Date" there.
  return h("time", { datetime: text, title: text }, Number.isNaN(time.valueOf()) ? text : `${moment.format(time)} UTC`);
}

export function short(id) {
  return /^[0-9a-f]{32}$/.test(id) ? id.slice(0, 8) : id;
}

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function rgb(name) {
  const hex = color(name).slice(1);
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}
