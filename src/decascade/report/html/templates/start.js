// The theme, and every section that has something to show.

const THEMES = ["light", "dark"];
function startTheme() {
  const button = byId("theme"), root = document.documentElement;
  const set = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
  };
  let stored = null;
  try { stored = localStorage.getItem("decascade-theme"); } catch { /* a frame without storage */ }
  const system = matchMedia("(prefers-color-scheme: dark)");
  set(THEMES.includes(stored) ? stored : system.matches ? "dark" : "light");
  system.addEventListener("change", (event) => stored || set(event.matches ? "dark" : "light"));
  button.addEventListener("click", () => {
    set((stored = root.dataset.theme === "dark" ? "light" : "dark"));
    try { localStorage.setItem("decascade-theme", stored); } catch { /* the same */ }
  });
  button.hidden = false;
}

startTheme();
if (before) startGraph();
if (byId("table")) startTable();
if (before) startCosts();
startMaps();
startActivations();
startCompression();
startLayers();
startMeasures();
addEventListener("keydown", (event) => { if (event.key === "Escape") unhint(); });
