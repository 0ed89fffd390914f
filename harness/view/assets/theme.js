// Light or dark: as the system has it, until the button is pressed.

function stored(value) {
  try {
    if (value) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch {
    return null; // a private window
  }
}

export function wireTheme(button) {
  const root = document.documentElement, dark = window.matchMedia("(prefers-color-scheme: dark)");
  const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const remembered = stored();
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;
  const label = () => button.setAttribute("aria-label", now() === "dark" ? "Light theme" : "Dark theme");
  label();
  button.addEventListener("click", () => {
    root.dataset.theme = stored(now() === "dark" ? "light" : "dark") || (now() === "dark" ? "light" : "dark");
    label();
  });
}
