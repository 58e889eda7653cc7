"use strict";
// Small helpers: elements are made from nodes and text, never from markup, so that no sentence can become HTML.
const make = (name, properties = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === "") continue;
    if (key === "class") element.className = value;
    else if (key in element && typeof value !== "string") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
};
// Marks that turn the direction of text around are written out, so that a sentence reads as it is stored.
const visible = (text) =>
  text.replace(/[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]/g, (mark) =>
    "[U+" + mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "]");
const sentence = (text, tag) => make("p", { class: "sentence", dir: "auto", lang: tag }, visible(text));
// The shortest digits that give a float32 back exactly.
const float32Text = (value) => {
  for (let digits = 6; digits < 10; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(value);
};
const bytesOf = (base64) => {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);  // a map of 9 × 1000 sentences has 40 million
  return bytes;
};
