// Light and dark: what the system prefers, until the button says otherwise; paper is always light.
const theme = (() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : preferred.matches);
  const tell = () => {
    button.textContent = dark() ? "Light colours" : "Dark colours";
    for (const listener of listeners) listener();
  };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; tell(); });
  preferred.addEventListener("change", tell);
  let before = null;
  addEventListener("beforeprint", () => { before = root.dataset.theme ?? ""; root.dataset.theme = "light"; tell(); });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    tell();
  });
  tell();
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  return { colour, onChange: (listener) => listeners.push(listener) };
})();
